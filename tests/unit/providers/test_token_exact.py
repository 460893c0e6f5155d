"""A model out of a token engine: what is sent, what comes back, what is on record."""

import asyncio
import hashlib
from array import array
from contextlib import aclosing
from typing import Any

import msgspec
import pytest

from perdure.core.agents import ModelSettings
from perdure.core.errors import ProviderError
from perdure.core.ids import new_id
from perdure.core.messages import Message, TextPart
from perdure.core.model import ModelDone, TextChunk, ToolCallChunk, ToolSpec
from perdure.core.tokens import Finish, Segment, bytes_to_floats, bytes_to_ids
from perdure.providers.base import TokenBatch, TokenDone, TokenStream
from perdure.providers.token_exact import extend, restore
from perdure.providers.token_plan import common_prefix, covered_count
from perdure.tokens.chatml import ChatMlRenderer
from perdure.tokens.hf import from_json
from perdure.tokens.qwen3 import Qwen3Renderer
from tests.doubles.conversations import TOOLS, SaidEngine, answer, call, message, model_of, prompt, returns
from tests.doubles.tokenizers import small_tokenizer, small_tokenizer_json

QWEN3 = Qwen3Renderer(small_tokenizer())
CALL = '<tool_call>\n{"name": "look", "arguments": {"at": "x"}}\n</tool_call>'
END = QWEN3.stop_token_ids[0]


def ids(text: str, *, ended: bool = True) -> list[int]:
    made: list[int] = []
    for piece in QWEN3.tokenizer.split(text):
        made += [piece] if isinstance(piece, int) else QWEN3.tokenizer.encode(piece)
    return [*made, END] if ended else made


def engine_of(*texts: str, kind: str = "sglang") -> SaidEngine:
    return SaidEngine([(ids(text), "stop") for text in texts], kind=kind)


async def test_an_answer_comes_back_as_chunks_and_as_a_whole_with_its_record() -> None:
    engine = engine_of("<think>\nHm.\n</think>\n\nI look.\n" + CALL)
    asked = prompt([message("user", "Hi.")], tools=TOOLS, agent_id="a", run_id="r", step_id="s", conversation_id="c")
    done, chunks = await call(model_of(engine, QWEN3, engine_version="1.2"), asked)
    assert done.finish == "tool_calls"
    assert [(one.name, one.arguments) for one in done.tool_calls] == [("look", '{"at": "x"}')]
    assert "".join(one.text for one in chunks if isinstance(one, TextChunk)) == "I look."
    assert any(isinstance(one, ToolCallChunk) and one.name == "look" for one in chunks)
    assert done.capture is not None
    made, segment = done.capture.call, done.capture.segment
    assert segment is not None
    assert (segment.cause, segment.index, segment.parent_segment_id, segment.parent_offset) == ("root", 0, None, 0)
    assert (segment.model_handle, segment.model_name, segment.tokenizer) == (
        "test/small",
        "small",
        QWEN3.tokenizer.info,
    )
    sampled = bytes_to_ids(made.completion_ids)
    assert (made.run_id, made.step_id, made.conversation_id, made.agent_id) == ("r", "s", "c", "a")
    assert made.length == len(sampled) == len(bytes_to_floats(made.logprobs))
    assert made.prompt_len == len(engine.requests[0].ids) == len(bytes_to_ids(made.delta_ids))
    assert (made.finish.type, made.finish.matched, made.stop_token_included) == ("stop", END, True)
    assert (made.engine, made.engine_version, made.engine_base_url) == ("sglang", "1.2", engine.base_url)
    assert (made.logprob_semantics, made.bridge, made.trainable) == ("raw", "render", True)
    assert made.text_sha256 == hashlib.sha256(QWEN3.tokenizer.decode(sampled).encode()).hexdigest()
    assert made.message_ids == (asked.messages[0].id,)
    assert made.assistant_message_id == asked.assistant_message_id
    assert made.parse["tool_calls"][0]["status"] == "ok"
    assert (done.usage.prompt_tokens, done.usage.completion_tokens) == (made.prompt_len, made.length)
    assert done.usage.total_tokens == made.prompt_len + made.length
    assert done.usage.reasoning_tokens == made.parse["reasoning_span"][1] - made.parse["reasoning_span"][0] > 0
    assert done.usage.cached_input_tokens == 0
    assert engine.closed == 1


