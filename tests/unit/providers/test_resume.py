"""A generation that an engine breaks off goes on from what it had sampled, and its record shows both attempts."""

import itertools
from array import array
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import pytest

from perdure.core.agents import ModelSettings
from perdure.core.errors import ProviderError
from perdure.core.model import ModelDone, TextChunk
from perdure.core.tokens import Finish, VersionSpan, bytes_to_floats, bytes_to_ids
from perdure.providers import resume
from perdure.providers.base import TokenBatch, TokenDone, TokenRequest
from perdure.providers.scripted import Completion, ScriptedEngine
from perdure.tokens.qwen3 import Qwen3Renderer
from perdure.tokens.trajectory import rollouts_of
from perdure.tokens.verify import verify
from tests.doubles.conversations import TOOLS, call, message, model_of, prompt
from tests.doubles.tokenizers import small_tokenizer

QWEN3 = Qwen3Renderer(small_tokenizer())
END = QWEN3.stop_token_ids[0]


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resume, "WAIT_S", 0.0)


def ids(text: str) -> tuple[int, ...]:
    made: list[int] = []
    for piece in QWEN3.tokenizer.split(text):
        made += [piece] if isinstance(piece, int) else QWEN3.tokenizer.encode(piece)
    return tuple(made)


def pieces(whole: tuple[int, ...], *cuts: int, last: str = "stop") -> list[Completion]:
    """The ids in as many attempts as there are cuts and one: all but the last aborted, each by weights of its own."""
    bounds = [0, *cuts, len(whole)]
    parts = [whole[begin:end] for begin, end in itertools.pairwise(bounds)]
    kinds: list[Any] = ["abort"] * len(cuts) + [last]
    return [
        Completion(ids=part, finish=kind, batch=2, versions=((f"v{at}", len(part) + (kind == "stop")),))
        for at, (part, kind) in enumerate(zip(parts, kinds, strict=True))
    ]


def engine_of(*completions: Completion) -> ScriptedEngine:
    return ScriptedEngine(QWEN3.tokenizer, completions, stop_token_id=END)


async def whole(engine: ScriptedEngine, **settings: Any) -> tuple[ModelDone, str, Any]:
    asked = prompt([message("user", "Hi.")], tools=TOOLS, settings=ModelSettings(**settings), conversation_id="c")
    done, chunks = await call(model_of(engine, QWEN3), asked)
    assert done.capture is not None
    return done, "".join(chunk.text for chunk in chunks if isinstance(chunk, TextChunk)), done.capture.call


TEXT = "A parrot 🦜 says: the weights changed while I spoke."


@pytest.mark.parametrize("cuts", [(1,), (5,), (5, 6), (2, 9, 12), tuple(range(1, 9)), (len(ids(TEXT)),)])
async def test_an_interrupted_answer_goes_on_as_if_nothing_had_happened(cuts: tuple[int, ...]) -> None:
    engine = engine_of(*pieces(ids(TEXT), *cuts))
    done, shown, made = await whole(engine, max_output_tokens=200)
    sampled = bytes_to_ids(made.completion_ids)
    assert shown == TEXT and sampled.tolist() == [*ids(TEXT), END]
    assert done.finish == "stop" and made.finish.matched == END and made.trainable
    first = engine.requests[0]
    for cut, again in zip(cuts, engine.requests[1:], strict=True):
        assert again.ids == first.ids + sampled[:cut] and again.max_tokens == first.max_tokens - cut
    assert len({each.request_id for each in engine.requests}) == len(engine.requests)
    score = await engine.score("", first.ids + sampled, len(first.ids), first.vocab_size)
    assert bytes_to_floats(made.logprobs) == array("f", score)
    bounds = [0, *cuts, len(sampled)]
    spans = [VersionSpan(f"v{at}", *span) for at, span in enumerate(itertools.pairwise(bounds))]
    assert made.versions == tuple(spans)
    assert [(each.start, each.start + each.length) for each in made.attempts] == [(s.start, s.end) for s in spans]
    assert [each.finish.type for each in made.attempts] == ["abort"] * len(cuts) + ["stop"]
    assert done.usage.completion_tokens == len(sampled) and done.usage.prompt_tokens == len(first.ids)


async def test_a_call_cut_in_the_middle_is_read_whole_and_trains_once() -> None:
    text = 'I look.\n<tool_call>\n{"name": "look", "arguments": {"at": "the sea"}}\n</tool_call>'
    for cut in range(1, len(ids(text)) + 1):
        done, _, made = await whole(engine_of(*pieces(ids(text), cut)), max_output_tokens=200)
        assert [(each.name, each.arguments) for each in done.tool_calls] == [("look", '{"at": "the sea"}')], cut
        assert done.finish == "tool_calls" and not done.unparsed
        assert done.capture is not None and done.capture.segment is not None
        [record] = rollouts_of([done.capture.segment], [made])
        report = verify([record], tokenizer=QWEN3.tokenizer)
        assert report.ok and report.checked["F5"] >= 2, report.violations
        assert sum(record["segments"][0]["loss_mask"]) == made.length == len(ids(text)) + 1
        first, second = record["calls"][0]["attempts"]
        assert first["token_ids"] + second["token_ids"] == record["calls"][0]["token_ids"]
        assert first["weight_versions"] == [{"version": "v0", "start": 0, "end": cut}]
        assert second["weight_versions"] == [{"version": "v1", "start": 0, "end": made.length - cut}]
        assert first["finish"]["type"] == "abort" and first["engine_request_id"] != second["engine_request_id"]


