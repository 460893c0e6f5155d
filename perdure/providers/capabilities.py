"""Who can do what: a row for every provider and API, out of the profiles that the requests are built from.

Invariant: a row says what is sent, not what is promised: for chat completions it is the dialect itself, for the other APIs
the few facts below, which tests hold against the requests.
"""

from collections.abc import Iterator

from msgspec import Struct

from perdure.providers.dialects import ChatProfile
from perdure.providers.profiles import OPENAI_COMPATIBLE, PROFILES, ProviderProfile

_APIS = {
    "chat": "chat completions",
    "responses": "Responses",
    "anthropic": "Messages",
    "gemini": "generateContent",
}
_TOKEN_ROUTES = {"sglang": "`/generate`", "vllm": "`/inference/v1/generate`", "llamacpp": "`/completion`"}


class Capabilities(Struct, frozen=True, kw_only=True):
    """What one API of one provider takes. `thinking`: in which form earlier thinking goes back. `form`: what it can hold an
    answer to; the rest is told in words. `images`: how it takes them. `batches`: it has a batch API that is used."""

    provider: str
    api: str
    thinking: str | None = None
    one_call: bool = True
    forced: bool = True
    named: bool = True
    strict: bool = True
    form: str | None = "schema"
    images: str | None = "by address or value"
    logprobs: bool = True
    seed: bool = True
    batches: bool = False


COLUMNS = (
    "provider",
    "API",
    "earlier thinking goes back as",
    "one call at a time",
    "a tool forced",
    "which tool forced",
    "strict tools",
    "answer form",
    "images",
    "logprobs",
    "seed",
    "batches of its own",
)


def capabilities() -> list[Capabilities]:
    return [row for profile in (*PROFILES.values(), OPENAI_COMPATIBLE) for row in _rows(profile)]


def cells(row: Capabilities) -> tuple[str, ...]:
    """A row in words; an empty cell is a no."""
    values = (row.thinking, row.one_call, row.forced, row.named, row.strict, row.form, row.images)
    shown = (*values, row.logprobs, row.seed, row.batches)
    return (row.provider, row.api, *("yes" if each is True else each or "" for each in shown))


def markdown() -> str:
    lines = [f"| {' | '.join(COLUMNS)} |", "|" + "---|" * len(COLUMNS)]
    lines += [f"| {' | '.join((f'`{name}`', *rest))} |" for name, *rest in map(cells, capabilities())]
    return "\n".join(lines) + "\n"


def _rows(profile: ProviderProfile) -> Iterator[Capabilities]:
    kind, batches = profile.kind, profile.batches is not None
    if profile.messages_api is not None:
        addresses = "by address or value" if profile.messages_api == "anthropic" else "by value"
        yield Capabilities(
            provider=kind,
            api=_APIS["anthropic"],
            thinking="signed blocks",
            images=addresses,
            logprobs=False,
            seed=False,
            batches=batches,
        )
    elif profile.api == "gemini":  # by Google's own address or in its cloud
        yield Capabilities(
            provider=kind,
            api=_APIS["gemini"],
            thinking="signatures",
            one_call=False,
            strict=False,
            form="schema, without tools",
            batches=batches,
        )
    else:
        if (route := _TOKEN_ROUTES.get(profile.token_api or "")) is not None:
            yield Capabilities(
                provider=kind, api=f"token ids, {route}", thinking="the ids sampled", strict=False, images=None
            )
        if kind == "local":  # it has no other
            return
        if profile.reasoners == "responses":
            yield Capabilities(
                provider=kind, api=_APIS["responses"], thinking="encrypted items", seed=False, batches=batches
            )
        yield _chat(kind, profile.chat, batches=batches)


def _chat(kind: str, chat: ChatProfile, *, batches: bool) -> Capabilities:
    form = "schema" if "json_schema" in chat.formats else "object" if chat.formats else None
    if form is not None and not chat.formats_with_tools:
        form += ", without tools"
    return Capabilities(
        provider=kind,
        api=_APIS["chat"],
        thinking=_thinking(chat),
        one_call=chat.parallel_tool_calls,
        forced=chat.required is not None,
        named=chat.named,
        strict=chat.strict,
        form=form,
        images={"any": "by address or value", "data": "by value", None: None}[chat.images],
        logprobs=chat.logprobs,
        seed=chat.seed is not None,
        batches=batches,
    )


def _thinking(chat: ChatProfile) -> str | None:
    if chat.details:
        return "`reasoning_details`"
    if chat.think_tags == "both":
        return "`<think>` in the text"
    if chat.call_extra:
        return "signatures"
    return f"`{chat.reasoning_out}`" if chat.reasoning_out is not None else None