async def test_the_next_prompt_extends_what_the_engine_has_seen() -> None:
    engine, tokens = engine_of(CALL, "Done."), TokenStream()
    model = model_of(engine, QWEN3)
    first = prompt([message("user", "Hi.")], tools=TOOLS)
    done, _ = await call(model, first, tokens)
    assert tokens.segment is None and not tokens.ids, "a stream is read, never changed"
    assert done.capture is not None
    extend(tokens, done.capture)
    seen = list(tokens.ids)
    second = prompt([*first.messages, answer(first, done), returns(done)], tools=TOOLS)
    then, _ = await call(model, second, tokens)
    assert list(engine.requests[1].ids[: len(seen)]) == seen
    assert then.capture is not None and then.capture.segment is None
    made = then.capture.call
    assert made.bridge == "bridge"
    assert made.message_ids == (second.messages[2].id,)
    assert made.prompt_len == len(seen) + len(bytes_to_ids(made.delta_ids))
    extend(tokens, then.capture)
    assert tokens.segment is not None
    again = restore(tokens.segment, [done.capture.call, made])
    assert again.ids == tokens.ids and again.covered == tokens.covered
    assert again.last_completion_start == tokens.last_completion_start


async def _broken(
    change: dict[str, Any], *, tokens_cause: tuple[str, str] | None = None, **model_options: Any
) -> Segment:
    """The segment that a changed second prompt begins."""
    engine, tokens = engine_of("Hello.", "Again."), TokenStream()
    first = prompt([message("user", "Hi.")], tools=TOOLS)
    done, _ = await call(model_of(engine, QWEN3), first, tokens)
    assert done.capture is not None and done.capture.segment is not None
    extend(tokens, done.capture)
    tokens.break_cause = tokens_cause
    given = {"messages": [*first.messages, answer(first, done), message("user", "And?")], "tools": TOOLS} | change
    renderer = model_options.pop("renderer", QWEN3)
    model = model_of(engine, renderer)
    model.model_name = model_options.pop("model_name", model.model_name)
    then, _ = await call(model, prompt(**given), tokens)
    assert then.capture is not None
    segment = then.capture.segment
    assert segment is not None
    assert segment.parent_segment_id == done.capture.segment.id and segment.index == 1
    sent = engine.requests[1].ids
    assert segment.parent_offset == _common(list(tokens.ids), list(sent))
    assert bytes_to_ids(then.capture.call.delta_ids) == sent
    extend(tokens, then.capture)
    assert tokens.break_cause is None and tokens.segment == segment
    assert tokens.ids[: len(sent)] == sent
    return segment


def _common(a: list[int], b: list[int]) -> int:
    return next((at for at, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"system": "Be long."}, "memory_rewrite"),
        ({"tools": TOOLS[:1]}, "tools_change"),
        ({"messages": [message("user", "Another.")]}, "history_edit"),
        ({"messages": []}, "history_edit"),
    ],
)
async def test_a_change_begins_a_segment_with_its_cause(change: dict[str, Any], cause: str) -> None:
    segment = await _broken(change)
    assert segment.cause == cause and segment.cause_detail


async def test_the_cause_on_record_wins() -> None:
    segment = await _broken({"system": "Be long."}, tokens_cause=("compaction", "the window was full"))
    assert (segment.cause, segment.cause_detail) == ("compaction", "the window was full")


async def test_another_model_tokenizer_or_template_begins_a_segment() -> None:
    assert (await _broken({}, model_name="other")).cause == "model_change"
    other = from_json(small_tokenizer_json() + b" ", name="small")
    assert (await _broken({}, renderer=Qwen3Renderer(other))).cause == "model_change"
    assert (await _broken({}, renderer=ChatMlRenderer(small_tokenizer()))).cause == "model_change"


