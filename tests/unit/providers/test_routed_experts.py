"""Which experts each id went to: asked for once, put on record once, whatever becomes of a call."""

import asyncio
from array import array
from typing import Any

import pytest

from perdure.core.agents import ModelSettings
from perdure.core.errors import ProviderError
from perdure.core.experts import ExpertRows, joined, unpack
from perdure.core.model import ModelDone
from perdure.core.tokens import TokenCall, bytes_to_ids
from perdure.providers import resume
from perdure.providers.base import TokenStream
from perdure.providers.experts import ExpertsAsked
from perdure.providers.scripted import Completion, ScriptedEngine, scripted_experts
from perdure.providers.token_exact import TokenExactModel, extend, restore
from perdure.tokens.qwen3 import Qwen3Renderer
from perdure.tokens.trajectory import rollouts_of
from perdure.tokens.verify import verify
from tests.doubles.conversations import SaidEngine, answer, call, message, model_of, prompt
from tests.doubles.tokenizers import small_tokenizer

QWEN3 = Qwen3Renderer(small_tokenizer())
END = QWEN3.stop_token_ids[0]
WANTED = ModelSettings(return_routed_experts=True)
SIZE = ExpertsAsked(layers=3, top_k=2, num_experts=16)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resume, "WAIT_S", 0.0)


def engine_of(*completions: str | Completion) -> ScriptedEngine:
    return ScriptedEngine(QWEN3.tokenizer, completions, stop_token_id=END)


def model(engine: Any) -> TokenExactModel:
    return model_of(engine, QWEN3, experts=SIZE)


def rows(made: TokenCall) -> ExpertRows:
    assert made.experts is not None
    return unpack(made.experts)


def true_rows(ids: "array[int]", start: int = 0) -> ExpertRows:
    return scripted_experts(ids, ExpertsAsked(start=start, layers=3, top_k=2, num_experts=16))


class Talk:
    """A conversation that goes on; `settings` may differ from turn to turn."""

    def __init__(self, engine: Any) -> None:
        self.model, self.tokens = model(engine), TokenStream()
        self.messages: list[Any] = []
        self.calls: list[TokenCall] = []
        self.segments: list[Any] = []

    async def say(self, text: str, settings: ModelSettings = WANTED, **more: Any) -> ModelDone:
        self.messages.append(message("user", text))
        asked = prompt(self.messages, settings=settings, conversation_id="c", agent_id="a", run_id="r", **more)
        done, _ = await call(self.model, asked, self.tokens)
        self.messages.append(answer(asked, done))
        self.take(done)
        return done

    def take(self, done: ModelDone) -> None:
        assert done.capture is not None
        self.calls.append(done.capture.call)
        if done.capture.segment is not None:
            self.segments.append(done.capture.segment)
        extend(self.tokens, done.capture)


async def test_each_call_brings_only_the_rows_that_are_not_on_record_yet() -> None:
    engine = engine_of("One.", "Two, and more.", "Three.")
    talk = Talk(engine)
    for said in ("Hi.", "Again.", "Once more."):
        await talk.say(said)
    asked = [request.experts.start for request in engine.requests if request.experts is not None]
    ends = [made.prompt_len + made.length for made in talk.calls]
    assert asked == [0, ends[0] - 1, ends[1] - 1]
    told = [rows(made) for made in talk.calls]
    assert sum(each.count for each in told) == len(talk.tokens.ids) - 1 == talk.tokens.routed
    assert joined(*told) == true_rows(talk.tokens.ids)
    again = restore(talk.segments[0], talk.calls)
    assert again.routed == talk.tokens.routed


async def test_nothing_is_asked_for_and_nothing_kept_unless_it_is_wanted() -> None:
    engine = engine_of("One.")
    talk = Talk(engine)
    await talk.say("Hi.", ModelSettings())
    assert engine.requests[0].experts is None and talk.calls[0].experts is None and talk.tokens.routed == 0


async def test_rows_nobody_asked_for_in_time_come_with_the_next_call() -> None:
    talk = Talk(engine_of("One.", "Two.", "Three."))
    await talk.say("Hi.", ModelSettings())
    await talk.say("Again.")
    assert rows(talk.calls[1]) == true_rows(talk.tokens.ids)
    await talk.say("Once more.", ModelSettings())
    assert (
        talk.calls[2].experts is None
        and talk.tokens.routed == talk.calls[2].prompt_len - len(bytes_to_ids(talk.calls[2].delta_ids)) - 1
    )


