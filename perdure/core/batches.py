"""Batches: many requests handed in at once, each of which becomes a run when it is its turn."""

from typing import Literal

from msgspec import Struct

from perdure.core.messages import Message
from perdure.core.runs import RunConfig

BatchStatus = Literal["created", "running", "completed", "failed", "cancelled"]
ItemStatus = Literal["waiting", "running", "completed", "failed", "cancelled"]
GOING: tuple[BatchStatus, ...] = ("created", "running")


class Batch(Struct, frozen=True, kw_only=True):
    """Times are microseconds since the epoch. `callback_url`: told when it has ended."""

    id: str
    status: BatchStatus
    created_us: int
    updated_us: int
    completed_us: int | None = None
    callback_url: str | None = None


class BatchRequest(Struct, frozen=True, kw_only=True):
    """What is said to an agent, and how. `otids`: those the client gave."""

    agent_id: str
    inputs: tuple[Message, ...]
    config: RunConfig
    otids: tuple[str, ...] = ()


class BatchItem(Struct, frozen=True, kw_only=True):
    """One request of a batch. `position` counts from 0, in the order of the request."""

    id: str
    batch_id: str
    position: int
    agent_id: str
    status: ItemStatus
    run_id: str | None = None
    error: str | None = None
