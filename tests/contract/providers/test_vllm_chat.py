"""vLLM asked in messages: the ids it tells are on record, a prompt that departs from them says so, and nothing is made up."""

import asyncio
from array import array
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import msgspec
import pytest

from perdure.core.agents import ModelSettings
from perdure.core.errors import Invalid, ProviderError
from perdure.core.messages import Message, ReasoningPart, TextPart
from perdure.core.model import ModelDone, ReasoningChunk, TextChunk, ToolCallChunk, ToolSpec
from perdure.core.tokens import Segment, TokenCall, bytes_to_floats, bytes_to_ids
from perdure.providers.base import TokenStream
from perdure.providers.configs import ProviderConfig
from perdure.providers.dialects import CHAT
from perdure.providers.http import Endpoint, Http
from perdure.providers.openai_chat import OpenAIChat
from perdure.providers.registry import Registry
from perdure.providers.scripted import Completion
from perdure.providers.token_exact import extend
from perdure.providers.vllm import VLLM
from perdure.providers.vllm_chat import VLLMChat
from perdure.tokens.export import dump_jsonl
from perdure.tokens.trajectory import rollouts_of
from perdure.tokens.verify import verify_bytes
from tests.doubles.conversations import answer, call, message, prompt, returns
from tests.doubles.vllm import VLLMDouble
from tests.doubles.wire import Wire, sample, streamed
from tests.doubles.wire import answer as answered

LOOK = ToolSpec("look", "Look at something.", {"type": "object", "properties": {"at": {"type": "string"}}})
CALL = '<tool_call>\n{"name": "look", "arguments": {"at": "x"}}\n</tool_call>'
SPACED = '<tool_call>\n{"name": "look",  "arguments": {"at" : "x"}}\n</tool_call>'


@pytest.fixture
def double() -> Iterator[VLLMDouble]:
    made = VLLMDouble()
    yield made
    made.close()


def model_at(http: Http, url: str, *, stream: bool = True, version: str | None = "0.32.0") -> VLLMChat:
    chat = OpenAIChat(http, Endpoint("vllm", f"{url}/v1"), "tiny", CHAT["vllm"], stream=stream)
    engine = VLLM(http, Endpoint("vllm", url))
    return VLLMChat(chat, engine, provider_name="vllm", model_name="tiny", handle="vllm/tiny", engine_version=version)


class Talk:
    """A conversation; every call's record is checked against what the server says it used and sampled."""

    def __init__(self, model: VLLMChat, double: VLLMDouble) -> None:
        self.model = model
        self.double = double
        self.messages: list[Message] = []
        self.tokens = TokenStream()
        self.segments: list[Segment] = []
        self.calls: list[TokenCall] = []

    async def say(self, text: str, **more: Any) -> ModelDone:
        self.messages.append(message("user", text))
        return await self.step(**more)

    async def step(self, **more: Any) -> ModelDone:
        given: dict[str, Any] = {
            "tools": (LOOK,),
            "conversation_id": "conv-1",
            "agent_id": "agent-1",
            "run_id": "run-1",
        }
        asked = prompt(self.messages, **given | more)
        done, _ = await call(self.model, asked, self.tokens)  # type: ignore[arg-type]
        assert done.capture is not None and done.not_exact is None
        made, segment = done.capture.call, done.capture.segment
        extend(self.tokens, done.capture)
        used = self.double.prompt_ids(self.double.requests[-1])
        assert self.tokens.ids[: made.prompt_len].tolist() == used
        ids = self.tokens.ids
        assert self.double.score(ids, made.prompt_len) == pytest.approx(bytes_to_floats(made.logprobs), abs=1e-6)
        self.calls.append(made)
        if segment is not None:
            self.segments.append(segment)
        self.messages.append(answer(asked, done))
        return done

    def record(self) -> dict[str, Any]:
        made = rollouts_of(self.segments, self.calls, self.messages)
        report = verify_bytes(dump_jsonl(made), tokenizer=self.double.tokenizer)
        assert report.ok and report.drift == 0, report.violations
        [record] = made
        return record


