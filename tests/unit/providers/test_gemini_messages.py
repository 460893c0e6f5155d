"""Stored messages as Gemini's contents, and JSON schemas in what it reads of them."""

from typing import Any

import msgspec
import pytest

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
from perdure.providers.gemini_messages import ContentEncoder
from perdure.providers.gemini_schema import gemini_schema, parameters

_numbers = iter(range(10**9))


def message(role: Any, *content: Part, model: str = "acme/gemini-x", **more: Any) -> Message:
    return Message(id=f"message-{next(_numbers)}", role=role, created_us=1, content=content, model=model, **more)


def encoded(*messages: Message, **how: Any) -> list[dict[str, Any]]:
    encoder = ContentEncoder("acme", **how)
    once = encoder.contents(messages)
    assert encoder.contents(list(messages)) == once  # from the cache
    return msgspec.json.decode(once)


HI = message("user", TextPart("hi"))


def test_roles() -> None:
    assert encoded(
        HI,
        message("assistant", TextPart("a"), TextPart("b")),
        message("assistant", TextPart("c")),
        message("system", TextPart("note")),
        message("summary", TextPart("before")),
    ) == [
        {"role": "user", "parts": [{"text": "hi"}]},
        {"role": "model", "parts": [{"text": "a"}, {"text": "b"}, {"text": "c"}]},
        {"role": "user", "parts": [{"text": "note"}]},
        {"role": "user", "parts": [{"text": "before"}]},
    ]


def test_a_conversation_the_model_began() -> None:
    first, second = encoded(message("assistant", TextPart("Welcome.")))
    assert first["role"] == "user" and second == {"role": "model", "parts": [{"text": "Welcome."}]}
    assert encoded() == []


def test_signatures_go_back_on_their_parts_to_the_provider_they_came_from() -> None:
    parts = (
        ReasoningPart("sum"),
        ReasoningPart("t", signature="s0"),
        HiddenReasoningPart("other"),
        TextPart("a", "s1"),
        TextPart("", "s3"),
    )
    calls = (ToolCall("c1", "f", '{"x": 1.0}', "s2"), ToolCall("c2", "g", ""))
    own = message("assistant", *parts, tool_calls=calls, calls_at=4)
    assert encoded(HI, own)[1]["parts"] == [
        {"text": "t", "thought": True, "thoughtSignature": "s0"},
        {"text": "a", "thoughtSignature": "s1"},
        {"functionCall": {"id": "c1", "name": "f", "args": {"x": 1.0}}, "thoughtSignature": "s2"},
        {"functionCall": {"id": "c2", "name": "g", "args": {}}},
        {"text": "", "thoughtSignature": "s3"},
    ]
    foreign = msgspec.structs.replace(own, id="other", model="acme2/x")
    plain = [
        {"text": "a"},
        {"functionCall": {"id": "c1", "name": "f", "args": {"x": 1.0}}},
        {"functionCall": {"id": "c2", "name": "g", "args": {}}},
    ]
    assert encoded(HI, foreign)[1]["parts"] == plain
    plain[1]["thoughtSignature"] = "skip"  # type: ignore[assignment]
    assert encoded(HI, foreign, stand_in="skip")[1]["parts"] == plain


def test_arguments_that_are_no_json_are_shown_as_what_they_were() -> None:
    (_, content) = encoded(HI, message("assistant", tool_calls=(ToolCall("c", "f", "{broken"),)))
    assert list(content["parts"][0]["functionCall"]["args"].values()) == ["{broken"]


def test_returns_are_answered_together_and_images_follow() -> None:
    image = ImagePart(media_type="image/png", data="AA==")
    returns = (
        ToolReturn("c1", "f", "success", "1"),
        ToolReturn("c2", "g", "error", (TextPart("x"), TextPart("y"))),
        ToolReturn("c3", "h", "success", (image,)),
    )
    first, second = encoded(message("tool", tool_returns=returns))
    assert first == {
        "role": "user",
        "parts": [
            {"functionResponse": {"id": "c1", "name": "f", "response": {"output": "1"}}},
            {"functionResponse": {"id": "c2", "name": "g", "response": {"error": "xy"}}},
            {"functionResponse": {"id": "c3", "name": "h", "response": {"output": "(The images follow.)"}}},
        ],
    }
    assert second["parts"][1] == {"inlineData": {"mimeType": "image/png", "data": "AA=="}}
    address = ImagePart(url="https://example.com/a.jpg", media_type="image/jpeg")
    assert encoded(message("user", address))[0]["parts"] == [
        {"fileData": {"mimeType": "image/jpeg", "fileUri": "https://example.com/a.jpg"}}
    ]


