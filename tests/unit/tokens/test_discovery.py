"""Where a model's tokenizer is looked for, and in which order."""

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from perdure.tokens.base import TokenizerNotFound
from perdure.tokens.discovery import default_hf_cache, find_tokenizer, load
from tests.doubles.tokenizers import small_tokenizer_json, smollm2

NAME = "org/model"


def _folder(path: Path, **config: Any) -> Path:
    path.mkdir(parents=True)
    (path / "tokenizer.json").write_bytes(small_tokenizer_json())
    (path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|im_end|>"} | config))
    return path


def _cached(cache: Path, revision: str = "abc", *, main: str | None = "abc", name: str = NAME) -> Path:
    repository = cache / f"models--{name.replace('/', '--')}"
    folder = _folder(repository / "snapshots" / revision)
    if main is not None:
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / "main").write_text(main)
    return folder


def test_the_order_of_places(tmp_path: Path) -> None:
    setting, engine = _folder(tmp_path / "setting"), _folder(tmp_path / "engine")
    named, cached = _folder(tmp_path / "named" / NAME), _cached(tmp_path / "cache")
    places: dict[str, Any] = {
        "setting": str(setting),
        "tokenizers_dir": tmp_path / "named",
        "engine_path": str(engine),
        "hf_cache": tmp_path / "cache",
    }
    for expected, key in (
        (setting, "setting"),
        (named, "tokenizers_dir"),
        (engine, "engine_path"),
        (cached, "hf_cache"),
    ):
        assert find_tokenizer(NAME, **places).source == str(expected)
        del places[key]
    with pytest.raises(TokenizerNotFound) as missing:
        find_tokenizer(NAME, **places)
    for way in (
        NAME,
        "setting `tokenizer`",
        "PERDURE_TOKENIZERS",
        "model folder",
        "Hugging Face cache",
        "perdure[hub]",
    ):
        assert way in str(missing.value)


def test_a_setting_that_names_nothing_is_not_replaced_by_something_else(tmp_path: Path) -> None:
    _folder(tmp_path / NAME)
    with pytest.raises(TokenizerNotFound, match="'nowhere'"):
        find_tokenizer(NAME, setting="nowhere", tokenizers_dir=tmp_path)


def test_a_setting_may_be_a_file_or_a_name_in_the_cache(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "some")
    assert find_tokenizer(NAME, setting=str(folder / "tokenizer.json")).source == str(folder)
    cached = _cached(tmp_path / "cache", name="org/other")
    assert find_tokenizer(NAME, setting="org/other", hf_cache=tmp_path / "cache").source == str(cached)
    gguf = smollm2().source
    assert find_tokenizer(NAME, engine_path=gguf).source == gguf


def test_the_engines_model_may_have_another_name_in_the_cache(tmp_path: Path) -> None:
    cached = _cached(tmp_path / "cache", name="org/base")
    assert find_tokenizer("served-name", engine_path="org/base", hf_cache=tmp_path / "cache").source == str(cached)


def test_the_cache_gives_main_and_else_the_newest(tmp_path: Path) -> None:
    old, new = _cached(tmp_path, "old", main="old"), _cached(tmp_path, "new", main=None)
    os.utime(old, (1, 1))
    found = find_tokenizer(NAME, hf_cache=tmp_path)
    assert found.source == str(old) and found.tokenizer.info.revision == "old"
    (old.parent.parent / "refs" / "main").unlink()
    assert find_tokenizer(NAME, hf_cache=tmp_path).source == str(new)


@pytest.mark.parametrize("name", ["../outside", "/etc", "a/../../outside", ".", ""])
def test_no_name_leads_out_of_the_folder(tmp_path: Path, name: str) -> None:
    _folder(tmp_path / "outside")
    (tmp_path / "inside").mkdir()
    with pytest.raises(TokenizerNotFound):
        find_tokenizer(name, tokenizers_dir=tmp_path / "inside", hf_cache=tmp_path / "cache")


