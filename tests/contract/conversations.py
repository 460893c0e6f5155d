"""The conversations every provider is held to: what was said before, what the model is asked, what it answers.

They are in our own words. A `Speaker` (tests/contract/speakers.py) knows how one API says them; what an API cannot say is
named by `needs`, and an API that lacks it skips the conversation.
"""

from typing import Any, Literal

from msgspec import Struct

from perdure.core.agents import ModelSettings
from perdure.core.errors import ProviderErrorKind
from perdure.core.messages import (
    HiddenReasoningPart,
    ImagePart,
    Message,
    ReasoningPart,
    Role,
    TextPart,
    ToolCall,
    ToolReturn,
)
from perdure.core.model import ToolSpec
from perdure.core.runs import Usage

OWN = "own"  # in the table: the handle of the provider under test
OTHER = "elsewhere/other-model"

Need = Literal[
    "reasoning",  # shows thinking
    "signatures",  # thinking comes with a signature, and goes back with it
    "unshown_reasoning",  # thinking may be a signature alone
    "hidden_reasoning",  # thinking that is withheld
    "refusals",  # says that it refuses
    "mixed_order",  # text and thinking after a tool call keep their place, streamed and whole
    "content_filter",  # can be stopped by a filter
    "errors_in_stream",
    "cut_calls",  # a call may end before its arguments do
]


class Text(Struct, frozen=True):
    pieces: tuple[str, ...]


class Thinking(Struct, frozen=True):
    pieces: tuple[str, ...]
    signature: str | None = None


class Hidden(Struct, frozen=True):
    data: str


class Refusal(Struct, frozen=True):
    pieces: tuple[str, ...]


class Call(Struct, frozen=True):
    id: str
    name: str
    pieces: tuple[str, ...]
    signature: str | None = None


class Failure(Struct, frozen=True):
    """An error told inside the answer, in place of its rest."""

    status: int
    message: str


Item = Text | Thinking | Hidden | Refusal | Call


class Said(Struct, frozen=True, kw_only=True):
    """One answer. `pieces` of the items are what single frames carry. `cut`: the connection ends without the end told."""

    items: tuple[Item, ...] = ()
    finish: Literal["stop", "length", "tool_calls", "content_filter"] = "stop"
    usage: Usage = Usage(10, 5, 15)
    failure: Failure | None = None
    cut: bool = False


class Conversation(Struct, frozen=True, kw_only=True):
    """`error`: (kind, retryable) where the answer ends in one. `more`: further fields of the Prompt."""

    name: str
    messages: tuple[Message, ...]
    said: Said
    tools: tuple[ToolSpec, ...] = ()
    more: dict[str, Any] = {}
    needs: frozenset[Need] = frozenset()
    error: tuple[ProviderErrorKind, bool] | None = None


PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
WEIRD = 'naïve 🙂 \u2028 e\u0301 \U0001f468\u200d\U0001f469\u200d\U0001f467 \t"quoted" \\n {}[]<tool_call> data: [DONE]\n\nend '
ROLL = ToolSpec(
    "roll",
    "Rolls dice.",
    {
        "type": "object",
        "properties": {"sides": {"type": "integer"}, "label": {"type": "string"}},
        "required": ["sides"],
    },
)
CLOCK = ToolSpec("clock", "Tells the time.", {"type": "object", "properties": {}})


def _message(number: int, role: Role, text: str = "", **more: Any) -> Message:
    content = more.pop("content", (TextPart(text),) if text else ())
    return Message(id=f"message-{number}", role=role, created_us=number, content=content, **more)


def _user(number: int, text: str) -> Message:
    return _message(number, "user", text)


def _assistant(number: int, text: str = "", *, model: str = OWN, **more: Any) -> Message:
    return _message(number, "assistant", text, model=model, **more)


def _returns(number: int, *returns: ToolReturn) -> Message:
    return _message(number, "tool", tool_returns=returns)


HELLO = _user(1, "Hello.")
ROLLED = ToolCall("call_1", "roll", '{"sides": 6}')
TOLD = ToolCall("call_2", "clock", "{}")

