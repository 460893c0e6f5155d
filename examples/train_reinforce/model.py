"""The policy before it has learned anything: a Qwen3 of 2 layers with random weights, under Qwen3's tokenizer cut short.

    VENV/bin/python model.py TOKENIZER_DIR DIR [SEED]

A CPU spends most of its time on the vocabulary, so only the first 12,288 tokens of 151,643 are kept, and the control tokens
after them. Invariant: text is cut as Qwen3 cuts it wherever it needs no dropped token, and the chat template is Qwen3's own.
"""

import json
import shutil
import sys
from pathlib import Path

KEPT = 12_288


def cut_tokenizer(source: Path, folder: Path) -> dict[str, int]:
    """Writes the shorter tokenizer; its control tokens by name."""
    folder.mkdir(parents=True, exist_ok=True)
    whole = json.loads((source / "tokenizer.json").read_text())
    bpe = whole["model"]
    bpe["vocab"] = {token: at for token, at in bpe["vocab"].items() if at < KEPT}
    bpe["merges"] = [pair for pair in bpe["merges"] if _merged(pair) in bpe["vocab"]]
    moved = {token["id"]: KEPT + at for at, token in enumerate(whole["added_tokens"])}
    for token in whole["added_tokens"]:
        token["id"] = moved[token["id"]]
    (folder / "tokenizer.json").write_text(json.dumps(whole, ensure_ascii=False))
    settings = json.loads((source / "tokenizer_config.json").read_text())
    listed = settings["added_tokens_decoder"]
    settings["added_tokens_decoder"] = {str(moved[int(at)]): token for at, token in listed.items()}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, ensure_ascii=False, indent=1))
    shutil.copyfile(source / "chat_template.jinja", folder / "chat_template.jinja")
    return {token["content"]: token["id"] for token in whole["added_tokens"]}


def _merged(pair: str | list[str]) -> str:
    return "".join(pair.split(" ") if isinstance(pair, str) else pair)


def make(tokenizer: Path, folder: Path, seed: int) -> None:
    import torch
    from transformers import GenerationConfig, Qwen3Config, Qwen3ForCausalLM

    control = cut_tokenizer(tokenizer, folder)
    end_of_turn, end_of_text = control["<|im_end|>"], control["<|endoftext|>"]
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=KEPT + len(control),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=4096,
        tie_word_embeddings=False,
        bos_token_id=end_of_text,
        eos_token_id=end_of_turn,
    )
    model = Qwen3ForCausalLM(config).to(torch.float32)
    model.generation_config = GenerationConfig(bos_token_id=end_of_text, eos_token_id=[end_of_turn, end_of_text])
    model.save_pretrained(folder)


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    make(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) == 4 else 1)