async def test_a_new_segment_begins_with_its_first_id() -> None:
    engine = engine_of("One.", "Two.")
    talk = Talk(engine)
    await talk.say("Hi.")
    await talk.say("Again.", system="Be long.")
    assert len(talk.segments) == 2 and engine.requests[1].experts == ExpertsAsked(
        start=0, layers=3, top_k=2, num_experts=16
    )
    assert rows(talk.calls[1]) == true_rows(talk.tokens.ids)
    record = rollouts_of(talk.segments, talk.calls)
    report = verify(record)
    assert report.ok and {"R1", "R2", "R3", "R4"} <= set(report.checked), report.violations


@pytest.mark.parametrize("cuts", [(1,), (4,), (2, 3), (0, 5)])
@pytest.mark.parametrize("silent", [False, True])
async def test_an_answer_broken_off_for_new_weights_has_all_its_rows_once(cuts: tuple[int, ...], silent: bool) -> None:
    """`silent`: the engine tells no rows with an answer that it breaks off."""
    whole = tuple(QWEN3.tokenizer.encode("The weights changed while I spoke."))
    bounds = [0, *cuts, len(whole)]
    engine = engine_of(
        *(
            Completion(ids=whole[bounds[at] : bounds[at + 1]], finish="abort" if at < len(cuts) else "stop", batch=2)
            for at in range(len(cuts) + 1)
        )
    )
    if silent:
        engine.tells_broken_off = False
    talk = Talk(engine)
    await talk.say("Hi.")
    made = talk.calls[0]
    assert len(made.attempts) == len(cuts) + 1 and made.trainable
    assert rows(made) == true_rows(talk.tokens.ids)
    starts = [request.experts.start for request in engine.requests if request.experts is not None]
    ends = [len(request.ids) - 1 for request in engine.requests]
    assert starts == ([0] * len(starts) if silent else [0, *ends[1:]])
    assert verify(rollouts_of(talk.segments, talk.calls)).ok


async def test_an_answer_cut_by_length_has_its_rows() -> None:
    talk = Talk(engine_of("A long answer that does not end."))
    done = await talk.say("Hi.", ModelSettings(return_routed_experts=True, max_output_tokens=3))
    assert done.finish == "length" and rows(talk.calls[0]) == true_rows(talk.tokens.ids)


async def test_what_a_cancelled_call_left_out_the_next_one_brings() -> None:
    engine = engine_of(Completion(text="Slow and long. " * 20, batch=1, pause_s=0.001), "Done.")
    talk = Talk(engine)
    talk.messages.append(message("user", "Hi."))
    left: list[ModelDone] = []
    asked = prompt(talk.messages, settings=WANTED, conversation_id="c", on_cut_off=left.append)

    async def read() -> None:
        async for _ in talk.model.stream(asked, talk.tokens):
            pass

    reading = asyncio.create_task(read())
    while not engine.requests:
        await asyncio.sleep(0.001)
    await asyncio.sleep(0.01)
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    assert len(left) == 1 and left[0].capture is not None
    assert left[0].capture.call.experts is None and not left[0].capture.call.trainable
    talk.take(left[0])
    talk.messages.append(answer(asked, left[0]))
    await talk.say("Go on.")
    assert rows(talk.calls[1]) == true_rows(talk.tokens.ids)
    assert verify(rollouts_of(talk.segments, talk.calls)).ok


async def test_an_engine_that_leaves_them_out_is_an_error_that_says_what_to_do() -> None:
    engine = SaidEngine([([*QWEN3.tokenizer.encode("Hi."), END], "stop")])
    with pytest.raises(ProviderError, match="--enable-return-routed-experts") as refused:
        await call(model(engine), prompt([message("user", "Hi.")], settings=WANTED))
    assert refused.value.kind == "llm_bad_request"


async def test_the_settings_may_give_the_models_shape() -> None:
    engine = engine_of("Hi.")
    settings = ModelSettings(return_routed_experts=True, routed_experts_shape=(5, 4))
    done, _ = await call(model_of(engine, QWEN3), prompt([message("user", "Hi.")], settings=settings))
    assert done.capture is not None
    told = rows(done.capture.call)
    assert (told.layers, told.top_k, told.num_experts) == (5, 4, 8)


async def test_many_rows_are_packed_without_holding_up_others() -> None:
    engine = engine_of("Hi.")
    settings = ModelSettings(return_routed_experts=True, routed_experts_shape=(100, 8))
    asked = prompt([message("user", "word " * 1200)], settings=settings, context_window=100_000)
    done, _ = await call(model_of(engine, QWEN3), asked)
    assert done.capture is not None
    assert rows(done.capture.call).count == done.capture.call.prompt_len + done.capture.call.length - 1
