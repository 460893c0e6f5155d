"""The token ledger at rest: segments and the calls that extend them, as deltas."""

import msgspec
from msgspec.structs import replace

from perdure.core.tokens import Segment, TokenCall
from perdure.store.base import Query, Tx

_segment = msgspec.msgpack.Decoder(Segment).decode
_call = msgspec.msgpack.Decoder(TokenCall).decode


def segment_with_calls(segment_id: str) -> Tx[tuple[Segment, list[TokenCall]] | None]:
    rows = yield Query("segment_by_id", {"id": segment_id})
    if not rows:
        return None
    calls = yield Query("calls_of_segment", {"segment_id": segment_id})
    return _segment(rows[0][0]), [_call(row[0]) for row in calls]


def last_segment_index(conversation_id: str) -> Tx[int]:
    """-1 where there is none."""
    rows = yield Query("last_segment_index", {"conversation_id": conversation_id})
    return int(rows[0][0])


def segments_of_conversation(conversation_id: str) -> Tx[list[Segment]]:
    rows = yield Query("segments_of_conversation", {"conversation_id": conversation_id})
    return [_segment(row[0]) for row in rows]


def calls_of_conversation(conversation_id: str) -> Tx[list[TokenCall]]:
    rows = yield Query("calls_of_conversation", {"conversation_id": conversation_id})
    return [_call(row[0]) for row in rows]


def with_experts(conversation_id: str, calls: list[TokenCall]) -> Tx[list[TokenCall]]:
    """The conversation's calls with the routed experts that lie beside their records; the others as they are."""
    if all(call.experts is None for call in calls):
        return calls
    rows = yield Query("experts_of_conversation", {"conversation_id": conversation_id})
    found = dict(rows)
    return [
        call
        if call.experts is None
        else replace(call, experts=replace(call.experts, data=bytes(found.get(call.id, b""))))
        for call in calls
    ]


def calls_of_run(run_id: str) -> Tx[list[TokenCall]]:
    rows = yield Query("calls_of_run", {"run_id": run_id})
    return [_call(row[0]) for row in rows]
