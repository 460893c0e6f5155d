"""Finding a model's own tokenizer on this machine.

Invariant: what is found is the model's own, by its exact name or by a place that a person or the engine gave; nothing guesses,
and no code that comes with a model is ever run.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct, field

from perdure.tokens.base import TokenizerNotFound
from perdure.tokens.gguf import gguf_tokenizer, read_metadata
from perdure.tokens.hf import HfTokenizer, from_json

KEPT_TOKENIZERS = 16
HUB_FILES = ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json", "config.json"]
_EXPERT_NAMES = (
    ("num_hidden_layers",),
    ("num_experts_per_tok", "moe_topk"),
    ("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts"),
)
_SPECIAL_NAMES = ("bos_token", "eos_token", "pad_token", "unk_token", "cls_token", "sep_token", "mask_token")


class ModelTokens(Struct, frozen=True):
    """A model's tokenizer and what stands beside it. `special`: token texts its chat template may name. `source`: the place.
    `experts`: (layers, experts an id goes to, experts of a layer) of a mixture of experts."""

    tokenizer: HfTokenizer
    chat_template: str | None
    source: str
    special: dict[str, str] = field(default_factory=dict)
    stop_token_ids: tuple[int, ...] = ()
    experts: tuple[int, int, int] | None = None


def find_tokenizer(
    model_name: str,
    *,
    setting: str | None = None,
    tokenizers_dir: Path | None = None,
    engine_path: str | None = None,
    hf_cache: Path | None = None,
    allow_hub: bool = False,
) -> ModelTokens:
    """The first of: `setting` (a folder, a file or a hub name), `tokenizers_dir`/<model name>, the engine's own path if it is
    here, the Hugging Face cache, the hub. Takes about a second: call it in a thread.

    `hf_cache`: see `default_hf_cache`. TokenizerNotFound says where was looked and how to give one.
    """
    tried: list[str] = []
    if setting:
        return _from_setting(model_name, setting, hf_cache, allow_hub)
    for place in _places(model_name, tokenizers_dir, engine_path, hf_cache):
        found = load(place, model_name)
        if found is not None:
            return found
        tried.append(str(place))
    if allow_hub:
        return _from_hub(model_name, model_name, hf_cache)
    raise _not_found(model_name, f"Looked in: {', '.join(tried)}." if tried else "No place to look in was given.")


def default_hf_cache(environ: Mapping[str, str]) -> Path:
    """Where the Hugging Face libraries keep what they downloaded."""
    if cache := environ.get("HF_HUB_CACHE"):
        return Path(cache)
    if home := environ.get("HF_HOME"):
        return Path(home) / "hub"
    base = environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "huggingface" / "hub"


def load(place: Path, model_name: str) -> ModelTokens | None:
    """The tokenizer in a folder, of a tokenizer.json or in a .gguf file; None if there is none. Kept per file and its time."""
    definition = place / "tokenizer.json" if place.is_dir() else place
    if not definition.is_file() or definition.suffix not in (".json", ".gguf"):
        return None
    stamps = [file.stat().st_mtime_ns for name in HUB_FILES if (file := definition.parent / name).is_file()]
    key = (str(definition.resolve()), definition.stat().st_mtime_ns, tuple(stamps))
    with _lock:
        found = _kept.get(key)
        if found is None:
            read = _read_gguf if definition.suffix == ".gguf" else _read_folder
            try:
                found = read(definition, model_name)
            except (OSError, ValueError, msgspec.MsgspecError) as broken:
                raise TokenizerNotFound(
                    f"The tokenizer of {model_name} in {definition} cannot be read: {broken}"
                ) from broken
            _kept[key] = found
            if len(_kept) > KEPT_TOKENIZERS:
                _kept.popitem(last=False)
        _kept.move_to_end(key)
        return found


_lock = threading.Lock()
_kept: OrderedDict[tuple[Any, ...], ModelTokens] = OrderedDict()


def _places(
    model_name: str, tokenizers_dir: Path | None, engine_path: str | None, hf_cache: Path | None
) -> Iterator[Path]:
    if tokenizers_dir is not None:
        root, folder = tokenizers_dir.resolve(), (tokenizers_dir / model_name).resolve()
        if folder != root and folder.is_relative_to(root):
            yield folder
    if engine_path and Path(engine_path).is_absolute():
        yield Path(engine_path)
    if hf_cache is not None:
        for name in dict.fromkeys((model_name, engine_path or model_name)):
            yield from _snapshots(hf_cache, name)


def _snapshots(hf_cache: Path, name: str) -> Iterator[Path]:
    """The revision that `main` points to, then the newest others."""
    if name.startswith(("/", ".")) or ".." in name or name.count("/") > 1:
        return
    repository = hf_cache / f"models--{name.replace('/', '--')}"
    main = repository / "refs" / "main"
    if main.is_file():
        yield repository / "snapshots" / main.read_text().strip()
    if (repository / "snapshots").is_dir():
        yield from sorted((repository / "snapshots").iterdir(), key=lambda folder: -folder.stat().st_mtime_ns)


def _from_setting(model_name: str, setting: str, hf_cache: Path | None, allow_hub: bool) -> ModelTokens:
    place = Path(setting).expanduser()
    found = load(place, model_name)
    if found is not None:
        return found
    for snapshot in _snapshots(hf_cache, setting) if hf_cache is not None else ():
        if (found := load(snapshot, model_name)) is not None:
            return found
    if allow_hub and not place.is_absolute():
        return _from_hub(model_name, setting, hf_cache)
    raise _not_found(model_name, f"The setting names {setting!r}, where there is none.")


def _from_hub(model_name: str, repository: str, hf_cache: Path | None) -> ModelTokens:
    try:
        from huggingface_hub import snapshot_download
    except ImportError as missing:
        raise _not_found(model_name, "The hub was not asked: install `perdure[hub]` for that.") from missing
    try:
        folder = snapshot_download(repository, allow_patterns=HUB_FILES, cache_dir=hf_cache)
    except Exception as failed:  # the hub's client has many kinds of failure, and all mean the same here
        raise _not_found(
            model_name, f"The hub has no {repository} for us: {type(failed).__name__}: {failed}"
        ) from failed
    found = load(Path(folder), model_name)
    if found is None:
        raise _not_found(model_name, f"The hub's {repository} has no tokenizer.json.")
    return found


def _read_folder(definition: Path, model_name: str) -> ModelTokens:
    folder = definition.parent
    config, model = _json_object(folder / "tokenizer_config.json"), _json_object(folder / "config.json")
    rows = model.get("vocab_size") or (model.get("text_config") or {}).get("vocab_size")
    snapshot = folder.name if folder.parent.name == "snapshots" else None
    tokenizer = from_json(definition.read_bytes(), name=model_name, vocab_size=rows, revision=snapshot)
    special = {name: text for name in _SPECIAL_NAMES if (text := _token_text(config.get(name))) is not None}
    generation = _json_object(folder / "generation_config.json")
    stops = generation.get("eos_token_id")
    ids = stops if isinstance(stops, list) else [] if stops is None else [stops]
    if (eos := tokenizer.special_id(special.get("eos_token", ""))) is not None:
        ids = [*ids, eos]
    return ModelTokens(
        tokenizer,
        _chat_template(folder, config),
        str(folder),
        special,
        tuple(dict.fromkeys(ids)),
        experts=_experts(model),
    )


def _experts(model: Mapping[str, Any]) -> tuple[int, int, int] | None:
    """By the several names that models' configurations have for them."""
    text: Any = model.get("text_config")
    model = {**model, **text} if isinstance(text, dict) else model
    found = [
        next((model[name] for name in names if type(model.get(name)) is int and model[name] > 0), None)
        for names in _EXPERT_NAMES
    ]
    layers, top_k, experts = found
    return None if layers is None or top_k is None or experts is None else (layers, top_k, experts)