def test_a_denied_call_is_answered_under_its_name() -> None:
    asked = message("approval", tool_calls=(ToolCall("c1", "f", "{}"),))
    denied = message("approval", approvals=(Approval("c1", False, "no"),))
    answered = encoded(HI, asked, denied)[2]["parts"][0]["functionResponse"]
    assert answered["name"] == "f" and "denied. Reason: no" in answered["response"]["error"]


def test_tools_without_parameters_have_none() -> None:
    tools = [ToolSpec("f", "does", {"type": "object", "properties": {}}), ToolSpec("g", "", {"type": "object"})]
    (tool,) = msgspec.json.decode(ContentEncoder("acme").declarations(tools))
    assert tool == {"functionDeclarations": [{"name": "f", "description": "does"}, {"name": "g", "description": ""}]}


@pytest.mark.parametrize(
    ("given", "made"),
    [
        ({"type": "string", "format": "email", "maxLength": 3}, {"type": "string", "maxLength": 3}),
        ({"type": "string", "format": "date-time"}, {"type": "string", "format": "date-time"}),
        ({"type": ["string", "null"], "description": "d"}, {"type": "string", "nullable": True, "description": "d"}),
        ({"type": ["string", "integer"]}, {"anyOf": [{"type": "string"}, {"type": "integer"}]}),
        (
            {"anyOf": [{"type": "integer"}, {"type": "null"}], "default": None},
            {"type": "integer", "nullable": True, "default": None},
        ),
        ({"oneOf": [{"type": "integer"}, {"type": "string"}]}, {"anyOf": [{"type": "integer"}, {"type": "string"}]}),
        ({"const": "a"}, {"type": "string", "enum": ["a"]}),
        ({"enum": ["a", "b", None]}, {"type": "string", "enum": ["a", "b"], "nullable": True}),
        ({"type": "integer", "enum": [1, 2]}, {"type": "integer", "description": "One of: 1, 2."}),
        ({"type": "array"}, {"type": "array", "items": {"type": "string"}}),
        ({"type": "array", "prefixItems": [{"type": "integer"}]}, {"type": "array", "items": {"type": "integer"}}),
        ({}, {"type": "object"}),
        (
            {
                "type": "object",
                "properties": {"a": {"type": "string"}},
                "required": ["a", "b"],
                "additionalProperties": False,
            },
            {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]},
        ),
        (
            {
                "properties": {"a": {"$ref": "#/$defs/A", "description": "an A"}},
                "$defs": {"A": {"type": "string", "title": "A"}},
            },
            {"type": "object", "properties": {"a": {"type": "string", "title": "A", "description": "an A"}}},
        ),
        (
            {"allOf": [{"$ref": "#/$defs/A"}], "description": "d", "$defs": {"A": {"type": "integer", "minimum": 1}}},
            {"type": "integer", "minimum": 1, "description": "d"},
        ),
        (
            {"$ref": "#/definitions/N", "definitions": {"N": {"properties": {"next": {"$ref": "#/definitions/N"}}}}},
            {"type": "object", "properties": {"next": {"type": "object"}}},
        ),
    ],
)
def test_schemas(given: dict[str, Any], made: dict[str, Any]) -> None:
    before = msgspec.json.encode(given)
    assert gemini_schema(given) == made
    assert msgspec.json.encode(given) == before


def test_a_property_named_as_a_keyword_is_kept() -> None:
    given = {"type": "object", "properties": {"default": {"type": "string"}, "format": {"type": "integer"}}}
    assert parameters(given) == given