async def test_a_stop_right_before_the_interruption_is_the_end() -> None:
    engine = engine_of(Completion(ids=(*ids("Done."), END), finish="abort"))
    done, shown, made = await whole(engine)
    assert (shown, done.finish, made.finish.matched, made.trainable) == ("Done.", "stop", END, True)
    assert len(engine.requests) == 1 and len(made.attempts) == 1


async def test_an_answer_as_long_as_it_may_be_is_not_asked_for_again() -> None:
    engine = engine_of(Completion(ids=ids("the quick brown fox")[:3], finish="abort"))
    done, _, made = await whole(engine, max_output_tokens=3)
    assert done.finish == "length" and made.length == 3 and made.trainable and len(engine.requests) == 1


async def test_an_interruption_in_the_queue_is_asked_again_with_the_same_prompt() -> None:
    engine = engine_of(Completion(ids=(), finish="abort"), *pieces(ids("Yes."), last="stop"))
    _, shown, made = await whole(engine)
    assert shown == "Yes." and engine.requests[0].ids == engine.requests[1].ids
    assert [each.length for each in made.attempts] == [0, made.length]


async def test_interruptions_without_end_are_an_error() -> None:
    engine = engine_of(*[Completion(ids=(65,), finish="abort")] * 20)
    with pytest.raises(ProviderError, match="9 times"):
        await whole(engine)
    assert len(engine.requests) == resume.MAX_RESUMES + 1


async def test_an_answer_of_a_prescribed_form_cannot_go_on() -> None:
    form = {"type": "json_object"}
    with pytest.raises(ProviderError, match="prescribed form"):
        await whole(engine_of(Completion(ids=ids('{"a'), finish="abort")), response_format=form)
    _, shown, _ = await whole(
        engine_of(Completion(ids=(), finish="abort"), Completion(text="{}")), response_format=form
    )
    assert shown == "{}"


async def test_leaving_is_never_resumed() -> None:
    engine = engine_of(*[Completion(ids=ids(TEXT), finish="abort", batch=1)] * 3)
    model = model_of(engine, QWEN3)
    async with aclosing(model.stream(prompt([message("user", "Hi.")]))) as batches:  # type: ignore[type-var]
        async for _ in batches:
            break
    assert len(engine.requests) == len(engine.aborted) == 1


async def test_an_attempt_that_tells_no_version_is_unknown_beside_one_that_does() -> None:
    parts = pieces(ids("a b c d e f"), 3)
    silent = Completion(ids=parts[1].ids, finish="stop")
    _, _, made = await whole(engine_of(parts[0], silent))
    assert made.versions == (VersionSpan("v0", 0, 3), VersionSpan("unknown", 3, made.length))


async def test_weights_that_stayed_are_one_span_over_the_join() -> None:
    def same(part: tuple[int, ...], finish: Any) -> Completion:
        return Completion(ids=part, finish=finish, versions=(("7", len(part) + (finish == "stop")),))

    text = ids("a b c d e f")
    _, _, made = await whole(engine_of(same(text[:3], "abort"), same(text[3:], "stop")))
    assert made.versions == (VersionSpan("7", 0, made.length),)


class _Engine:
    """Answers in order; each a list of batches and a TokenDone."""

    kind, base_url, logprob_semantics = "sglang", "http://one", "raw"

    def __init__(self, *answers: list[Any]) -> None:
        self.answers = list(answers)

    async def generate(self, request: TokenRequest) -> AsyncGenerator[Any]:
        for item in self.answers.pop(0):
            yield item


async def test_each_attempt_names_who_made_it_and_counts_add_up() -> None:
    abort = TokenDone(finish=Finish("abort"), retractions=1, cached_tokens=5, base_url="http://a", prompt_tokens=9)
    stop = TokenDone(finish=Finish("stop", END), retractions=2, cached_tokens=11, base_url="http://b", prompt_tokens=10)
    one, end = TokenBatch(ids=[65], logprobs=[-0.5]), TokenBatch(ids=[END], logprobs=[-0.5])
    done, _ = await call(model_of(_Engine([one, abort], [end, stop]), QWEN3), prompt([message("user", "Hi.")]))
    assert done.capture is not None
    made = done.capture.call
    assert [each.engine_base_url for each in made.attempts] == ["http://a", "http://b"]
    assert (made.engine_base_url, made.retractions, made.cached_tokens) == ("http://b", 3, 5)


async def test_an_engine_that_is_gone_when_asked_again_is_an_error() -> None:
    class Gone(_Engine):
        async def generate(self, request: TokenRequest) -> AsyncGenerator[Any]:
            if not self.answers:
                raise ProviderError("Cannot connect.", kind="llm_connection", retryable=True)
            async for item in super().generate(request):
                yield item

    engine = Gone([TokenBatch(ids=[65], logprobs=[-0.5]), TokenDone(finish=Finish("abort"))])
    with pytest.raises(ProviderError, match="Cannot connect"):
        await call(model_of(engine, QWEN3), prompt([message("user", "Hi.")]))
