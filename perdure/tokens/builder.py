"""One conversation's rollout record, put together from its segments and calls.

Ids, logprobs, causes and offsets are the ledger's own, and a ledger that does not fit together is a StoreError that names the
call. A sampled token is trainable in the segment whose call sampled it and nowhere else.
"""

import hashlib
import math
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from msgspec import UNSET, Struct

from perdure.core.errors import StoreError
from perdure.core.experts import ExpertRows
from perdure.core.messages import Message
from perdure.core.tokens import Segment, TokenCall, bytes_to_floats, bytes_to_ids
from perdure.tokens.experts import call_experts, segment_experts
from perdure.tokens.record import (
    ASSISTANT,
    UNKNOWN_VERSION,
    Call,
    EngineRef,
    FinishRef,
    MessageRef,
    Model,
    Reward,
    Rollout,
    SegmentRecord,
    Status,
    SynthesizedRef,
    WeightSpan,
)
from perdure.tokens.refs import attempt_ref, message_ref, without_secrets


class Given(Struct, frozen=True, kw_only=True):
    """What is known of a rollout beside its tokens: whose attempt at what it was, and how it was scored.

    `subagents`: the conversations of other agents that worked for it, whose segments are its own too. `system_text`: of an
    attempt, the prompt it began with, without what differs between copies of one agent; None if it is not stored any more.
    """

    rollout_id: str | None = None
    group_id: str | None = None
    group_index: int | None = None
    group_size: int | None = None
    task: dict[str, Any] | None = None
    rewards: tuple[Reward, ...] = ()
    subagents: tuple[str, ...] = ()
    system_text: str | None = None


@dataclass(slots=True)
class _Stream:
    """One segment's arrays while they grow."""

    segment: Segment
    ids: list[int] = field(default_factory=list)
    mask: list[int] = field(default_factory=list)
    logprobs: list[float | None] = field(default_factory=list)
    call: list[int] = field(default_factory=list)
    message: list[int] = field(default_factory=list)
    role: list[int] = field(default_factory=list)
    content: list[int] = field(default_factory=list)
    version: list[int] = field(default_factory=list)
    top: dict[int, list[Any]] = field(default_factory=dict)
    experts: list[ExpertRows] = field(default_factory=list)
    owns_trainable: bool = False


