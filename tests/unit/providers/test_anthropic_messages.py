"""Contexts as turns of the Messages API."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from perdure.core.messages import (
    Approval,
    HiddenReasoningPart,
    ImagePart,
    Message,
    ReasoningPart,
    Role,
    TextPart,
    ToolCall,
    ToolReturn,
)
from perdure.providers.anthropic_messages import TurnEncoder

MARK = {"type": "ephemeral"}
_ids = iter(range(1, 10**9))


def message(role: Role, text: str = "", **more: Any) -> Message:
    content = more.pop("content", (TextPart(text),) if text else ())
    return Message(**{"id": f"message-{next(_ids)}", "role": role, "created_us": 1, "content": content, **more})


def said(text: str = "", *calls: str, **more: Any) -> Message:
    tool_calls = tuple(ToolCall(call, "f", "{}") for call in calls)
    return message("assistant", text, **{"model": "anthropic/m", "tool_calls": tool_calls, **more})


def returned(*ids: str, **more: Any) -> Message:
    return message("tool", tool_returns=tuple(ToolReturn(each, "f", "success", f"r-{each}") for each in ids), **more)


def turns(*messages: Message, marks: bool = False, encoder: TurnEncoder | None = None) -> list[dict[str, Any]]:
    context = (encoder or TurnEncoder("anthropic")).context(list(messages), marks=marks)
    return json.loads(b"".join(context.pieces))


def kinds(turn: dict[str, Any]) -> list[str]:
    return [block["type"] for block in turn["content"]]


def test_roles_alternate() -> None:
    made = turns(message("user", "a"), message("system", "note"), message("user", "b"), said("c"), said("d"))
    assert [turn["role"] for turn in made] == ["user", "assistant", "user"]
    assert [block["text"] for block in made[0]["content"]] == ["a", "<system>\nnote\n</system>", "b"]
    assert [block["text"] for block in made[1]["content"]] == ["c", "d"]


def test_a_context_begins_and_ends_with_the_user() -> None:
    assert [turn["role"] for turn in turns(said("a"))] == ["user", "assistant", "user"]
    assert [turn["role"] for turn in turns()] == ["user"]


def test_empty_texts_are_left_out() -> None:
    made = turns(message("user", " \n"), message("user", "a"), said(" "), said("", content=(TextPart(""),)))
    assert made == [{"role": "user", "content": [{"type": "text", "text": "a"}]}]


def test_results_come_first_and_together() -> None:
    made = turns(
        message("user", "a"), said("", "t1", "t2"), message("user", "meanwhile"), returned("t1"), returned("t2")
    )
    assert kinds(made[2]) == ["tool_result", "tool_result", "text"]


def test_a_call_without_an_answer_gets_one_that_says_so() -> None:
    made = turns(message("user", "a"), said("", "t1", "t2"), returned("t2"), said("", "t3"))
    first, second = made[2]["content"]
    assert first["tool_use_id"] == "t2"
    assert second["tool_use_id"] == "t1" and second["is_error"] and "on record" in second["content"]
    assert made[4]["content"][0]["tool_use_id"] == "t3"


def test_a_result_without_its_call_becomes_text() -> None:
    made = turns(message("summary", "so far"), returned("t0"), said("", "t1"), returned("t1", id="m-1"), returned("t1"))
    assert kinds(made[0]) == ["text", "text"] and "r-t0" in made[0]["content"][0]["text"]
    assert kinds(made[2]) == ["tool_result", "text"]


def test_arguments_stand_as_they_were_written() -> None:
    calls = (ToolCall("t1", "f", '{"b": 1,  "a": 2.50}'), ToolCall("t2", "f", "{bad"), ToolCall("t3", "f", ""))
    context = TurnEncoder("anthropic").context([message("user", "x"), said(tool_calls=calls)], marks=False)
    encoded = b"".join(context.pieces)
    assert b'"input":{"b": 1,  "a": 2.50}' in encoded
    inputs = [block["input"] for block in json.loads(encoded)[1]["content"]]
    assert inputs[1] == {"not valid JSON; the model wrote": "{bad"} and inputs[2] == {}


def test_ids_of_other_providers_are_made_fit_alike_on_both_sides() -> None:
    made = turns(message("user", "a"), said("", "functions.f:0"), returned("functions.f:0"))
    assert made[1]["content"][0]["id"] == made[2]["content"][0]["tool_use_id"] == "functions_f_0"


THOUGHT = (ReasoningPart("a", signature="s"), HiddenReasoningPart("d"), ReasoningPart("unsigned"), TextPart("b"))


def test_thinking_goes_back_signed_and_in_order() -> None:
    made = turns(message("user", "x"), said(content=THOUGHT))
    assert made[1]["content"] == [
        {"type": "thinking", "thinking": "a", "signature": "s"},
        {"type": "redacted_thinking", "data": "d"},
        {"type": "text", "text": "b"},
    ]


def test_thinking_of_others_is_left_out() -> None:
    for model in ("openai/m", None, "anthropic2/m"):
        assert kinds(turns(message("user", "x"), said(content=THOUGHT, model=model))[1]) == ["text"]


def test_omitted_thinking_goes_back_too() -> None:
    made = turns(message("user", "x"), said(content=(ReasoningPart("", signature="s"), TextPart("b"))))
    assert made[1]["content"][0] == {"type": "thinking", "thinking": "", "signature": "s"}


def test_calls_go_back_where_they_came() -> None:
    content = (ReasoningPart("a", signature="1"), ReasoningPart("b", signature="2"), TextPart("c"))
    calls = (ToolCall("t1", "f", "{}", at=1), ToolCall("t2", "f", "{}", at=2), ToolCall("t3", "f", "{}"))
    answer = said(content=content, tool_calls=calls, calls_at=1)
    made = turns(message("user", "x"), answer, returned("t1", "t2", "t3"))
    assert kinds(made[1]) == ["thinking", "tool_use", "thinking", "tool_use", "text", "tool_use"]
    foreign = said(content=content, tool_calls=calls, calls_at=1, model="openai/m")
    assert kinds(turns(message("user", "x"), foreign, returned("t1", "t2", "t3"))[1]) == ["text", *["tool_use"] * 3]


def test_whether_a_turn_under_way_began_without_thinking() -> None:
    def missing(*messages: Message) -> bool:
        return TurnEncoder("anthropic").context(list(messages), marks=False).thinking_missing

    thought = said("", "t1", content=(ReasoningPart("a", signature="s"),))
    assert missing(message("user", "x"), said("", "t1"), returned("t1"))
    assert not missing(message("user", "x"), thought, returned("t1"))
    assert not missing(message("user", "x"), said("y"), message("user", "z"))
    assert not missing(message("user", "x"))


def test_images() -> None:
    parts = (TextPart("see"), ImagePart(media_type="image/jpeg", data="QQ=="), ImagePart(url="https://x.test/a.png"))
    made = turns(message("user", content=parts))[0]["content"]
    assert made[1]["source"] == {"type": "base64", "media_type": "image/jpeg", "data": "QQ=="}
    assert made[2]["source"] == {"type": "url", "url": "https://x.test/a.png"}
    told = turns(message("user", content=parts), encoder=TurnEncoder("bedrock", addresses=False))[0]["content"]
    assert told[2]["type"] == "text" and "https://x.test/a.png" in told[2]["text"]


def test_an_empty_return_has_no_content() -> None:
    answer = message("tool", tool_returns=(ToolReturn("t1", "f", "success", ""),))
    made = turns(message("user", "x"), said("", "t1"), answer)
    assert made[2]["content"] == [{"type": "tool_result", "tool_use_id": "t1"}]


def test_a_denial_answers_the_call() -> None:
    asked = message("approval", tool_calls=(ToolCall("t1", "f", "{}"),), model="anthropic/m")
    denied = message("approval", approvals=(Approval("t1", False, "no"),))
    made = turns(message("user", "x"), asked, denied)
    assert made[1]["content"][0]["type"] == "tool_use"
    assert made[2]["content"][0]["is_error"] and "denied" in made[2]["content"][0]["content"]


def marked(made: list[dict[str, Any]]) -> list[tuple[int, int]]:
    return [
        (at, index)
        for at, turn in enumerate(made)
        for index, block in enumerate(turn["content"])
        if "cache_control" in block
    ]


def test_each_call_marks_where_the_one_before_it_did() -> None:
    encoder, context = TurnEncoder("anthropic"), [message("user", "a")]
    seen: list[list[tuple[int, int]]] = []
    for step in range(3):
        seen.append(marked(json.loads(b"".join(encoder.context(context, marks=True).pieces))))
        context += [said("", f"t{step}"), returned(f"t{step}")]
    assert seen == [[(0, 0)], [(0, 0), (2, 0)], [(2, 0), (4, 0)]]


def strip(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: strip(each) for key, each in value.items() if key != "cache_control"}
    return [strip(each) for each in value] if isinstance(value, list) else value


steps = st.lists(
    st.sampled_from(["user", "said", "called", "empty", "system", "stray", "denied"]), min_size=1, max_size=30
)


@given(steps)
def test_a_growing_context_is_encoded_as_a_new_one_and_only_grows(words: list[str]) -> None:
    encoder, context = TurnEncoder("anthropic"), list[Message]()
    earlier: list[Any] = []
    for at, word in enumerate(words):
        match word:
            case "user":
                context.append(message("user", f"u{at}"))
            case "said":
                context.append(said(f"a{at}", content=THOUGHT))
            case "called":
                context += [said("", f"t{at}", f"q{at}"), returned(f"t{at}", f"q{at}")]
            case "empty":
                context.append(said(""))
            case "system":
                context.append(message("system", f"s{at}"))
            case "stray":
                context.append(returned(f"z{at}"))
            case _:
                asked = message("approval", tool_calls=(ToolCall(f"d{at}", "f", "{}"),), model="anthropic/m")
                context += [asked, message("approval", approvals=(Approval(f"d{at}", False),))]
        made = json.loads(b"".join(encoder.context(context, marks=True).pieces))
        assert made == turns(*context, marks=True)
        assert [turn["role"] for turn in made] == [("user", "assistant")[index % 2] for index in range(len(made))]
        assert made[-1]["role"] == "user" and all(turn["content"] for turn in made)
        assert len(marked(made)) <= 2 and marked(made)[-1][0] == len(made) - 1
        for before, after in zip(earlier[:-2], strip(made)[: max(len(earlier) - 2, 0)], strict=True):
            assert before == after
        earlier = strip(made)