async def test_plain_turns_go_on_in_one_segment(http: Http, double: VLLMDouble) -> None:
    talk = Talk(model_at(http, double.base_url), double)
    for turn in range(4):
        double.script(f"Answer {turn}. é🦜")
        done = await talk.say(f"Question {turn}?")
        assert done.finish == "stop" and done.content == (TextPart(f"Answer {turn}. é🦜"),)
    assert [segment.cause for segment in talk.segments] == ["root"]
    segment = talk.segments[0]
    assert segment.tokenizer is None and segment.renderer is not None
    assert (segment.renderer.name, segment.renderer.version) == ("vllm-chat", "0.32.0")
    assert all(a.prompt_len + a.length <= b.prompt_len for a, b in pairwise(talk.calls))
    record = talk.record()
    assert sum(sum(each["loss_mask"]) for each in record["segments"]) == sum(made.length for made in talk.calls)
    assert {made.engine for made in talk.calls} == {"vllm"} and {made.logprob_semantics for made in talk.calls} == {
        "raw"
    }


@pytest.mark.parametrize("stream", [True, False])
async def test_calls_and_thinking_are_the_servers_reading(http: Http, double: VLLMDouble, stream: bool) -> None:
    double.script("<think>\nHm.\n</think>\n\nI look.\n" + CALL)
    asked = prompt(
        [message("user", "Hi.")], tools=(LOOK,), settings=ModelSettings(top_logprobs=2, max_output_tokens=99)
    )
    done, chunks = await call(model_at(http, double.base_url, stream=stream), asked, TokenStream())  # type: ignore[arg-type]
    assert done.finish == "tool_calls" and done.logprobs is None
    assert [(each.name, each.arguments) for each in done.tool_calls] == [("look", '{"at": "x"}')]
    assert [type(part) for part in done.content] == [ReasoningPart, TextPart]
    for kind in (TextChunk, ReasoningChunk, ToolCallChunk):
        assert any(isinstance(chunk, kind) for chunk in chunks)
    assert done.capture is not None
    made = done.capture.call
    ids = bytes_to_ids(made.completion_ids)
    assert double.tokenizer.decode(ids) == "<think>\nHm.\n</think>\n\nI look.\n" + CALL + "<|im_end|>"
    assert made.finish.type == "stop" and made.finish.matched == ids[-1] and made.stop_token_included
    assert made.top_logprobs is not None and all(len(top) == 2 for top in made.top_logprobs)
    assert made.sampling == {"max_new_tokens": 99} and made.parse == {"by": "server"}
    sent = double.requests[0]
    assert sent["return_token_ids"] is sent["return_tokens_as_token_ids"] is sent["logprobs"] is True
    assert sent["top_logprobs"] == 2 and sent.get("stream", False) is stream


async def test_a_call_written_anew_in_other_words_begins_a_segment(http: Http, double: VLLMDouble) -> None:
    talk = Talk(model_at(http, double.base_url), double)
    double.script(SPACED, "Done.", "Bye.")
    done = await talk.say("Look.")
    talk.messages.append(returns(done))
    await talk.step()
    await talk.say("And?")
    root, again = talk.segments
    assert (root.cause, again.cause, again.parent_segment_id) == ("root", "renderer_fallback", root.id)
    first = talk.calls[0]
    assert first.prompt_len < again.parent_offset < first.prompt_len + first.length
    assert again.cause_detail is not None and f"after {again.parent_offset} of" in again.cause_detail
    assert "in the last answer" in again.cause_detail
    assert [made.bridge for made in talk.calls] == ["render", "fallback", "render"]
    assert [made.segment_id for made in talk.calls] == [root.id, again.id, again.id]
    record = talk.record()
    assert [sum(each["loss_mask"]) for each in record["segments"]] == [
        first.length,
        sum(made.length for made in talk.calls[1:]),
    ]


