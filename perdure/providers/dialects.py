"""How each provider speaks chat completions, as data.

Invariant: a provider's quirk is a field here, said once in words; the code that builds requests and reads answers asks the
field and knows no provider by name. What no field says is as OpenAI's reference has it. Sources: the providers' public
references and their recorded answers.
"""

from typing import Any, Literal

from msgspec import Struct
from msgspec.structs import replace


class ChatProfile(Struct, frozen=True, kw_only=True):
    """One dialect.

    What is sent:
    `max_tokens`: the name of the output limit. `sampling`: settings it takes beyond OpenAI's own. `penalties`, `logprobs`,
    `parallel_tool_calls`, `reasoning_effort`, `verbosity`: it takes that setting. `seed`: its name for it. `refuses`: settings
    that models whose name matches refuse ("images": they read text only). `strict`: it takes `strict` on a tool. `required`: its
    word for "some tool must be called"; `named`: it can be told which one. `formats`: the kinds of `response_format` it holds the
    model to; `formats_with_tools`: also in a request that offers tools. `images`: it takes them by address and by value, by
    value alone, or not at all.
    `thinking`: its words for thinking switched on and off; `reasoning_object`: it takes `reasoning` as an object.
    `template_kwargs`: it hands `chat_template_kwargs` to the chat template. `stream`, `stream_usage`: it streams, and takes
    `stream_options`. `extra`: sent always; `tools_extra`: with tools, when streaming.

    What goes back of earlier answers:
    `reasoning_out`: the field thinking goes back in; None: it is left out. `reasoning_needed`: an answer with calls is refused
    without it. `details`: `reasoning_details` go back as they came.
    `call_extra`: `extra_content` of calls goes back. `think_tags`: thinking comes in the text, between <think> tags: "read"
    takes it out, "both" puts it back as well. `parse_arguments`: arguments are parsed, so JSON is all that may be sent.
    `call_id`: the characters a call's id must have, if not any. `answer_after_tool`: an answer must follow a tool's, before the
    user speaks again.
    """

    max_tokens: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    sampling: frozenset[str] = frozenset()
    penalties: bool = True
    seed: str | None = "seed"
    logprobs: bool = True
    refuses: tuple[tuple[str, frozenset[str]], ...] = ()
    parallel_tool_calls: bool = True
    strict: bool = True
    required: str | None = "required"
    named: bool = True
    formats: frozenset[str] = frozenset({"json_object", "json_schema"})
    formats_with_tools: bool = False
    images: Literal["any", "data"] | None = "any"
    reasoning_effort: bool = True
    reasoning_object: bool = False
    verbosity: bool = False
    thinking: tuple[str, str] | None = None
    template_kwargs: bool = False
    stream: bool = True
    stream_usage: bool = True
    extra: dict[str, Any] = {}
    tools_extra: dict[str, Any] = {}
    reasoning_out: str | None = None
    reasoning_needed: bool = False
    details: bool = False
    call_extra: bool = False
    think_tags: Literal["read", "both"] | None = None
    parse_arguments: bool = False
    call_id: int | None = None
    answer_after_tool: bool = False


_EXTRA = frozenset({"top_k", "min_p", "repetition_penalty"})
_FIXED = frozenset({"temperature", "top_p", "frequency_penalty", "presence_penalty"})
_OBJECTS_ONLY = frozenset({"json_object"})
_ON_OFF = ("enabled", "disabled")

# What many have in common. Engines one runs oneself; hosts of open models; makers who keep to the least of it.
_ENGINE = ChatProfile(sampling=_EXTRA, parse_arguments=True, template_kwargs=True, reasoning_out="reasoning_content")
_HOST = ChatProfile(strict=False, sampling=_EXTRA, parse_arguments=True, think_tags="read")
_MAKER = ChatProfile(
    strict=False,
    seed=None,
    logprobs=False,
    parallel_tool_calls=False,
    required=None,
    named=False,
    formats=_OBJECTS_ONLY,
    thinking=_ON_OFF,
    reasoning_out="reasoning_content",
    parse_arguments=True,
)

CHAT: dict[str, ChatProfile] = {
    # The address is often another server's (a proxy, an engine), so the output limit has its older, more common name.
    "openai": ChatProfile(verbosity=True, formats_with_tools=True),
    "azure": ChatProfile(max_tokens="max_completion_tokens", verbosity=True, formats_with_tools=True),
    "openai_compatible": ChatProfile(),
    "sglang": _ENGINE,
    "vllm": _ENGINE,
    "llamacpp": replace(_ENGINE, strict=False, sampling=frozenset({"top_k", "min_p", "repeat_penalty"})),
    "ollama": ChatProfile(
        strict=False,
        parse_arguments=True,
        parallel_tool_calls=False,
        required=None,
        named=False,
        logprobs=False,
        images="data",
        reasoning_out="reasoning",
    ),
    "lmstudio": ChatProfile(
        strict=False,
        sampling=frozenset({"top_k", "repeat_penalty"}),
        parse_arguments=True,
        named=False,
        formats=frozenset({"json_schema"}),
        think_tags="read",
        images="data",
    ),
    "openrouter": ChatProfile(
        sampling=_EXTRA, verbosity=True, reasoning_object=True, reasoning_out="reasoning", details=True
    ),
    "together": replace(_HOST, logprobs=False),  # they are a number of its own kind
    "fireworks": replace(_HOST, reasoning_out="reasoning_content"),
    "groq": ChatProfile(max_tokens="max_completion_tokens", logprobs=False, parse_arguments=True, think_tags="read"),
    "baseten": _HOST,
    "cerebras": ChatProfile(
        max_tokens="max_completion_tokens",
        penalties=False,
        parallel_tool_calls=False,
        parse_arguments=True,
        think_tags="read",
        images=None,
    ),
    "deepseek": replace(
        _MAKER,
        logprobs=True,
        required="required",
        named=True,
        reasoning_needed=True,
        refuses=(
            (r"deepseek-reasoner", frozenset({"logprobs", "tool_choice"})),
            (r"deepseek-(?:chat|reasoner|v4-pro)", frozenset({"images"})),
        ),
    ),
    "xai": ChatProfile(
        max_tokens="max_completion_tokens",
        refuses=(
            (r"grok-[4-9]", frozenset({"frequency_penalty", "presence_penalty", "stop"})),
            (r"grok-4(?:$|-)", frozenset({"reasoning_effort"})),
        ),
    ),
    "mistral": ChatProfile(
        required="any",
        seed="random_seed",
        stream_usage=False,
        logprobs=False,
        parse_arguments=True,
        call_id=9,
        answer_after_tool=True,
    ),
    "zai": replace(
        _MAKER,
        penalties=False,
        stream_usage=False,  # it always tells
        tools_extra={"tool_stream": True},  # else a call's arguments come in one piece, after a long silence
    ),
    "minimax": replace(
        _MAKER,
        max_tokens="max_completion_tokens",
        penalties=False,
        formats=frozenset(),
        reasoning_effort=False,
        thinking=("adaptive", "disabled"),
        reasoning_out=None,
        think_tags="both",
    ),
    "moonshot": replace(
        _MAKER,
        max_tokens="max_completion_tokens",
        images="data",
        reasoning_needed=True,
        refuses=((r"kimi-", _FIXED),),
    ),
    "gemini_openai": ChatProfile(
        strict=False,
        penalties=False,
        seed=None,
        logprobs=False,
        parallel_tool_calls=False,
        parse_arguments=True,
        call_extra=True,
        images="data",
    ),
}
