"""What a step's commit keeps of its model call: the token record, and the request and answer for the trace."""

from typing import TypedDict

from perdure.core.model import ProviderExchange, TokenCapture
from perdure.core.tokens import Segment, TokenCall
from perdure.core.traces import KeptRequest, capped


class Recorded(TypedDict):
    """The fields of a `StepCommit` of the same names."""

    segment: Segment | None
    call: TokenCall | None
    segment_id: str | None
    consumed_cause: str | None
    request: KeptRequest | None
    response: bytes | None


def recorded(
    capture: TokenCapture | None,
    exchange: ProviderExchange | None,
    trace_limit: int,
    request: KeptRequest | None = None,
) -> Recorded:
    """`trace_limit`: the most bytes a request or an answer is kept whole with. `request`: what is kept of it, if not itself."""
    if request is None and exchange is not None:
        request = KeptRequest(capped(exchange.request, trace_limit))
    return {
        "segment": capture.segment if capture else None,
        "call": capture.call if capture else None,
        "segment_id": capture.call.segment_id if capture else None,
        "consumed_cause": _consumed(capture),
        "request": request,
        "response": capped(exchange.response, trace_limit) if exchange else None,
    }


def _consumed(capture: TokenCapture | None) -> str | None:
    """The recorded cause that the call's new segment begins for, as conversations keep it."""
    if capture is None or capture.segment is None:
        return None
    return f"{capture.segment.cause}: {capture.segment.cause_detail or ''}"
