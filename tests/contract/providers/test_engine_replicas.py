"""Several SGLang servers as one provider, over real HTTP: one is lost, one is updated, and no conversation notices."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from perdure.core.errors import ProviderError
from perdure.core.model import ModelDone
from perdure.providers.base import TokenStream
from perdure.providers.http import Http
from perdure.providers.registry import ProviderConfig, Registry
from perdure.providers.scripted import Completion
from perdure.providers.token_exact import extend
from tests.doubles.conversations import answer, call, message, prompt
from tests.doubles.sglang import SGLangDouble
from tests.doubles.tokenizers import small_tokenizer, small_tokenizer_folder


@pytest.fixture
async def doubles() -> AsyncIterator[list[SGLangDouble]]:
    made = [SGLangDouble(small_tokenizer(), tokenizer_path="org/tiny") for _ in range(3)]
    yield made
    for each in made:
        each.close()


@pytest.fixture
async def registry(http: Http, doubles: list[SGLangDouble], tmp_path: Path) -> Registry:
    first, *others = [f"{double.base_url}/v1" for double in doubles]
    config = ProviderConfig(name="sglang", kind="sglang", base_url=first, replicas=tuple(others))
    folder = small_tokenizer_folder(tmp_path / "tokenizers")
    return Registry([config], tokenizers_dir=folder, env={"HF_HUB_OFFLINE": "1", "HF_HOME": "/nowhere"}, http=http)


async def test_a_conversation_survives_the_loss_of_its_server(
    http: Http, doubles: list[SGLangDouble], registry: Registry
) -> None:
    model = (await registry.resolve("sglang/tiny", require_exact=True)).model
    tokens, asked = TokenStream(), prompt([message("user", "Hi.")], conversation_id="conv-1")
    bases: list[str | None] = []
    for turn in range(6):
        if turn == 3:
            next(double for double in doubles if double.base_url == bases[-1]).dead = True
        done, _ = await call(model, asked, tokens)  # type: ignore[arg-type]
        assert isinstance(done, ModelDone) and done.capture is not None
        assert turn == 0 or done.capture.segment is None  # one stream, whoever answers
        bases.append(done.capture.call.engine_base_url)
        extend(tokens, done.capture)
        asked = prompt([*asked.messages, answer(asked, done), message("user", "?")], conversation_id="conv-1")
    assert len(set(bases[:3])) == len(set(bases[3:])) == 1 and bases[2] != bases[3]
    states = {state.base_url: state for state in registry.replicas("sglang")}
    lost = states[str(bases[0])]
    assert not lost.up and lost.error is not None and sum(state.up for state in states.values()) == 2
    survivor = next(double for double in doubles if double.base_url == bases[-1])
    assert survivor.requests[-1]["input_ids"] == tokens.ids[: len(survivor.requests[-1]["input_ids"])].tolist()


async def test_a_stream_lost_before_its_first_id_goes_to_another_server_at_once(
    doubles: list[SGLangDouble], registry: Registry
) -> None:
    model = (await registry.resolve("sglang/tiny", require_exact=True)).model
    for double in doubles[:2]:
        double.engine.default = Completion(text="lost", fail_after=0)
    for number in range(12):
        done, _ = await call(model, prompt([message("user", "Hi.")], conversation_id=f"conv-{number}"))  # type: ignore[arg-type]
        assert done.capture is not None and done.capture.call.engine_base_url == doubles[2].base_url
    asked = [len(double.requests) for double in doubles]
    assert asked[2] == 12 and max(asked[:2]) >= 1
    assert sum(asked) == len({body["rid"] for double in doubles for body in double.requests})


async def test_rounds_through_all_servers_are_bounded(doubles: list[SGLangDouble], registry: Registry) -> None:
    model = (await registry.resolve("sglang/tiny", require_exact=True)).model
    for double in doubles:
        double.engine.default = Completion(text="lost", fail_after=0)
    with pytest.raises(ProviderError):
        await call(model, prompt([message("user", "Hi.")]))  # type: ignore[arg-type]
    assert [len(double.requests) for double in doubles] == [3, 3, 3]


async def test_a_provider_is_known_while_one_of_its_servers_is(doubles: list[SGLangDouble], registry: Registry) -> None:
    doubles[0].dead = doubles[1].dead = True
    assert [info.handle for info in await registry.list_models()] == ["sglang/tiny"]
    resolved = await registry.resolve("sglang/tiny", require_exact=True)
    done, _ = await call(resolved.model, prompt([message("user", "Hi.")]))  # type: ignore[arg-type]
    assert done.capture is not None and done.capture.call.engine_base_url == doubles[2].base_url
    doubles[2].dead = True
    with pytest.raises(ProviderError, match="closed the connection"):
        await call(resolved.model, prompt([message("user", "Hi.")]))  # type: ignore[arg-type]
    assert await registry.list_models() == [] and "sglang" in registry.errors


async def test_each_servers_weights_are_on_record(doubles: list[SGLangDouble], registry: Registry) -> None:
    for number, double in enumerate(doubles):
        double.engine.default = Completion(text="ok", versions=((f"step-{number}", 99),))
    model = (await registry.resolve("sglang/tiny", require_exact=True)).model
    seen: dict[str | None, str] = {}
    for number in range(24):
        asked = prompt([message("user", "Hi.")], conversation_id=f"conv-{number}")
        done, _ = await call(model, asked)  # type: ignore[arg-type]
        assert done.capture is not None
        [span] = done.capture.call.versions
        seen[done.capture.call.engine_base_url] = span.version
    assert seen == {double.base_url: f"step-{number}" for number, double in enumerate(doubles)}
    assert {state.base_url: state.weight_version for state in registry.replicas("sglang")} == seen
