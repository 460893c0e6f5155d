"""Stored messages as chat-completions JSON."""

from typing import Any

import msgspec

from perdure.core.messages import (
    Approval,
    ImagePart,
    Message,
    Part,
    ReasoningPart,
    TextPart,
    ToolCall,
    ToolReturn,
)
from perdure.core.model import ToolSpec
from perdure.providers.dialects import ChatProfile
from perdure.providers.message_bytes import ByteCache
from perdure.providers.openai_messages import MessageEncoder

_numbers = iter(range(10**9))


def message(role: Any, *content: Part, id: str | None = None, **more: Any) -> Message:
    return Message(id=id or f"message-{next(_numbers)}", role=role, created_us=1, content=content, **more)


def encoded(*messages: Message, system: str = "", profile: ChatProfile = ChatProfile()) -> list[dict[str, Any]]:
    encoder = MessageEncoder(profile)
    once = encoder.messages(system, messages)
    assert encoder.messages(system, list(messages)) == once  # from the cache
    return msgspec.json.decode(b"".join(once))


def whole(encoder: MessageEncoder, messages: list[Message], system: str = "") -> bytes:
    return b"".join(encoder.messages(system, messages))


CALL = ToolCall("call_1", "f", '{"a": 1}')


def test_roles() -> None:
    assert encoded(
        message("user", TextPart("hi\n")),
        message("assistant", ReasoningPart("hm"), TextPart("a"), TextPart("b")),
        message("system", TextPart("note")),
        message("summary", TextPart("before")),
        system="you are",
    ) == [
        {"role": "system", "content": "you are"},
        {"role": "user", "content": "hi\n"},
        {"role": "assistant", "content": "ab"},
        {"role": "system", "content": "note"},
        {"role": "user", "content": "before"},
    ]


def test_tool_calls_and_returns() -> None:
    returns = (
        ToolReturn("call_1", "f", "success", "1"),
        ToolReturn("call_2", "g", "error", (TextPart("x"), TextPart("y"))),
    )
    got = encoded(message("assistant", tool_calls=(CALL,)), message("tool", tool_returns=returns))
    assert got[0] == {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}],
    }
    assert got[1:] == [
        {"role": "tool", "tool_call_id": "call_1", "content": "1"},
        {"role": "tool", "tool_call_id": "call_2", "content": "xy"},
    ]


def test_an_answer_that_was_only_thinking_is_left_out() -> None:
    assert encoded(message("user", TextPart("a")), message("assistant", ReasoningPart("hm"))) == [
        {"role": "user", "content": "a"}
    ]


def test_thinking_is_sent_back_where_the_provider_wants_it() -> None:
    sent = encoded(
        message("assistant", ReasoningPart("h"), TextPart("x"), ReasoningPart("m")),
        profile=ChatProfile(reasoning_out="reasoning_content"),
    )
    assert sent == [{"role": "assistant", "content": "x", "reasoning_content": "hm"}]


def test_arguments_go_verbatim_unless_the_provider_parses_them() -> None:
    broken = message("assistant", tool_calls=(ToolCall("c", "f", '{"a":'), ToolCall("d", "f", "")))
    verbatim = encoded(broken)[0]["tool_calls"]
    assert [each["function"]["arguments"] for each in verbatim] == ['{"a":', "{}"]
    parsed = encoded(broken, profile=ChatProfile(parse_arguments=True))[0]["tool_calls"]
    assert msgspec.json.decode(parsed[0]["function"]["arguments"]) == {"not valid JSON; the model wrote": '{"a":'}


def test_an_approval_request_is_a_call_and_the_response_shows_only_where_nothing_answers_it() -> None:
    asked = message("approval", tool_calls=(CALL,))
    denied = message("approval", approvals=(Approval("call_1", False, "no"), Approval("call_9", True)))
    assert encoded(asked, denied)[1:] == [
        {
            "role": "tool",
            "tool_call_id": "call_1",
            "content": "Error: the request to call the tool was denied. Reason: no",
        }
    ]
    returned = message("approval", tool_returns=(ToolReturn("call_1", "f", "success", "theirs"),))
    assert encoded(asked, returned)[1:] == [{"role": "tool", "tool_call_id": "call_1", "content": "theirs"}]
    answered = message("tool", tool_returns=(ToolReturn("call_1", "f", "success", "ours"),))
    assert encoded(asked, denied, answered)[1:] == [{"role": "tool", "tool_call_id": "call_1", "content": "ours"}]