async def test_a_call_written_anew_in_the_same_words_goes_on(http: Http, double: VLLMDouble) -> None:
    talk = Talk(model_at(http, double.base_url), double)
    double.script(CALL, "Done.")
    talk.messages.append(returns(await talk.say("Look.")))
    await talk.step()
    assert [segment.cause for segment in talk.segments] == ["root"]
    talk.record()


async def test_thinking_the_template_leaves_out_begins_a_segment(http: Http, double: VLLMDouble) -> None:
    talk = Talk(model_at(http, double.base_url), double)
    double.script("<think>\nHm.\n</think>\n\nOne.", "Two.")
    await talk.say("Hi.")
    await talk.say("Again.")
    assert [segment.cause for segment in talk.segments] == ["root", "renderer_fallback"]
    assert talk.segments[1].parent_offset == talk.calls[0].prompt_len
    talk.record()


async def test_what_the_server_itself_changed_is_the_cause(http: Http, double: VLLMDouble) -> None:
    talk = Talk(model_at(http, double.base_url), double)
    double.script(*["Yes."] * 6)
    await talk.say("Hi.")
    await talk.say("Hi.", system="Be long.")
    await talk.say("Hi.", system="Be long.", tools=())
    talk.messages[0] = message("user", "Hello.")
    await talk.say("Hi.", system="Be long.", tools=())
    talk.tokens.break_cause = ("compaction", "summarised")
    await talk.say("Hi.", system="Be long.", tools=())
    talk.model = model_at(http, double.base_url, version="0.33.0")
    await talk.say("Hi.", system="Be long.", tools=())
    causes = ["root", "memory_rewrite", "tools_change", "history_edit", "compaction", "model_change"]
    assert [segment.cause for segment in talk.segments] == causes
    talk.record()


async def test_tools_that_rules_take_away_change_what_the_server_shows(http: Http, double: VLLMDouble) -> None:
    talk = Talk(model_at(http, double.base_url), double)
    double.script("Yes.", "No.")
    await talk.say("Hi.", shown_tools=(LOOK,))
    await talk.say("Hi.", tools=(), shown_tools=(LOOK,))
    assert [segment.cause for segment in talk.segments] == ["root", "tools_change"]


async def test_an_answer_cut_by_its_limit_goes_on(http: Http, double: VLLMDouble) -> None:
    talk = Talk(model_at(http, double.base_url), double)
    double.script("One two three four five.", "Six.")
    done = await talk.say("Count.", settings=ModelSettings(max_output_tokens=4))
    assert done.finish == "length" and talk.calls[0].length == 4 and not talk.calls[0].stop_token_included
    await talk.say("Go on.")
    assert [segment.cause for segment in talk.segments] == ["root"]
    assert talk.record()["calls"][0]["finish"]["type"] == "length"


async def test_routed_experts_are_refused(http: Http, double: VLLMDouble) -> None:
    talk = Talk(model_at(http, double.base_url), double)
    with pytest.raises(ProviderError, match="return_routed_experts"):
        await talk.say("Hi.", settings=ModelSettings(return_routed_experts=True))
    assert not double.requests


async def test_token_texts_are_told_where_they_are_wanted(http: Http, double: VLLMDouble) -> None:
    double.script("Hi.")
    asked = prompt([message("user", "Hi.")], want_logprobs=True, top_logprobs=1)
    done, _ = await call(model_at(http, double.base_url), asked, TokenStream())  # type: ignore[arg-type]
    assert done.logprobs is not None and done.capture is not None
    assert "".join(each.token for each in done.logprobs) == "Hi.<|im_end|>"
    recorded = bytes_to_floats(done.capture.call.logprobs)
    assert [each.logprob for each in done.logprobs] == pytest.approx(list(recorded))
    assert done.capture.call.top_logprobs is None  # their ids are not told