async def test_dropped_thinking_begins_a_segment() -> None:
    engine, tokens = engine_of("<think>\nHm.\n</think>\n\nok", "ok"), TokenStream()
    first = prompt([message("user", "Hi.")], thinking_retention="tool_cycle")
    done, _ = await call(model_of(engine, QWEN3), first, tokens)
    assert done.capture is not None
    extend(tokens, done.capture)
    second = prompt([*first.messages, answer(first, done), message("user", "And?")], thinking_retention="tool_cycle")
    then, _ = await call(model_of(engine, QWEN3), second, tokens)
    assert then.capture is not None and then.capture.segment is not None
    assert then.capture.segment.cause == "thinking_drop"
    assert "Hm." not in QWEN3.tokenizer.decode(engine.requests[1].ids)


async def test_a_prompt_larger_than_the_window_is_refused_before_it_is_sent() -> None:
    engine = engine_of("never")
    long = prompt([message("user", "word " * 200)], context_window=100)
    with pytest.raises(ProviderError, match="does not fit the context window of 100 tokens") as refused:
        await call(model_of(engine, QWEN3), long)
    assert refused.value.kind == "context_window_exceeded"
    assert engine.requests == []
    with pytest.raises(ProviderError, match="window of 50"):
        await call(model_of(engine, QWEN3, context_window=50), msgspec.structs.replace(long, context_window=10_000))


async def test_max_tokens_is_what_was_asked_and_what_the_window_leaves() -> None:
    async def asked_for(**more: Any) -> tuple[int, int]:
        engine = engine_of("ok")
        await call(model_of(engine, QWEN3), prompt([message("user", "Hi.")], **more))
        return engine.requests[0].max_tokens, len(engine.requests[0].ids)

    assert (await asked_for())[0] == 4096
    assert (await asked_for(settings=ModelSettings(max_output_tokens=7)))[0] == 7
    limit, size = await asked_for(context_window=100, settings=ModelSettings(max_output_tokens=5000))
    assert limit + size == 100


async def test_sampling_is_the_engines_own_unless_set() -> None:
    engine = engine_of("ok", "ok")
    done, _ = await call(model_of(engine, QWEN3), prompt([message("user", "Hi.")]))
    request = engine.requests[0]
    for name in ("temperature", "top_p", "top_k", "min_p", "seed", "repetition_penalty"):
        assert getattr(request, name) is None
    assert done.capture is not None
    assert done.capture.call.sampling == {"max_new_tokens": 4096, "stop_token_ids": list(QWEN3.stop_token_ids)}
    settings = ModelSettings(temperature=0.0, top_k=3, seed=1)
    done, _ = await call(model_of(engine, QWEN3), prompt([message("user", "Hi.")], settings=settings))
    assert (engine.requests[1].temperature, engine.requests[1].top_k, engine.requests[1].seed) == (0.0, 3, 1)
    assert done.capture is not None and done.capture.call.sampling["temperature"] == 0.0
    assert engine.requests[0].request_id != engine.requests[1].request_id
    assert {len(one.request_id) for one in engine.requests} == {32}


async def test_an_answer_cut_by_length_says_so_even_with_a_call_in_it() -> None:
    engine = SaidEngine([(ids(CALL, ended=False), "length")])
    done, _ = await call(model_of(engine, QWEN3), prompt([message("user", "Hi.")], tools=TOOLS))
    assert done.finish == "length" and len(done.tool_calls) == 1
    assert done.capture is not None and not done.capture.call.stop_token_included


async def test_a_call_that_cannot_be_read_is_reported_and_kept() -> None:
    engine = SaidEngine([(ids(CALL[:40], ended=False), "length")])
    done, _ = await call(model_of(engine, QWEN3), prompt([message("user", "Hi.")], tools=TOOLS))
    assert done.tool_calls == () and done.unparsed[0][0] == CALL[:40]
    assert done.content == (TextPart(CALL[:40]),)