def test_what_stands_beside_the_tokenizer(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "m", bos_token={"content": "<|im_start|>"}, chat_template="from config")
    (folder / "config.json").write_text('{"text_config": {"vocab_size": 2000}}')
    (folder / "generation_config.json").write_text('{"eos_token_id": [7, 8]}')
    found = load(folder, "m")
    assert found is not None
    assert found.special == {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}
    assert found.stop_token_ids == (7, 8, found.tokenizer.special_id("<|im_end|>"))
    assert found.tokenizer.info.vocab_size == 2000
    assert found.chat_template == "from config"
    (folder / "chat_template.jinja").write_text("from file")
    again = load(folder, "m")
    assert again is not None and again.chat_template == "from file"


@pytest.mark.parametrize(
    ("config", "experts"),
    [
        ({"num_hidden_layers": 48, "num_experts_per_tok": 8, "num_experts": 128}, (48, 8, 128)),
        ({"num_hidden_layers": 61, "num_experts_per_tok": 8, "n_routed_experts": 256}, (61, 8, 256)),
        ({"num_hidden_layers": 32, "num_experts_per_tok": 2, "num_local_experts": 8}, (32, 2, 8)),
        ({"text_config": {"num_hidden_layers": 40, "num_experts_per_tok": 8, "num_experts": 512}}, (40, 8, 512)),
        ({"num_hidden_layers": 28}, None),
        ({"num_hidden_layers": 28, "num_experts_per_tok": 0, "num_experts": 0}, None),
        ({"num_hidden_layers": 28, "num_experts_per_tok": True, "num_experts": 4}, None),
    ],
)
def test_the_size_of_a_mixture_of_experts(
    tmp_path: Path, config: dict[str, Any], experts: tuple[int, int, int] | None
) -> None:
    (_folder(tmp_path / "tiny") / "config.json").write_text(json.dumps(config))
    assert find_tokenizer("tiny", tokenizers_dir=tmp_path).experts == experts


def test_several_templates_in_a_config(tmp_path: Path) -> None:
    several = [{"name": "tool_use", "template": "b"}, {"name": "default", "template": "a"}]
    found = load(_folder(tmp_path / "m", chat_template=several), "m")
    assert found is not None and found.chat_template == "a"


def test_a_tokenizer_is_read_once(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "m")
    first = load(folder, "m")
    assert load(folder, "m") is first
    (folder / "tokenizer.json").write_bytes(small_tokenizer_json() + b" ")
    os.utime(folder / "tokenizer.json", (1, 1))
    changed = load(folder, "m")
    assert first is not None and changed is not None
    assert changed.tokenizer.info.sha256 != first.tokenizer.info.sha256


def test_a_broken_tokenizer_is_named(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "m")
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(TokenizerNotFound, match=r"tokenizer of m in .*tokenizer.json cannot be read"):
        load(folder, "m")


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"HF_HUB_CACHE": "/a", "HF_HOME": "/b"}, "/a"),
        ({"HF_HOME": "/b", "XDG_CACHE_HOME": "/c"}, "/b/hub"),
        ({"XDG_CACHE_HOME": "/c"}, "/c/huggingface/hub"),
        ({}, str(Path.home() / ".cache/huggingface/hub")),
    ],
)
def test_the_cache_is_where_the_libraries_keep_it(environ: dict[str, str], expected: str) -> None:
    assert default_hf_cache(environ) == Path(expected)


def test_the_hub_is_asked_last_and_only_for_the_files_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, asked = _folder(tmp_path / "downloaded"), []

    def snapshot_download(repository: str, **options: Any) -> str:
        asked.append((repository, options["allow_patterns"]))
        if repository == "org/unknown":
            raise OSError("404")
        return str(folder)

    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(snapshot_download=snapshot_download))
    assert find_tokenizer(NAME, hf_cache=tmp_path / "cache", allow_hub=True).source == str(folder)
    assert find_tokenizer(NAME, setting="org/set", allow_hub=True).source == str(folder)
    assert [name for name, _ in asked] == [NAME, "org/set"]
    assert all(pattern.endswith((".json", ".jinja")) for _, patterns in asked for pattern in patterns)
    with pytest.raises(TokenizerNotFound, match="hub has no org/unknown for us: OSError: 404"):
        find_tokenizer("org/unknown", allow_hub=True)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(TokenizerNotFound, match=r"install `perdure\[hub\]`"):
        find_tokenizer(NAME, allow_hub=True)
