"""A small model for engine tests: random 2-layer Qwen3 weights under the real Qwen3 tokenizer and chat template.

    VENV/bin/python tiny_qwen3.py TOKENIZER_DIR DIR [moe]

With `moe` each layer is a mixture of 8 experts, of which an id goes to 2.

VENV has torch and transformers (sglang-cpu.sh makes one). TOKENIZER_DIR comes from scripts/fetch_tokenizers.sh. The same
command always makes the same weights. The model writes nonsense, but its logprobs are those of a real forward pass.
"""

import pathlib
import shutil
import sys

SEED = 20240607
END_OF_TURN, END_OF_TEXT = 151_645, 151_643


def make(tokenizer: pathlib.Path, folder: pathlib.Path, *, moe: bool) -> None:
    import torch
    from transformers import GenerationConfig, Qwen3Config, Qwen3ForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

    folder.mkdir(parents=True, exist_ok=True)
    mixture = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "norm_topk_prob": True}
    config = (Qwen3MoeConfig if moe else Qwen3Config)(
        vocab_size=151_936,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=8192,
        tie_word_embeddings=False,
        bos_token_id=END_OF_TEXT,
        eos_token_id=END_OF_TURN,
        **(mixture if moe else {}),
    )
    model = (Qwen3MoeForCausalLM if moe else Qwen3ForCausalLM)(config).to(torch.float32)
    draw = torch.Generator().manual_seed(SEED)
    for name, weight in sorted(model.named_parameters()):
        if weight.dim() > 1:  # a wide head: some tokens are clearly likelier than others
            torch.nn.init.normal_(weight, std=0.8 if name == "lm_head.weight" else 0.3, generator=draw)
    model.generation_config = GenerationConfig(bos_token_id=END_OF_TEXT, eos_token_id=[END_OF_TURN, END_OF_TEXT])
    model.save_pretrained(folder)
    for file in tokenizer.iterdir():  # last: a folder that has them is complete
        shutil.copyfile(file, folder / file.name)


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4) or sys.argv[3:] not in ([], ["moe"]):
        sys.exit(__doc__)
    make(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), moe=len(sys.argv) == 4)