async def test_logprobs_name_the_tokens_as_they_are() -> None:
    emoji = QWEN3.tokenizer.encode("🙂")
    engine = SaidEngine([([*emoji, END], "stop")])
    asked = prompt([message("user", "Hi.")], want_logprobs=True, top_logprobs=2)
    done, _ = await call(model_of(engine, QWEN3), asked)
    assert done.logprobs is not None and done.capture is not None
    assert b"".join(bytes(one.bytes or []) for one in done.logprobs) == "🙂<|im_end|>".encode()
    assert done.logprobs[-1].token == "<|im_end|>"
    assert [len(one.top) for one in done.logprobs] == [2] * len(done.logprobs)
    assert done.capture.call.top_logprobs is not None
    done, _ = await call(model_of(engine_of("x"), QWEN3), prompt([message("user", "Hi.")]))
    assert done.logprobs is None and done.capture is not None and done.capture.call.top_logprobs is None


async def test_an_id_the_model_has_and_the_tokenizer_has_not_may_be_sent_back() -> None:
    extra = small_tokenizer().info.vocab_size + 5
    engine, tokens = SaidEngine([([extra, END], "stop"), ([END], "stop")]), TokenStream()
    first = prompt([message("user", "Hi.")])
    done, _ = await call(model_of(engine, QWEN3), first, tokens)
    assert done.content == () and done.capture is not None
    extend(tokens, done.capture)
    await call(model_of(engine, QWEN3), prompt([*first.messages, answer(first, done), message("user", "?")]), tokens)
    assert extra in engine.requests[1].ids and engine.requests[1].vocab_size == extra + 1


class _Fixed(SaidEngine):
    def __init__(self, *items: Any) -> None:
        super().__init__()
        self._items = items

    async def generate(self, request: Any) -> Any:
        for item in self._items:
            yield item


@pytest.mark.parametrize(
    ("items", "why"),
    [
        ([TokenBatch(ids=[65, 66], logprobs=[-0.1])], "2 ids with 1 logprobs"),
        ([TokenBatch(ids=[65], logprobs=[float("nan")])], "no finite number"),
        ([TokenBatch(ids=[65], logprobs=[float("-inf")])], "no finite number"),
        ([TokenBatch(ids=[65], logprobs=[-0.1])], "ended the answer .* without saying why"),
        ([], "ended the answer .* without saying why"),
    ],
)
async def test_an_engine_whose_record_is_not_usable_is_an_error(items: list[Any], why: str) -> None:
    if "without" not in why:
        items = [*items, TokenDone(finish=Finish("stop"))]
    with pytest.raises(ProviderError, match=why):
        await call(model_of(_Fixed(*items), QWEN3), prompt([message("user", "Hi.")]))


async def test_left_out_top_logprobs_are_an_error() -> None:
    engine = _Fixed(TokenBatch(ids=[65], logprobs=[-0.1]), TokenDone(finish=Finish("stop")))
    with pytest.raises(ProviderError, match="top logprobs"):
        await call(model_of(engine, QWEN3), prompt([message("user", "Hi.")], want_logprobs=True, top_logprobs=2))


async def test_leaving_early_ends_the_generation() -> None:
    engine = engine_of("a long answer " * 20)
    async with aclosing(model_of(engine, QWEN3).stream(prompt([message("user", "Hi.")]))) as batches:  # type: ignore[type-var]
        async for _ in batches:
            break
    assert engine.closed == 1


async def test_long_prompts_are_encoded_without_holding_up_others() -> None:
    long = prompt([message("user", "the quick brown fox " * 20_000)], context_window=10_000_000)
    beats = 0

    async def beat() -> None:
        nonlocal beats
        while True:
            beats += 1
            await asyncio.sleep(0.001)

    heart = asyncio.create_task(beat())
    await call(model_of(engine_of("ok"), QWEN3), long)
    heart.cancel()
    assert beats > 5