@pytest.mark.parametrize(
    ("more", "semantics"),
    [
        ({}, "raw"),
        ({"tool_choice": "none"}, "raw"),
        ({"tool_choice": "look"}, "processed"),
        ({"tool_choice": "required"}, "processed"),
        ({"tools": (msgspec.structs.replace(LOOK, strict=True),)}, "processed"),
        ({"settings": ModelSettings(response_format={"type": "json_object"})}, "processed"),
    ],
)
async def test_logprobs_under_a_form_of_the_servers_are_no_raw_ones(
    http: Http, double: VLLMDouble, more: dict[str, Any], semantics: str
) -> None:
    double.script("Hi.")
    asked = prompt([message("user", "Hi.")], **{"tools": (LOOK,), **more})
    done, _ = await call(model_at(http, double.base_url), asked, TokenStream())  # type: ignore[arg-type]
    assert done.capture is not None and done.capture.call.logprob_semantics == semantics


async def test_a_cancelled_answer_is_on_record_and_not_to_be_trained(http: Http, double: VLLMDouble) -> None:
    double.script(Completion(text="One two three four five six seven eight.", batch=1, pause_s=0.05))
    held: list[ModelDone] = []
    asked = prompt([message("user", "Count.")], on_cut_off=held.append)
    begun = asyncio.Event()

    async def read() -> None:
        async for batch in model_at(http, double.base_url).stream(asked, TokenStream()):
            if any(isinstance(chunk, TextChunk) for chunk in batch):
                begun.set()

    reading = asyncio.create_task(read())
    await begun.wait()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    [done] = held
    assert done.finish == "abort" and done.capture is not None
    made = done.capture.call
    assert made.finish.type == "abort" and not made.trainable and 0 < made.length < 20
    said = double.tokenizer.decode(bytes_to_ids(made.completion_ids))
    assert done.content and said.startswith(done.content[0].text)  # type: ignore[union-attr]
    for _ in range(100):
        if double.disconnects:
            break
        await asyncio.sleep(0.01)
    assert double.disconnects == 1


async def test_without_ids_nothing_is_on_record_and_the_step_says_why(http: Http, double: VLLMDouble) -> None:
    double.tells_ids = False
    double.script("Hi.", "Hi.")
    for stream in (True, False):
        asked = prompt([message("user", "Hi.")])
        done, _ = await call(model_at(http, double.base_url, stream=stream), asked, TokenStream())  # type: ignore[arg-type]
        assert done.content == (TextPart("Hi."),) and done.capture is None
        assert done.not_exact is not None and "return_token_ids" in done.not_exact


async def test_an_answer_with_ids_missing_is_not_on_record(http: Http, double: VLLMDouble) -> None:
    double.withheld = 2
    double.script("Hi.")
    done, _ = await call(model_at(http, double.base_url), prompt([message("user", "Hi.")]), TokenStream())  # type: ignore[arg-type]
    assert done.capture is None and done.not_exact is not None and "of an answer of" in done.not_exact


async def test_an_answer_the_engine_breaks_off_is_an_error(http: Http, double: VLLMDouble) -> None:
    double.script(Completion(text="One two", finish="abort"))
    with pytest.raises(ProviderError, match="broke off") as failed:
        await call(model_at(http, double.base_url), prompt([message("user", "Hi.")]), TokenStream())  # type: ignore[arg-type]
    assert not failed.value.retryable


async def test_an_error_in_the_stream_is_told_as_any_chat_tells_it(http: Http, wire: Wire) -> None:
    frames = sample("vllm-chat-stream")["frames"]
    wire.answers = [streamed([frames[0], {"error": {"message": "Oops", "type": "InternalServerError", "code": 500}}])]
    with pytest.raises(ProviderError, match="Oops"):
        await call(model_at(http, wire.url), prompt([message("user", "Hi.")]), TokenStream())  # type: ignore[arg-type]


