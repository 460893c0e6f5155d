"""Stored messages as input items of the Responses API."""

from typing import Any

import msgspec

from perdure.core.messages import (
    Approval,
    HiddenReasoningPart,
    ImagePart,
    Message,
    Part,
    ReasoningPart,
    TextPart,
    ToolCall,
    ToolReturn,
)
from perdure.core.model import ToolSpec
from perdure.providers.responses_messages import InputEncoder
from perdure.providers.responses_wire import Kept, signature_of

_numbers = iter(range(10**9))


def message(role: Any, *content: Part, model: str = "acme/gpt-x", **more: Any) -> Message:
    return Message(id=f"message-{next(_numbers)}", role=role, created_us=1, content=content, model=model, **more)


def encoded(*messages: Message, encoder: InputEncoder | None = None) -> list[dict[str, Any]]:
    encoder = encoder or InputEncoder("acme")
    once = encoder.input(messages)
    assert encoder.input(list(messages)) == once  # from the cache
    return msgspec.json.decode(b"".join(once))


def kept(id: str, **more: Any) -> str:
    return signature_of(Kept(id=id, **more))


def test_roles() -> None:
    assert encoded(
        message("user", TextPart("hi")),
        message("assistant", TextPart("a"), TextPart("b")),
        message("system", TextPart("note")),
        message("summary", TextPart("before")),
    ) == [
        {"type": "message", "role": "user", "content": "hi"},
        {"type": "message", "role": "assistant", "content": "a"},
        {"type": "message", "role": "assistant", "content": "b"},
        {"type": "message", "role": "system", "content": "note"},
        {"type": "message", "role": "user", "content": "before"},
    ]


ANSWER = {
    "content": (
        ReasoningPart("One.\n\nTwo.", signature=kept("rs_1", encrypted="e1", cut=[("s", 4), ("s", 4)])),
        TextPart("Now.", kept("msg_1", phase="commentary")),
        HiddenReasoningPart(kept("rs_2", encrypted="e2")),
        TextPart("Done?", kept("msg_2")),
    ),
    "tool_calls": (
        ToolCall("call_1", "f", "{}", kept("fc_1")),
        ToolCall("call_2", "g", '{"a":1}', kept("fc_2"), at=3),
    ),
}


def test_an_answer_goes_back_as_the_items_it_came_in() -> None:
    made = message("assistant", *ANSWER["content"], tool_calls=ANSWER["tool_calls"], calls_at=2)
    text = {"type": "output_text", "annotations": []}
    done = {"type": "message", "role": "assistant", "status": "completed"}
    assert encoded(made) == [
        {
            "type": "reasoning",
            "id": "rs_1",
            "summary": [{"type": "summary_text", "text": "One."}, {"type": "summary_text", "text": "Two."}],
            "encrypted_content": "e1",
        },
        {**done, "id": "msg_1", "phase": "commentary", "content": [{**text, "text": "Now."}]},
        {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": "{}", "id": "fc_1"},
        {"type": "reasoning", "id": "rs_2", "summary": [], "encrypted_content": "e2"},
        {"type": "function_call", "call_id": "call_2", "name": "g", "arguments": '{"a":1}', "id": "fc_2"},
        {**done, "id": "msg_2", "content": [{**text, "text": "Done?"}]},
    ]


def test_another_providers_answer_goes_back_as_text_and_calls_alone() -> None:
    plain = [
        {"type": "message", "role": "assistant", "content": "Now."},
        {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": "{}"},
        {"type": "function_call", "call_id": "call_2", "name": "g", "arguments": '{"a":1}'},
        {"type": "message", "role": "assistant", "content": "Done?"},
    ]
    made = {"tool_calls": ANSWER["tool_calls"], "calls_at": 2}
    assert encoded(message("assistant", *ANSWER["content"], **made, model="acme2/gpt-x")) == plain
    assert encoded(message("assistant", *ANSWER["content"], **made, model=None)) == plain  # type: ignore[arg-type]
    own = message("assistant", *ANSWER["content"], **made)
    assert encoded(own, encoder=InputEncoder("acme", reasoning=False)) == plain


def test_reasoning_that_led_to_nothing_is_left_out_and_so_are_ids_without_reasoning() -> None:
    sealed = HiddenReasoningPart(kept("rs_1", encrypted="e"))
    assert encoded(message("assistant", sealed)) == []
    assert encoded(message("assistant", TextPart("x", kept("msg_1")), sealed)) == [
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "x", "annotations": []}]}
    ]
    unsealed = ReasoningPart("One.", signature=kept("rs_1", cut=[("s", 4)]))
    (call,) = encoded(message("assistant", unsealed, tool_calls=(ToolCall("c", "f", "{}", kept("fc_1")),)))
    assert call == {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}


def test_open_reasoning_goes_back_in_the_open() -> None:
    thought = ReasoningPart("Hm.\n\nSo.", signature=kept("rs_1", cut=[("c", 3), ("s", 3)]))
    (first, _) = encoded(message("assistant", thought, TextPart("x", kept("msg_1"))))
    assert first == {
        "type": "reasoning",
        "id": "rs_1",
        "summary": [{"type": "summary_text", "text": "So."}],
        "content": [{"type": "reasoning_text", "text": "Hm."}],
    }


def test_signatures_of_other_apis_are_not_read() -> None:
    parts = (ReasoningPart("x", signature="c2lnbmVk"), HiddenReasoningPart("{broken"), TextPart("y", "other"))
    call = ToolCall("c", "f", "", "b3RoZXI=")
    assert encoded(message("assistant", *parts, tool_calls=(call,))) == [
        {"type": "message", "role": "assistant", "content": "y"},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
    ]


def test_returns_with_images() -> None:
    image = ImagePart(media_type="image/png", data="AA==")
    returns = (
        ToolReturn("call_1", "f", "success", "1"),
        ToolReturn("call_2", "g", "success", (TextPart("see"), image)),
        ToolReturn("call_3", "g", "error", (TextPart("x"), TextPart("y"))),
    )
    picture = {"type": "input_image", "image_url": "data:image/png;base64,AA==", "detail": "auto"}
    assert encoded(message("tool", tool_returns=returns)) == [
        {"type": "function_call_output", "call_id": "call_1", "output": "1"},
        {
            "type": "function_call_output",
            "call_id": "call_2",
            "output": [{"type": "input_text", "text": "see"}, picture],
        },
        {"type": "function_call_output", "call_id": "call_3", "output": "xy"},
    ]
    address = ImagePart(url="https://example.com/a.png", detail="low")
    assert encoded(message("user", TextPart("a"), address))[0]["content"][1] == {
        "type": "input_image",
        "image_url": "https://example.com/a.png",
        "detail": "low",
    }


def test_a_denied_call_is_answered() -> None:
    asked = message("approval", tool_calls=(ToolCall("call_1", "f", "{}"),))
    denied = message("approval", approvals=(Approval("call_1", False, "no"),))
    (_, output) = encoded(asked, denied)
    assert output["type"] == "function_call_output" and "denied. Reason: no" in output["output"]


def test_tools_say_whether_they_are_strict() -> None:
    tools = [ToolSpec("f", "does", {"type": "object"}), ToolSpec("g", "", {"type": "object"}, strict=True)]
    first, second = msgspec.json.decode(InputEncoder("acme").tools(tools))
    assert first == {
        "type": "function",
        "name": "f",
        "description": "does",
        "parameters": {"type": "object"},
        "strict": False,
    }
    assert second["strict"] is True
