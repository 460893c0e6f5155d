"""Calls: does each generation hold what an engine can have given? Stops, logprobs, versions, vocabulary, text, rewards.

Text is checked only where a tokenizer is given; what was not checked is noted, never passed over.
"""

import hashlib
import json
import math
import re
from typing import Any

from perdure.core.tokens import ROLES, TokenizerInfo
from perdure.tokens.base import Tokenizer
from perdure.tokens.record import SUMMARY, SYSTEM, TOOL, USER, Call, Rollout, SegmentRecord
from perdure.tokens.seal import is_float32
from perdure.tokens.verify_report import Findings

FILLER = -9000.0
SLACK = 1e-6


_ESCAPE = re.compile(r'\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})')


def check_calls(rollout: Rollout, found: Findings, tokenizer: Tokenizer | None) -> None:
    for call in rollout.calls:
        segment = rollout.segments[call.segment_index]
        _check_copies(call, segment, found)
        _check_logprobs(call, found)
        _check_finish(rollout, call, found)
        _check_attempts(call, found)
        _check_bridge(call, segment, found)
        _check_greedy(call, segment, found)
    for segment in rollout.segments:
        _check_vocabulary(rollout, segment, found, tokenizer)
    check_rewards(rollout, found)
    if tokenizer is None:
        found.note("X1, X3, X4 (ids against text) are unchecked: no tokenizer was given.")
    else:
        _check_text(rollout, found, tokenizer)


def _check_copies(call: Call, segment: SegmentRecord, found: Findings) -> None:
    """L3: the call's own ids and logprobs are the segment's."""
    found.looked("L3", call.length)
    for offset, (token_id, logprob) in enumerate(zip(call.token_ids, call.logprobs, strict=False)):
        at = call.start + offset
        if not 0 <= at < len(segment.token_ids):
            return
        where: dict[str, Any] = {"segment": segment.index, "position": at, "call_id": call.call_id}
        if token_id != segment.token_ids[at]:
            found.bad("L3", f"the call says id {token_id}, the segment {segment.token_ids[at]}", **where)
        if logprob != segment.logprobs[at]:
            found.bad("L3", f"the call says logprob {logprob}, the segment {segment.logprobs[at]}", **where)


def _check_logprobs(call: Call, found: Findings) -> None:
    """L2, L8."""
    found.looked("L2", call.length)
    found.looked("L8", call.length)
    for offset, logprob in enumerate(call.logprobs):
        where: dict[str, Any] = {
            "segment": call.segment_index,
            "position": call.start + offset,
            "call_id": call.call_id,
        }
        if logprob is None or not math.isfinite(logprob):
            found.bad("L2", "has no finite logprob", **where)
        elif logprob > SLACK or logprob <= FILLER:
            found.bad("L2", f"its logprob is {logprob}", **where)
        elif not is_float32(logprob):
            found.bad("L8", f"its logprob {logprob!r} is no float32 value", **where)


def _check_finish(rollout: Rollout, call: Call, found: Findings) -> None:
    finish = call.finish
    where: dict[str, Any] = {"segment": call.segment_index, "call_id": call.call_id}
    last = call.start + call.length - 1
    position = last if 0 <= last < len(rollout.segments[call.segment_index].token_ids) else None
    if finish.type == "stop" and isinstance(finish.matched, int):
        ends = not call.stop_token_included or call.token_ids[-1:] == [finish.matched]
        message = f"stopped at id {finish.matched}, its last id is {call.token_ids[-1:]}"
        found.expect("F1", ends, message, position=position, **where)
    limit = call.sampling.get("max_new_tokens", call.sampling.get("max_tokens"))
    if isinstance(limit, int):
        message = f"has {call.length} ids, at most {limit} were asked for"
        found.expect("F2", call.length <= limit, message, position=position, **where)
    if finish.type == "abort":
        message = "was aborted and is to be trained"
        found.expect("F3", not call.trainable or rollout.status == "aborted", message, **where)
    stops: set[Any] = set(call.sampling.get("stop_token_ids") or ())
    if isinstance(finish.matched, int):
        stops.add(finish.matched)
    found.looked("F4", call.length)
    for offset, token_id in enumerate(call.token_ids[:-1]):
        if token_id in stops:
            message = f"is the stop id {token_id}, and more follows"
            found.bad("F4", message, segment=call.segment_index, position=call.start + offset, call_id=call.call_id)