async def test_grammars_go_to_the_engine_that_takes_them() -> None:
    for kind, choice, expected in (
        ("llamacpp", "auto", "gbnf_lazy"),
        ("llamacpp", "look", "gbnf"),
        ("sglang", "auto", None),
        ("sglang", "look", "gbnf"),
        ("vllm", "required", "gbnf"),
    ):
        engine = engine_of("ok", kind=kind)
        done, _ = await call(model_of(engine, QWEN3), prompt([message("user", "Hi.")], tools=TOOLS, tool_choice=choice))
        grammar = engine.requests[0].grammar
        assert (grammar or {}).get("kind") == expected
        assert done.capture is not None
        assert ("grammar_sha256" in done.capture.call.sampling) == (expected is not None)


def _messages(*roles_and_ids: tuple[Any, str]) -> list[Message]:
    return [Message(id=message_id, role=role, created_us=0) for role, message_id in roles_and_ids]


def test_the_stream_covers_the_messages_a_context_begins_with() -> None:
    said = new_id("message")
    covered = ["u", said]
    assert covered_count(_messages(("user", "u"), ("assistant", said)), covered) == 2
    assert covered_count(_messages(("user", "u"), ("assistant", said), ("user", "v")), covered) == 2
    assert covered_count(_messages(("user", "u"), ("user", "other")), covered) is None
    assert covered_count(_messages(("user", "u")), covered) is None


def test_common_prefixes_are_exact() -> None:
    a = array("i", range(5000))
    for at in (0, 1, 1023, 1024, 1025, 4999):
        b = array("i", a)
        b[at] = -1
        assert common_prefix(a, b) == common_prefix(b, a) == at
    assert common_prefix(a, a[:3000]) == 3000
    assert common_prefix(a, a) == 5000
    assert common_prefix(a, array("i")) == 0


async def test_a_record_that_does_not_continue_its_segment_is_refused() -> None:
    done, _ = await call(model_of(engine_of("ok"), QWEN3), prompt([message("user", "Hi.")]))
    assert isinstance(done, ModelDone) and done.capture is not None and done.capture.segment is not None
    with pytest.raises(ProviderError, match="does not continue its segment"):
        restore(done.capture.segment, [done.capture.call, done.capture.call])


async def test_a_tool_named_like_nothing_known_still_gets_no_grammar_without_tools() -> None:
    engine = engine_of("ok", kind="llamacpp")
    await call(model_of(engine, QWEN3), prompt([message("user", "Hi.")], tools=[], tool_choice="required"))
    assert engine.requests[0].grammar is None
    odd = ToolSpec('say "hi"\n', "", {})
    engine = engine_of("ok", kind="llamacpp")
    await call(model_of(engine, QWEN3), prompt([message("user", "Hi.")], tools=[odd], tool_choice="required"))
    grammar = engine.requests[0].grammar
    assert grammar is not None and r"\\\"hi\\\"\\n" in grammar["grammar"]


async def test_the_settings_may_name_another_form_of_calls() -> None:
    written = "<tool_call>\n<function=look>\n<parameter=at>\n7\n</parameter>\n</function>\n</tool_call>"
    asked = prompt([message("user", "Hi.")], tools=TOOLS, settings=ModelSettings(tool_call_parser="qwen3_coder"))
    done, _ = await call(model_of(engine_of(written), QWEN3), asked)
    assert [(one.name, one.arguments) for one in done.tool_calls] == [("look", '{"at": "7"}')]
    assert done.capture is not None and done.capture.call.parse["tool_format"] == "qwen_xml"
    done, _ = await call(model_of(engine_of(written), QWEN3), prompt([message("user", "Hi.")], tools=TOOLS))
    assert done.tool_calls == () and done.unparsed[0][0] == written


@pytest.mark.parametrize(("kind", "free", "held"), [("vllm", "raw", "processed"), ("llamacpp", "raw", "raw")])
async def test_logprobs_of_what_a_grammar_left_are_declared_so(kind: str, free: str, held: str) -> None:
    for form, semantics in ((None, free), ({"type": "json_object"}, held)):
        settings = ModelSettings(enable_thinking=False, response_format=form)
        done, _ = await call(
            model_of(engine_of("{}", kind=kind), QWEN3), prompt([message("user", "Hi.")], settings=settings)
        )
        assert done.capture is not None and done.capture.call.logprob_semantics == semantics