@pytest.mark.parametrize("change", [{"logprob": -9999.0}, {"token": "token_id:8"}, {"token": "seven"}])
async def test_logprobs_that_do_not_add_up_are_errors(http: Http, wire: Wire, change: dict[str, Any]) -> None:
    token = {"token": "token_id:7", "logprob": -0.5, "bytes": None, "top_logprobs": []} | change
    choice = {"index": 0, "delta": {"content": "x"}, "logprobs": {"content": [token]}, "token_ids": [7]}
    first = {"id": "c", "choices": [{"index": 0, "delta": {"role": "assistant"}}], "prompt_token_ids": [1, 2]}
    frame = {"id": "c", "choices": [choice | {"finish_reason": "stop"}]}
    wire.answers = [streamed([first, frame, "[DONE]"])]
    with pytest.raises(ProviderError, match="not usable"):
        await call(model_at(http, wire.url), prompt([message("user", "Hi.")]), TokenStream())  # type: ignore[arg-type]


# --- how it comes to be asked so


ENV = {"HF_HUB_OFFLINE": "1"}


def registry(http: Http, double: VLLMDouble, **options: Any) -> Registry:
    config = ProviderConfig(name="vllm", kind="vllm", base_url=double.base_url)
    if options:
        config = msgspec.structs.replace(config, options=msgspec.structs.replace(config.options, **options))
    return Registry([config], env=ENV, http=http)


async def test_an_agent_that_asks_for_chat_completions_is_exact(http: Http, double: VLLMDouble) -> None:
    for found, settings in (
        (registry(http, double), ModelSettings(wire_api="chat")),
        (registry(http, double, wire_api="chat"), ModelSettings()),
    ):
        resolved = await found.resolve("vllm/tiny", settings=settings, require_exact=True)
        assert isinstance(resolved.model, VLLMChat) and resolved.not_exact is None
        double.script("Hi.")
        done, _ = await call(resolved.model, prompt([message("user", "Hi.")]), TokenStream())  # type: ignore[arg-type]
        assert done.capture is not None and done.capture.call.engine_version == "0.32.0"


async def test_without_a_tokenizer_the_ids_are_kept_and_the_two_ways_named(http: Http, double: VLLMDouble) -> None:
    found = registry(http, double)
    resolved = await found.resolve("vllm/tiny")
    double.script("Hi.")
    done, _ = await call(resolved.model, prompt([message("user", "Hi.")]), TokenStream())  # type: ignore[arg-type]
    assert done.capture is not None and done.not_exact is None
    with pytest.raises(Invalid, match="PERDURE_TOKENIZERS") as refused:
        await found.resolve("vllm/tiny", require_exact=True)
    assert "wire_api" in refused.value.message


async def test_recorded_answers_are_read(http: Http, wire: Wire) -> None:
    """As the real server sent them (scripts/engines), streamed and whole: the same record."""
    whole, stream = sample("vllm-chat-ids"), sample("vllm-chat-ids-stream")
    seen: list[tuple[list[int], list[int], list[float]]] = []
    for recorded in (whole, stream):
        streams = "frames" in recorded
        wire.answers = [streamed(recorded["frames"]) if streams else answered(200, recorded["response"])]
        asked = prompt([message("user", "hi")])
        done, _ = await call(model_at(http, wire.url, stream=streams), asked, TokenStream())  # type: ignore[arg-type]
        assert done.capture is not None
        made = done.capture.call
        seen.append(
            (
                bytes_to_ids(made.delta_ids).tolist(),
                bytes_to_ids(made.completion_ids).tolist(),
                list(bytes_to_floats(made.logprobs)),
            )
        )
    assert seen[0][:2] == seen[1][:2] and seen[0][2] == pytest.approx(seen[1][2], abs=1e-4)
    response = whole["response"]
    assert seen[0][:2] == (response["prompt_token_ids"], response["choices"][0]["token_ids"])
    told = array("f", [each["logprob"] for each in response["choices"][0]["logprobs"]["content"]])
    assert seen[0][2] == list(told)