def _check_attempts(call: Call, found: Findings) -> None:
    """F5: a generation that was broken off and went on is its attempts, one after the other."""
    if not call.attempts:
        return
    where: dict[str, Any] = {"segment": call.segment_index, "call_id": call.call_id}
    found.looked("F5", len(call.attempts))
    at = 0
    for number, attempt in enumerate(call.attempts):
        ids = call.token_ids[at : at + attempt.length]
        if attempt.start != at or attempt.length != len(attempt.token_ids) or attempt.token_ids != ids:
            message = (
                f"attempt {number} has {len(attempt.token_ids)} ids from {attempt.start}, the call has others there"
            )
            found.bad("F5", message, position=call.start + at, **where)
        spans = attempt.weight_versions
        covered = [spans[0].start, *(span.end for span in spans)] if spans else [0]
        if covered[0] != 0 or covered[-1] != attempt.length:
            found.bad("F5", f"the weight versions of attempt {number} do not cover its ids", **where)
        last = number == len(call.attempts) - 1
        if attempt.finish.type != "abort" and not last:
            found.bad("F5", f"attempt {number} ended by {attempt.finish.type}, and another follows", **where)
        at += attempt.length
    found.expect("F5", at == call.length, f"its attempts have {at} ids, the call {call.length}", **where)


def _check_bridge(call: Call, segment: SegmentRecord, found: Findings) -> None:
    """P5, and S4 for the ids put in to close a turn."""
    declared = call.delta_start == 0 and (segment.cause != "root" or segment.parent_segment_id is None)
    drifted = call.bridge == "fallback" and not declared
    found.report.drift += drifted
    message = "its prompt was rebuilt without a declared cause"
    found.expect("P5", not drifted, message, segment=segment.index, call_id=call.call_id)
    for piece in call.synthesized:
        inside = call.delta_start <= piece.pos and piece.pos + piece.len <= call.start
        masked = not any(segment.loss_mask[piece.pos : piece.pos + piece.len])
        message = f"synthesized ids ({piece.why}) at {piece.pos} are outside its prompt or to be trained"
        found.expect("S4", inside and masked, message, segment=segment.index, call_id=call.call_id)


def _check_greedy(call: Call, segment: SegmentRecord, found: Findings) -> None:
    """L6, where the record has the likeliest ids: the sampled one has none above it."""
    if segment.top_logprobs is None or segment.top_ids is None or call.sampling.get("temperature") != 0:
        return
    found.looked("L6", call.length)
    for at in range(call.start, min(call.start + call.length, len(segment.top_logprobs), len(segment.token_ids))):
        top, own = segment.top_logprobs[at], segment.logprobs[at]
        if top and own is not None and max(top) > own:
            message = f"was sampled at temperature 0 with logprob {own}; another id had {max(top)}"
            found.bad("L6", message, segment=segment.index, position=at, call_id=call.call_id)


def _check_vocabulary(rollout: Rollout, segment: SegmentRecord, found: Findings, tokenizer: Tokenizer | None) -> None:
    """S1, S2."""
    info = segment.tokenizer or rollout.tokenizer
    if info is None:
        found.note("S1, S2 (vocabulary, control tokens) are unchecked: the record names no tokenizer.")
        return
    found.looked("S2", len(segment.token_ids))
    for at, token_id in enumerate(segment.token_ids):
        if not 0 <= token_id < info.vocab_size:
            message = f"id {token_id} is not in the vocabulary of {info.vocab_size}"
            found.bad("S2", message, segment=segment.index, position=at)
    if tokenizer is not None:
        message = f"the record's tokenizer is {info.name} ({info.sha256[:12]}), the loaded one {_named(tokenizer.info)}"
        found.expect("S2", tokenizer.info.sha256 == info.sha256, message, segment=segment.index)
    special, written = set(info.special.values()), {SYSTEM, USER, TOOL, SUMMARY}
    found.looked("S1", sum(segment.is_content))
    rows = zip(segment.token_ids, segment.role, segment.is_content, segment.call_index, strict=True)
    for at, (token_id, role, content, call) in enumerate(rows):
        if content and call < 0 and role in written and token_id in special:
            message = f"control token {token_id} inside what a {ROLES[role]} message says"
            found.bad("S1", message, segment=segment.index, position=at)


def _named(info: TokenizerInfo) -> str:
    return f"{info.name} ({info.sha256[:12]})"


def check_rewards(rollout: Rollout, found: Findings) -> None:
    """G3, G4. A call is named by its own id, its step's or that of a tool call it made."""
    made = {tool_call[0] for message in rollout.messages for tool_call in message.tool_calls}
    made |= {str(piece.get("id")) for call in rollout.calls for piece in call.parse.get("tool_calls") or ()}
    targets = {
        "segment": {segment.segment_id for segment in rollout.segments},
        "call": {name for call in rollout.calls for name in (call.call_id, call.step_id)} | made,
    }
    own = {
        name
        for call in rollout.calls
        if call.trainable
        for name in (call.call_id, call.step_id, call.run_id, call.assistant_message_id)
    }
    for reward in rollout.rewards:
        message = f"reward {reward.name} was given by {reward.source}, which this rollout trains"
        found.expect("G4", reward.source is None or reward.source not in own, message)
        known = targets.get(reward.scope)
        message = f"reward {reward.name} is for {reward.scope} {reward.target_id}, which is not in the record"
        found.expect("G3", known is None or reward.target_id in known, message)
    if rollout.reward is not None:
        total = math.fsum(reward.weight * reward.value for reward in rollout.rewards)
        message = f"reward is {rollout.reward}; the rewards add up to {total}"
        found.expect("G3", math.isclose(total, rollout.reward, rel_tol=1e-9, abs_tol=1e-12), message)