CONVERSATIONS: tuple[Conversation, ...] = (
    Conversation(name="text", messages=(HELLO,), said=Said(items=(Text(("Hel", "lo", " there.")),))),
    Conversation(
        name="text_after_many_turns",
        messages=(HELLO, _assistant(2, "Hi."), _user(3, "Are you"), _user(4, "there?")),
        said=Said(items=(Text((" Yes.\n",)),)),
    ),
    Conversation(
        name="reasoning",
        messages=(HELLO,),
        said=Said(items=(Thinking(("A gre", "eting.")), Text(("Hi.",)))),
        needs=frozenset({"reasoning"}),
    ),
    Conversation(
        name="reasoning_signed",
        messages=(
            HELLO,
            _assistant(
                2,
                content=(ReasoningPart("Dice.", signature="c2lnbmVkLTA="), TextPart("Rolling.")),
                tool_calls=(ROLLED,),
            ),
            _returns(3, ToolReturn("call_1", "roll", "success", "4")),
        ),
        said=Said(items=(Thinking(("A fo", "ur."), "c2lnbmVkLTE="), Text(("It is four.",)))),
        tools=(ROLL,),
        needs=frozenset({"reasoning", "signatures"}),
    ),
    Conversation(
        name="reasoning_not_shown",
        messages=(
            HELLO,
            _assistant(
                2,
                content=(ReasoningPart("", signature="c2lnbmVkLTA="), TextPart("Rolling.")),
                tool_calls=(ROLLED,),
            ),
            _returns(3, ToolReturn("call_1", "roll", "success", "4")),
        ),
        said=Said(
            items=(
                Thinking((), "c2lnbmVkLTE="),
                Text(("It is ",)),
                Thinking((), "c2lnbmVkLTI="),
                Text(("four.",)),
                Call("call_2", "roll", ("{}",)),
                Thinking((), "c2lnbmVkLTM="),
                Call("call_3", "roll", ("{}",)),
            ),
            finish="tool_calls",
        ),
        tools=(ROLL,),
        needs=frozenset({"reasoning", "signatures", "unshown_reasoning", "mixed_order"}),
    ),
    Conversation(
        name="reasoning_hidden",
        messages=(
            HELLO,
            _assistant(2, content=(HiddenReasoningPart("b3BhcXVlLTA="), TextPart("Hi."))),
            _user(3, "Go on."),
        ),
        said=Said(items=(Hidden("b3BhcXVlLTE="), Text(("On.",)))),
        needs=frozenset({"hidden_reasoning"}),
    ),
    Conversation(
        name="reasoning_of_another_provider",
        messages=(
            HELLO,
            _assistant(
                2,
                model=OTHER,
                content=(
                    HiddenReasoningPart("Zm9yZWlnbg=="),
                    ReasoningPart("Foreign.", signature="Zm9yZWlnbi1zaWc="),
                    TextPart("Hi."),
                ),
                tool_calls=(ToolCall("call_1", "roll", '{"sides": 6}', signature="Zm9yZWlnbi1jYWxs"),),
            ),
            _returns(3, ToolReturn("call_1", "roll", "success", "4")),
        ),
        said=Said(items=(Text(("Four.",)),)),
        tools=(ROLL,),
    ),
    Conversation(
        name="one_tool",
        messages=(HELLO,),
        said=Said(items=(Call("call_1", "roll", ('{"si', 'des"', ": 6}")),), finish="tool_calls"),
        tools=(ROLL, CLOCK),
    ),
    Conversation(
        name="text_then_tool",
        messages=(HELLO,),
        said=Said(
            items=(Text(("Rol", "ling.")), Call("call_1", "roll", ('{"sides": 20, "label": "a}b{\\"c"}',))),
            finish="tool_calls",
        ),
        tools=(ROLL,),
    ),
    Conversation(
        name="parallel_tools",
        messages=(HELLO,),
        said=Said(
            items=(
                Call("call_1", "roll", ('{"sides"', ": 6}")),
                Call("call_2", "roll", ('{"sides": 8}',)),
                Call("call_3", "clock", ("{", "}")),
            ),
            finish="tool_calls",
        ),
        tools=(ROLL, CLOCK),
    ),
    Conversation(
        name="thinking_between_tools",
        messages=(HELLO,),
        said=Said(
            items=(
                Thinking(("Dice first.",), "c2ln"),
                Call("call_1", "roll", ('{"sides": 6}',)),
                Thinking(("Now the time.",), "c2lnMg=="),
                Text(("And the time.",)),
                Call("call_2", "clock", ("{}",)),
            ),
            finish="tool_calls",
        ),
        tools=(ROLL, CLOCK),
        needs=frozenset({"reasoning", "signatures", "mixed_order"}),
    ),
    Conversation(
        name="tool_without_arguments",
        messages=(HELLO,),
        said=Said(items=(Call("call_1", "clock", ("{}",)),), finish="tool_calls"),
        tools=(CLOCK,),
    ),
    Conversation(
        name="tool_forced",
        messages=(HELLO,),
        said=Said(items=(Call("call_1", "roll", ('{"sides": 2}',)),), finish="tool_calls"),
        tools=(ROLL, CLOCK),
        more={"tool_choice": "roll", "parallel_tool_calls": False},
    ),
    Conversation(
        name="parallel_returns",
        messages=(
            HELLO,
            _assistant(2, "Rolling.", tool_calls=(ROLLED, TOLD)),
            _returns(3, ToolReturn("call_1", "roll", "success", "4"), ToolReturn("call_2", "clock", "success", "noon")),
            _user(4, "And?"),
        ),
        said=Said(items=(Text(("Four, at noon.",)),)),
        tools=(ROLL, CLOCK),
    ),
    Conversation(
        name="tool_error_returned",
        messages=(
            HELLO,
            _assistant(2, tool_calls=(ToolCall("call_1", "roll", "{not json"),)),
            _returns(3, ToolReturn("call_1", "roll", "error", "Error: the arguments are no JSON object.")),
        ),
        said=Said(items=(Call("call_2", "roll", ('{"sides": 6}',)),), finish="tool_calls"),
        tools=(ROLL,),
    ),
    Conversation(
        name="image_from_the_user",
        messages=(
            _message(
                1,
                "user",
                content=(
                    TextPart("What are these?"),
                    ImagePart(media_type="image/png", data=PNG),
                    ImagePart(url="https://example.com/cat.jpg", media_type="image/jpeg", detail="low"),
                ),
            ),
        ),
        said=Said(items=(Text(("A pixel and a cat.",)),)),
    ),
    Conversation(
        name="image_from_a_tool",
        messages=(
            HELLO,
            _assistant(2, tool_calls=(TOLD,)),
            _returns(
                3,
                ToolReturn(
                    "call_2", "clock", "success", (TextPart("The dial:"), ImagePart(media_type="image/png", data=PNG))
                ),
            ),
        ),
        said=Said(items=(Text(("Noon.",)),)),
        tools=(CLOCK,),
    ),
    Conversation(
        name="unicode",
        messages=(_user(1, WEIRD), _assistant(2, WEIRD), _user(3, "再来一次 🙂")),
        said=Said(
            items=(
                Text((WEIRD[:7], WEIRD[7:8], WEIRD[8:])),
                Call("call_1", "roll", ('{"sides": 6, "label": "', "Ünï 🙂\\u00e9", '\\ud83d\\ude00 \\"}{\\""}')),
            ),
            finish="tool_calls",
        ),
        tools=(ROLL,),
    ),
    Conversation(
        name="refusal",
        messages=(HELLO,),
        said=Said(items=(Refusal(("I will", " not.")),)),
        needs=frozenset({"refusals"}),
    ),
    Conversation(
        name="content_filter",
        messages=(HELLO,),
        said=Said(items=(Text(("This is",)),), finish="content_filter"),
        needs=frozenset({"content_filter"}),
    ),
    Conversation(
        name="cut_off",
        messages=(HELLO,),
        said=Said(items=(Text(("Once upon a",)),), finish="length", usage=Usage(10, 4, 14)),
        more={"settings": ModelSettings(max_output_tokens=4)},
    ),
    Conversation(
        name="cut_off_in_a_call",
        messages=(HELLO,),
        said=Said(items=(Call("call_1", "roll", ('{"sides": 6, "lab',)),), finish="length"),
        tools=(ROLL,),
        needs=frozenset({"cut_calls"}),
    ),
    Conversation(name="empty", messages=(HELLO,), said=Said(usage=Usage(10, 0, 10))),
    Conversation(
        name="usage_in_full",
        messages=(HELLO,),
        said=Said(items=(Text(("Ok.",)),), usage=Usage(1000, 50, 1050, 800, 150, 40)),
    ),
    Conversation(
        name="error_at_the_start",
        messages=(HELLO,),
        said=Said(failure=Failure(529, "Overloaded")),
        needs=frozenset({"errors_in_stream"}),
        error=("llm_overloaded", True),
    ),
    Conversation(
        name="error_in_the_middle",
        messages=(HELLO,),
        said=Said(items=(Text(("Once ", "upon")),), failure=Failure(529, "Overloaded")),
        needs=frozenset({"errors_in_stream"}),
        error=("llm_overloaded", False),
    ),
    Conversation(
        name="stream_that_breaks_off",
        messages=(HELLO,),
        said=Said(items=(Text(("Once ", "upon")),), cut=True),
        error=("llm_connection", False),
    ),
)