def _read_gguf(file: Path, model_name: str) -> ModelTokens:
    metadata = read_metadata(file)
    tokenizer = gguf_tokenizer(metadata, name=model_name)
    special = {f"{name}_token": text for name in ("bos", "eos") if (text := metadata.token(name)) is not None}
    eos = tokenizer.special_id(special.get("eos_token", ""))
    stops = () if eos is None else (eos,)
    return ModelTokens(tokenizer, metadata.chat_template, str(file), special, stops)


def _chat_template(folder: Path, config: Mapping[str, Any]) -> str | None:
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text()
    template = config.get("chat_template")
    if isinstance(template, list):  # several, by name
        named = {one["name"]: one["template"] for one in template}
        return named.get("default") or next(iter(named.values()), None)
    return template if isinstance(template, str) else None


def _json_object(file: Path) -> dict[str, Any]:
    value: Any = msgspec.json.decode(file.read_bytes()) if file.is_file() else {}
    return value if isinstance(value, dict) else {}


def _token_text(token: Any) -> str | None:
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None


def _not_found(model_name: str, looked: str) -> TokenizerNotFound:
    return TokenizerNotFound(
        f"No tokenizer found for the model {model_name!r}, so its tokens cannot be kept exactly. {looked} Give one of: "
        "the setting `tokenizer` (a folder with tokenizer.json, or a .gguf file); a folder "
        f"`{model_name}/` in PERDURE_TOKENIZERS; the engine's model folder on this machine; a download in the Hugging Face "
        "cache; or install `perdure[hub]` and be online."
    )