class RolloutBuilder:
    def __init__(
        self,
        segments: Sequence[Segment],
        calls: Sequence[TokenCall],
        messages: Mapping[str, Message],
        *,
        run_id: str | None,
        trains: bool,
    ) -> None:
        self._run_id = run_id
        self._trains = trains
        self._said = messages
        self._streams = {segment.id: _Stream(segment) for segment in segments}
        self._order = {segment.id: at for at, segment in enumerate(segments)}
        self._messages: dict[str, int] = {}
        self._refs: list[MessageRef] = []
        self._versions: dict[str, int] = {}
        self._calls: list[Call] = []
        for call in calls:
            self._add(call)

    def rollout(self, status: Status, stop_reason: str | None, given: Given) -> Rollout:
        streams = list(self._streams.values())
        first = streams[0].segment
        calls = self._calls
        runs = list(dict.fromkeys(call.run_id for call in calls)) if self._run_id is None else [self._run_id]
        own = [call for call in calls if call.run_id in runs]
        return Rollout(
            rollout_id=given.rollout_id or f"rollout-{self._run_id or first.conversation_id}",
            group_id=given.group_id,
            group_index=given.group_index,
            group_size=given.group_size,
            task=given.task,
            rewards=list(given.rewards),
            reward=sum(each.value * each.weight for each in given.rewards) if given.rewards else None,
            agent_id=first.agent_id,
            agent_snapshot_sha256=_snapshot(first, given),
            conversation_id=first.conversation_id,
            run_ids=runs,
            started_at=own[0].t_queue,
            ended_at=max((call.t_last or call.t_queue or 0 for call in own), default=None),
            status=status,
            stop_reason=stop_reason,
            model=_model(first),
            tokenizer=first.tokenizer,
            renderer=first.renderer,
            tools_sha256=first.tools_sha256,
            versions=list(self._versions),
            metrics={"calls": float(len(own)), "sampled_tokens": float(sum(call.length for call in own))},
            messages=self._refs,
            calls=calls,
            segments=[self._segment(at, stream, first) for at, stream in enumerate(streams)],
        )

    def _add(self, call: TokenCall) -> None:
        """Extend the call's segment by what its prompt added and by what it sampled."""
        stream = self._streams[call.segment_id]
        delta, completion = bytes_to_ids(call.delta_ids).tolist(), bytes_to_ids(call.completion_ids).tolist()
        logprobs = [value if math.isfinite(value) else None for value in bytes_to_floats(call.logprobs)]
        begins = len(stream.ids)
        start = begins + len(delta)
        if call.prompt_len != start or call.length != len(completion) or len(logprobs) != len(completion):
            raise StoreError(
                f"The token ledger does not fit together at call {call.id} of segment {call.segment_id}: its prompt is said "
                f"to have {call.prompt_len} ids and {start} are there, its completion {call.length} and {len(completion)} are "
                f"there with {len(logprobs)} logprobs."
            )
        at = len(self._calls)
        trainable = (
            self._trains
            and call.trainable
            and call.finish.type != "abort"
            and (self._run_id is None or call.run_id == self._run_id)
        )
        spans = self._extend_by_delta(stream, call, delta)
        if begins == 0:
            self._inherit(stream, start, call)
        stopped = call.finish.type == "stop" and bool(completion) and completion[-1] == call.finish.matched
        content = len(completion) - stopped
        self._extend(stream, completion, self._message(call.assistant_message_id, ASSISTANT), ASSISTANT, content)
        stream.mask[start:] = [int(trainable)] * len(completion)
        stream.logprobs[start:] = logprobs
        stream.call[start:] = [at] * len(completion)
        if call.top_logprobs is not None:
            stream.top.update(enumerate(call.top_logprobs, start))
        versions = [WeightSpan(version=span.version, start=span.start, end=span.end) for span in call.versions] or [
            WeightSpan(version=UNKNOWN_VERSION, start=0, end=len(completion))
        ]
        for span in versions:
            index = self._versions.setdefault(span.version, len(self._versions))
            stream.version[start + span.start : start + span.end] = [index] * (span.end - span.start)
        if len(stream.version) != len(stream.ids):
            raise StoreError(f"The weight versions of call {call.id} do not cover its {len(completion)} ids.")
        stream.owns_trainable |= trainable
        made = self._record(
            call, at, begins, start, completion, logprobs, versions=versions, spans=spans, trainable=trainable
        )
        if (told := call_experts(call)) is not None:
            stream.experts.append(told[0])
            made = msgspec.structs.replace(made, routed_experts=told[1])
        self._calls.append(made)

    def _extend_by_delta(self, stream: _Stream, call: TokenCall, delta: list[int]) -> list[tuple[int, int, int, int]]:
        spans: list[tuple[int, int, int, int]] = []
        done = 0
        for span in call.spans:
            message = self._message(span.message_id, span.role)
            spans.append((span.length, message, span.role, int(span.is_content)))
            piece = delta[done : done + span.length]
            self._extend(stream, piece, message, span.role, len(piece) if span.is_content else 0)
            done += span.length
        if done > len(delta):
            raise StoreError(f"The spans of call {call.id} cover {done} ids, its prompt added {len(delta)}.")
        if done < len(delta):
            spans.append((len(delta) - done, -1, 0, 0))
            self._extend(stream, delta[done:], -1, 0, 0)
        return spans

    def _extend(self, stream: _Stream, ids: list[int], message: int, role: int, content: int) -> None:
        """Append ids nobody has sampled yet; the first `content` of them are a message's body."""
        count = len(ids)
        stream.ids += ids
        stream.mask += [0] * count
        stream.logprobs += [0.0] * count
        stream.call += [-1] * count
        stream.message += [message] * count
        stream.role += [role] * count
        stream.content += [1] * content + [0] * (count - content)
        stream.version += [-1] * count

    def _inherit(self, stream: _Stream, prompt_len: int, call: TokenCall) -> None:
        """A segment's first prompt shares its beginning with the parent: say who sampled it. It trains in the parent only."""
        offset = stream.segment.parent_offset
        parent = self._streams.get(stream.segment.parent_segment_id or "")
        if parent is None:
            return
        if offset > prompt_len or parent.ids[:offset] != stream.ids[:offset]:
            raise StoreError(
                f"Segment {stream.segment.id} is said to share {offset} ids with {parent.segment.id}; its first prompt "
                f"(call {call.id}) does not begin with them."
            )
        stream.call[:offset] = parent.call[:offset]
        stream.logprobs[:offset] = parent.logprobs[:offset]
        stream.version[:offset] = parent.version[:offset]
        stream.top |= {position: top for position, top in parent.top.items() if position < offset}

    def _message(self, message_id: str, role: int) -> int:
        if not message_id:
            return -1
        index = self._messages.get(message_id)
        if index is None:
            index = self._messages[message_id] = len(self._refs)
            self._refs.append(message_ref(message_id, role, self._said.get(message_id)))
        return index

    def _record(
        self,
        call: TokenCall,
        at: int,
        begins: int,
        start: int,
        completion: list[int],
        logprobs: list[float | None],
        *,
        versions: list[WeightSpan],
        spans: list[tuple[int, int, int, int]],
        trainable: bool,
    ) -> Call:
        return Call(
            call_id=call.id,
            index=at,
            segment_id=call.segment_id,
            segment_index=self._order[call.segment_id],
            step_id=call.step_id,
            run_id=call.run_id,
            engine=EngineRef(
                kind=call.engine, base_id=without_secrets(call.engine_base_url), version=call.engine_version
            ),
            engine_request_id=call.engine_request_id,
            delta_start=begins,
            prompt_len=call.prompt_len,
            start=start,
            length=call.length,
            finish=FinishRef(type=call.finish.type, matched=call.finish.matched, raw=call.finish.raw),
            stop_token_included=call.stop_token_included,
            sampling=call.sampling,
            logprob_semantics=call.logprob_semantics,
            weight_versions=versions,
            cached_tokens=call.cached_tokens,
            retractions=call.retractions,
            attempts=[attempt_ref(attempt, completion, versions) for attempt in call.attempts],
            bridge=call.bridge,
            synthesized=[SynthesizedRef(pos=begins + s.at, len=s.length, why=s.why) for s in call.synthesized],
            parse=call.parse,
            message_ids=list(call.message_ids),
            assistant_message_id=call.assistant_message_id,
            text_sha256=call.text_sha256,
            t_queue=call.created_us,
            t_first=call.first_token_us,
            t_last=call.ended_us,
            trainable=trainable,
            spans=spans,
            token_ids=completion,
            logprobs=logprobs,
            call_type=UNSET if call.call_type == "agent_step" else call.call_type,
        )

    def _segment(self, at: int, stream: _Stream, first: Segment) -> SegmentRecord:
        segment = stream.segment
        shown = [self._refs[index].id for index in dict.fromkeys(stream.message) if index >= 0]
        return SegmentRecord(
            segment_id=segment.id,
            index=at,
            parent_segment_id=segment.parent_segment_id,
            parent_offset=segment.parent_offset,
            cause=segment.cause,
            cause_detail=segment.cause_detail,
            created_at=segment.created_us,
            trainable=stream.owns_trainable,
            agent_id=segment.agent_id,
            messages_range=[shown[0], shown[-1]] if shown else [],
            system_sha256=segment.system_sha256,
            tools_sha256=segment.tools_sha256,
            settings=segment.settings,
            token_ids=stream.ids,
            loss_mask=stream.mask,
            logprobs=stream.logprobs,
            call_index=stream.call,
            message_index=stream.message,
            role=stream.role,
            is_content=stream.content,
            version=stream.version,
            check=[],
            model=_model(segment) if _model(segment) != _model(first) else None,
            tokenizer=segment.tokenizer if segment.tokenizer != first.tokenizer else None,
            renderer=segment.renderer if segment.renderer != first.renderer else None,
            top_ids=_tops(stream, 1),
            top_logprobs=_tops(stream, 0),
            routed_experts=segment_experts(segment.id, stream.experts),
        )


def _tops(stream: _Stream, part: int) -> list[list[Any]] | None:
    """One list an id: of the likeliest instead of it, their logprobs (part 0) or ids (part 1). None if nobody asked for them."""
    if not stream.top:
        return None
    shown: list[list[Any]] = [[] for _ in stream.ids]
    for position, top in stream.top.items():
        told = [row[part] for row in top]
        shown[position] = array("f", told).tolist() if part == 0 else told
    return shown


def _model(segment: Segment) -> Model:
    return Model(handle=segment.model_handle, path=segment.model_name)


def _snapshot(first: Segment, given: Given) -> str | None:
    """What the agent was when the record begins: its compiled prompt (memory included), tools, model and settings.

    The same for all copies of one state. None for an attempt whose first prompt's text is gone.
    """
    if given.group_id is not None and given.system_text is None:
        return None
    state = [given.system_text or first.system_sha256, first.tools_sha256, first.model_handle, first.settings]
    return hashlib.sha256(msgspec.json.encode(state, order="sorted")).hexdigest()