def _check_text(rollout: Rollout, found: Findings, tokenizer: Tokenizer) -> None:
    messages = {message.id: message for message in rollout.messages}
    for call in rollout.calls:
        segment = rollout.segments[call.segment_index]
        info = segment.tokenizer or rollout.tokenizer
        if info is None or info.sha256 != tokenizer.info.sha256:
            continue
        where: dict[str, Any] = {"segment": call.segment_index, "call_id": call.call_id}
        if call.text_sha256 is not None:
            text = tokenizer.decode(call.token_ids)
            same = call.text_sha256 in (_sha256(text), _sha256(tokenizer.decode(_without_stop(call))))
            found.expect("X1", same, f"its ids decode to another text than was shown: {text[:80]!r}", **where)
        answer = messages.get(call.assistant_message_id)
        made = {made[0]: made for made in answer.tool_calls} if answer is not None else {}
        for piece in call.parse.get("tool_calls") or ():
            if (known := made.get(str(piece.get("id")))) is not None:
                text = tokenizer.decode(call.token_ids[piece["span"][0] : piece["span"][1]])
                message = f"its ids say {text[:120]!r}, executed was {known[1]}({known[2][:80]})"
                said = says_call(text, known[1], known[2], str(call.parse.get("tool_format", "hermes_json")))
                found.expect("X3", said, message, **where)
        _check_messages(rollout, call, segment, found, tokenizer)


def _without_stop(call: Call) -> list[int]:
    stopped = call.finish.type == "stop" and call.token_ids[-1:] == [call.finish.matched]
    return call.token_ids[:-1] if stopped else call.token_ids


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def says_call(text: str, name: str, arguments: str, tool_format: str = "hermes_json") -> bool:
    """A tool call's ids say the call that was executed: as one JSON object, as a name and its JSON, or as tagged text."""
    begin, end = text.find("{"), text.rfind("}")
    try:
        ran: Any = json.loads(arguments)
        if tool_format in _TAGGED:
            return _says_tagged(text, name, ran)
        said: Any = json.loads(text[begin : end + 1])
    except ValueError:
        # a call written in another format: its words must at least be there
        return name in text
    if not isinstance(said, dict):
        return False
    if tool_format in _NAMED and name in text[:begin] and said == ran:
        return True
    given = said.get("arguments", said.get("parameters", {}))
    return said.get("name") == name and given in (ran, arguments)


_TAGGED = ("qwen_xml", "glm_xml")
_NAMED = ("deepseek", "harmony", "mistral")


def _says_tagged(text: str, name: str, ran: Any) -> bool:
    """Values stand there as bare text; those that are no strings as JSON, or as Python writes True, False and None."""
    if not isinstance(ran, dict) or name not in text:
        return False
    squeezed = _squeezed(text)
    for key, value in ran.items():
        if isinstance(value, str):
            forms = (value,)
        else:  # other numbers and structures can be written in many ways
            forms = (json.dumps(value), repr(value)) if isinstance(value, int | None) else ("",)
        if key not in text or not any(_squeezed(form) in squeezed for form in forms):
            return False
    return True


def _check_messages(
    rollout: Rollout, call: Call, segment: SegmentRecord, found: Findings, tokenizer: Tokenizer
) -> None:
    """X4: each message among the ids a prompt added is there in its own words."""
    at, shown = call.delta_start, dict[int, list[int]]()
    for length, message, role, content in call.spans:
        if content and message >= 0 and role in (USER, TOOL, SUMMARY):
            shown.setdefault(message, []).extend(segment.token_ids[at : at + length])
        at += length
    for index, ids in shown.items():
        text = rollout.messages[index].text
        if not text:
            continue
        said = _squeezed(tokenizer.decode(ids))
        # a family may show text inside JSON
        same = not said or _squeezed(text) in said or _bare(text) in _bare(_unescaped(said))
        first = segment.message_index.index(index, call.delta_start, call.start) if not same else None
        message = f"message {rollout.messages[index].id} is shown as {said[:80]!r}"
        found.expect("X4", same, message, segment=segment.index, position=first, call_id=call.call_id)


def _unescaped(text: str) -> str:
    """What the insides of JSON strings say."""
    return _ESCAPE.sub(lambda found: json.loads(f'"{found[0]}"'), text)


def _bare(text: str) -> str:
    """Without white space, and without quotes: one token may hold a text's own and the one that closes it."""
    return _squeezed(text).replace('"', "")


def _squeezed(text: str) -> str:
    """Without white space, which templates trim."""
    return "".join(text.split())
