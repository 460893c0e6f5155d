"""A conversation only ever grows: whatever is sampled and said, the next prompt begins with all the engine has seen."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perdure.core.messages import Message, ToolReturn
from perdure.core.tokens import ROLES, TokenCall, bytes_to_ids
from perdure.providers.base import TokenStream
from perdure.providers.token_exact import extend, restore
from perdure.tokens.base import Renderer
from tests.contract.renderers.renderers import RENDERERS
from tests.doubles.answers import answer_ids, end_id, opens_thought
from tests.doubles.conversations import TOOLS, SaidEngine, answer, call, message, model_of, prompt, texts

_renderer = cache(lambda name: RENDERERS[name]())

rounds = st.lists(
    st.fixed_dictionaries(
        {
            "thought": st.none() | texts,
            "text": texts,
            "calls": st.lists(st.tuples(st.sampled_from(["look", "go"]), texts), max_size=2),
            "ending": st.sampled_from(["stop", "stop", "stop", "cut", "endoftext", "abort"]),
            "cut": st.integers(0, 30),
            "said": st.lists(st.tuples(st.sampled_from(["user", "user", "system", "summary"]), texts), max_size=2),
            "returned": texts,
        }
    ),
    min_size=1,
    max_size=4,
)


def _sampled(renderer: Renderer, given_round: dict[str, Any], prompt_ids: Sequence[int]) -> list[tuple[list[int], str]]:
    """The ids a model might sample, and how it ends. An engine that breaks it off is asked for the rest."""
    calls = [(name, _json(text)) for name, text in given_round["calls"]]
    opened = opens_thought(renderer, prompt_ids)
    ids = answer_ids(renderer, given_round["text"], calls, thought=given_round["thought"], opened=opened)
    ending = given_round["ending"]
    cut = given_round["cut"]
    if ending == "cut":
        return [(ids[:cut], "length")]
    ids.append(renderer.stop_token_ids[-1] if ending == "endoftext" else end_id(renderer, calls))
    return [(ids[:cut], "abort"), (ids[cut:], "stop")] if cut < len(ids) and ending == "abort" else [(ids, "stop")]


def _json(text: str) -> str:
    return '{"at": "' + "".join(char for char in text if char.isalnum() and char.isascii()) + '"}'


@pytest.mark.parametrize("name", RENDERERS)
@given(system=texts, said=rounds)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
async def test_each_prompt_begins_with_the_last_one_and_its_answer(
    name: str, system: str, said: list[dict[str, Any]]
) -> None:
    renderer = _renderer(name)
    messages: list[Message] = [message("user", "Hello.")]
    tokens, calls = TokenStream(), []
    for each in said:
        engine = SaidEngine([lambda ids, each=each: _sampled(renderer, each, ids)])
        asked = prompt(messages, system=system, tools=TOOLS)
        done, _ = await call(model_of(engine, renderer), asked, tokens)
        assert done.capture is not None
        seen, sent = list(tokens.ids), list(engine.requests[0].ids)
        if done.capture.segment is None:
            assert sent[: len(seen)] == seen
            assert done.capture.call.bridge == "bridge"
        else:
            assert done.capture.segment.cause == "root" or _stopped_in_thought(calls[-1])
            calls = []
        _check(renderer, done.capture.call, asked.messages, sent, system)
        extend(tokens, done.capture)
        calls.append(done.capture.call)
        assert list(tokens.ids) == sent + list(bytes_to_ids(done.capture.call.completion_ids))
        messages = [*messages, answer(asked, done), *_next(done.tool_calls, each)]
    again = restore(tokens.segment, calls)  # type: ignore[arg-type]
    assert (again.ids, again.covered, again.last_completion_start) == (
        tokens.ids,
        tokens.covered,
        tokens.last_completion_start,
    )


def _next(calls: Sequence[Any], each: dict[str, Any]) -> list[Message]:
    new = []
    if calls:
        answers = tuple(ToolReturn(one.id, one.name, "success", each["returned"]) for one in calls)
        new.append(message("tool", tool_returns=answers))
    return [*new, *(message(role, text) for role, text in each["said"])]


def _stopped_in_thought(last: TokenCall) -> bool:
    return last.finish.type == "stop" and not last.parse["reasoning_complete"]


def _check(renderer: Renderer, made: TokenCall, messages: Sequence[Message], sent: list[int], system: str) -> None:
    delta = list(bytes_to_ids(made.delta_ids))
    assert made.prompt_len == len(sent)
    assert sent[len(sent) - len(delta) :] == delta
    assert sum(span.length for span in made.spans) == len(delta)
    controls = set(renderer.tokenizer.info.special.values())
    own: dict[str, str] = {}
    at = 0
    for span in made.spans:
        ids = delta[at : at + span.length]
        at += span.length
        assert span.length > 0
        if span.is_content and ROLES[span.role] != "assistant":
            assert controls.isdisjoint(ids)
            own[span.message_id] = own.get(span.message_id, "") + renderer.tokenizer.decode(ids)
    for one in messages:
        if one.id in made.message_ids and one.role in ("user", "system", "summary"):
            tokenizer = renderer.tokenizer  # some vocabularies lack bytes
            assert tokenizer.decode(tokenizer.encode(one.text.strip())) in own.get(one.id, "")
    for put_in in made.synthesized:
        assert 0 < put_in.length <= len(delta) - put_in.at
        assert put_in.why