def test_images() -> None:
    inline = ImagePart(media_type="image/jpeg", data="QUJD", detail="low")
    assert encoded(message("user", TextPart("see"), inline, ImagePart(url="https://x/y.png")))[0]["content"] == [
        {"type": "text", "text": "see"},
        {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64,QUJD", "detail": "low"}},
        {"type": "image_url", "image_url": {"url": "https://x/y.png"}},
    ]


def test_images_a_tool_returned_follow_its_answer() -> None:
    returns = (
        ToolReturn("call_1", "shot", "success", (ImagePart(url="https://x/y.png"),)),
        ToolReturn("call_2", "f", "success", "2"),
    )
    first, second, images = encoded(message("tool", tool_returns=returns))
    assert (first["content"], second["content"]) == ("(The images follow.)", "2")
    assert images["role"] == "user" and images["content"][0]["text"] == "Images returned by shot (call_1):"


def test_tools_are_encoded_once_for_one_list() -> None:
    encoder = MessageEncoder(ChatProfile())
    tools = [ToolSpec("f", "does", {"type": "object", "properties": {}}), ToolSpec("g", "", {"type": "object"}, True)]
    assert msgspec.json.decode(encoder.tools(tools)) == [
        {"type": "function", "function": {"name": "f", "description": "does", "parameters": tools[0].parameters}},
        {
            "type": "function",
            "function": {"name": "g", "description": "", "parameters": {"type": "object"}, "strict": True},
        },
    ]
    assert encoder.tools(tools) is encoder.tools(tools)


def test_a_growing_conversation_is_what_it_would_be_anew() -> None:
    encoder = MessageEncoder(ChatProfile())
    context: list[Message] = []
    for turn in range(150):  # more than are kept apart
        context.append(message("user", TextPart(f"{turn}")))
        context.append(message("assistant", TextPart("a"), tool_calls=(CALL,)))
        if turn == 30:  # what the context begins with is replaced in place
            context[:20] = [message("summary", TextPart("so far"))]
        assert whole(encoder, context, "s") == whole(MessageEncoder(ChatProfile()), list(context), "s")


def test_the_cache_forgets_what_is_not_asked_for_and_keeps_its_bound() -> None:
    cache = ByteCache(10_000)
    cache.put("kept", b"k")
    for number in range(200):
        cache.put(number, b"x" * 100)
        assert cache.get("kept") == b"k"
    held = [number for number in range(200) if cache.get(number) is not None]
    assert 0 < len(held) < 40
    cache.put("large", b"x" * 9_000)
    assert cache.get("large") is None


CALLED = message("assistant", ReasoningPart("Hm."), TextPart("So."), tool_calls=(CALL,), model="acme/m")
RETURNED = message("tool", tool_returns=(ToolReturn("call_1", "f", "success", "1"),))


def test_ids_in_the_form_a_provider_takes() -> None:
    profile = ChatProfile(call_id=9)
    first, second = encoded(CALLED, RETURNED, profile=profile)
    made = first["tool_calls"][0]["id"]
    assert second["tool_call_id"] == made and len(made) == 9 and made.isalnum()
    kept = message("assistant", tool_calls=(ToolCall("aB3dE6gH9", "f", "{}"),))
    assert encoded(kept, profile=profile)[0]["tool_calls"][0]["id"] == "aB3dE6gH9"


def test_an_answer_between_a_tool_and_the_user() -> None:
    profile = ChatProfile(answer_after_tool=True)
    user, said = message("user", TextPart("Well?")), message("assistant", TextPart("Yes."))
    roles = [each["role"] for each in encoded(CALLED, RETURNED, user, said, user, profile=profile)]
    assert roles == ["assistant", "tool", "assistant", "user", "assistant", "user"]
    asked = message("approval", tool_calls=(CALL,))
    denied = message("approval", approvals=(Approval("call_1", False),))
    roles = [each["role"] for each in encoded(asked, denied, user, profile=profile)]
    assert roles == ["assistant", "tool", "assistant", "user"]
    growing = [CALLED, *[message("user", TextPart(str(number))) for number in range(20)], CALLED, RETURNED]
    encoder = MessageEncoder(profile)
    for each in (user, said, user):
        encoder.messages("", growing)
        growing.append(each)
        assert whole(encoder, growing) == whole(MessageEncoder(profile), list(growing))


def test_thinking_that_must_not_be_missing_from_a_call() -> None:
    profile = ChatProfile(reasoning_out="reasoning_content", reasoning_needed=True)
    bare = message("assistant", tool_calls=(CALL,))
    assert encoded(bare, profile=profile)[0]["reasoning_content"]
    assert "reasoning_content" not in encoded(message("assistant", TextPart("x")), profile=profile)[0]


def test_what_a_provider_gave_goes_back_to_it_alone() -> None:
    details = '[{"type":"reasoning.text","text":"Hm.","signature":"s"}]'
    call = ToolCall("call_1", "f", "{}", '{"google":{"thought_signature":"t"}}')
    said = message(
        "assistant", ReasoningPart("Hm.", signature=details), TextPart("x"), tool_calls=(call,), model="acme/m"
    )
    profile = ChatProfile(details=True, reasoning_out="reasoning", call_extra=True)
    own, foreign = MessageEncoder(profile, provider="acme"), MessageEncoder(profile, provider="other")
    (mine,) = msgspec.json.decode(whole(own, [said]))
    (theirs,) = msgspec.json.decode(whole(foreign, [said]))
    assert mine["reasoning_details"] == msgspec.json.decode(details) and "reasoning" not in mine
    assert mine["tool_calls"][0]["extra_content"] == {"google": {"thought_signature": "t"}}
    assert theirs["reasoning"] == "Hm." and "reasoning_details" not in theirs
    assert "extra_content" not in theirs["tool_calls"][0]
    tagged = ChatProfile(think_tags="both")
    (put_back,) = msgspec.json.decode(whole(MessageEncoder(tagged, provider="acme"), [said]))
    assert put_back["content"] == "<think>\nHm.\n</think>\n\nx"
    odd = message("assistant", ReasoningPart("Hm.", signature="[broken"), TextPart("x"), model="acme/m")
    assert "reasoning_details" not in msgspec.json.decode(whole(own, [odd]))[0]


def test_a_model_that_reads_text_only_is_told_of_images() -> None:
    image = ImagePart(media_type="image/png", data="AA==")
    (sent,) = encoded(message("user", TextPart("See:"), image), profile=ChatProfile(images=None))
    assert sent["content"].startswith("See:\n[An image was here")
