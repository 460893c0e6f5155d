"""Batches: many requests handed in at once, each of which becomes a run when it is its turn."""

from typing import Literal

from msgspec import Struct

from perdure.core.messages import Message
from perdure.core.runs import RunConfig

# how a batch's model calls are made: by the provider's own batch API at its own address ("auto"), wherever it is said to be
# ("provider"), or one by one as any other call ("queue")
Via = Literal["auto", "provider", "queue"]
BatchStatus = Literal["created", "running", "completed", "failed", "cancelled"]
ItemStatus = Literal["waiting", "running", "completed", "failed", "cancelled"]
GOING: tuple[BatchStatus, ...] = ("created", "running")


class Batch(Struct, frozen=True, kw_only=True):
    """Times are microseconds since the epoch. `callback_url`: told when it has ended. `via`: how its model calls are made."""

    id: str
    status: BatchStatus
    created_us: int
    updated_us: int
    completed_us: int | None = None
    callback_url: str | None = None
    via: Via = "queue"


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


class CallGroup(Struct, frozen=True, kw_only=True):
    """What model calls must have in common to go to a provider in one batch. `headers`: of these calls, (name, value).

    `strict`: if the provider would not have them in a batch they fail; else they are made one by one.
    """

    batch_id: str
    provider: str
    model: str
    path: str
    headers: tuple[tuple[str, str], ...] = ()
    strict: bool = False


class BatchCall(Struct, frozen=True, kw_only=True):
    """A model call of a run, parked until a provider's batch brings its answer. `step`: after how many steps of the run it is
    made; `at`, `number`: which of the calls there. `body`: the request."""

    id: str
    run_id: str
    conversation_id: str
    group: CallGroup
    step: int
    at: str
    number: int
    created_us: int
    body: bytes


class ProviderBatch(Struct, frozen=True, kw_only=True):
    """A batch of ours at a provider: calls of one group. `tried_us`: when it was first handed in, as far as it may have been.
    `sure`: `remote_id` is it, and not only looks like it. `others`: batches of the provider that were taken for it."""

    id: str
    group: CallGroup
    created_us: int
    count: int
    file: str | None = None
    tried_us: int | None = None
    remote_id: str | None = None
    sure: bool = False
    others: tuple[str, ...] = ()
