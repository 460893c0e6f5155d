"""Hands parked model calls in to their providers' batch APIs, looks after these batches and brings the answers back.

Invariant: what is about to be handed in is on record first, and looked for at the provider before it is handed in again; so
whoever is killed whenever, no call goes into two batches. A call's answer is stored before its run goes on.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Callable

import msgspec

from perdure.core.batches import CallGroup, ProviderBatch
from perdure.core.errors import AgentError, ProviderError, boundary
from perdure.core.ids import new_id, now_us
from perdure.providers.batches import Ask, BatchApi, Handed, Look
from perdure.providers.registry import Registry
from perdure.store import batch_calls
from perdure.store.base import Store
from perdure.store.batch_calls import Answered
from perdure.store.leases import give_back_named_lease, take_named_lease

log = logging.getLogger(__name__)

LEASE_US = 8_000_000
BEAT_S = 2.0
STOP_S = 5.0
GIVE_UP_US = 30 * 3600 * 1_000_000  # providers answer within 24 hours, or say that they did not
BUSY_POLLS = 5
AT_ONCE = 200
TRY_AGAIN = frozenset({408, 409, 425, 429})


class ProviderBatches:
    """`poll_s`: how often a batch is looked at. `gather_s`: the longest a call waits for others to go with it.
    `changed`: told when runs can go on."""

    def __init__(
        self,
        store: Store,
        registry: Registry,
        owner: str,
        *,
        poll_s: float = 60.0,
        gather_s: float = 60.0,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._store = store
        self._registry = registry
        self._owner = owner
        self._poll_us = round(poll_s * 1e6)
        self._gather_us = round(gather_s * 1e6)
        self.changed = changed
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def stop(self) -> None:
        """What is being handed in may end; what cannot is looked for by whoever starts next."""
        if self._tasks:
            _, pending = await asyncio.wait(self._tasks.values(), timeout=STOP_S)
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)

    async def look(self) -> None:
        """Make batches of the calls that are ready, and see to those that are due. By one process at a time."""
        now = now_us()
        for group in await self._store.read(lambda: batch_calls.ready_groups(now, self._gather_us)):
            await self._make(group)
        for batch in await self._store.read(lambda: batch_calls.due_provider_batches(now)):
            if batch.id not in self._tasks:
                task = self._tasks[batch.id] = asyncio.create_task(self._see_to(batch.id))
                task.add_done_callback(lambda _, id=batch.id: self._tasks.pop(id, None))

    async def _make(self, group: CallGroup) -> None:
        api = self._registry.batch_api(group.provider)
        most, size = (api.profile.requests, api.profile.size) if api is not None else (AT_ONCE, 1 << 40)
        while True:
            made = await self._store.write(
                lambda: batch_calls.make_provider_batch(new_id("batch"), group, most, size, now_us())
            )
            if made is None:
                return
            log.info("batch %s: %d calls for %s/%s", made.id, made.count, group.provider, group.model)

    async def _see_to(self, batch_id: str) -> None:
        try:
            async with self._holding(f"provider batch {batch_id}") as held:
                batch = await self._store.read(lambda: batch_calls.provider_batch(batch_id)) if held else None
                if batch is None:
                    return
                try:
                    with boundary(ProviderError, f"the batches of {batch.group.provider}"):
                        await self._advance(batch)
                except ProviderError as error:
                    await self._later(batch_id, error)
        except AgentError:
            log.exception("looking after batch %s failed; trying again", batch_id)

    @contextlib.asynccontextmanager
    async def _holding(self, name: str) -> AsyncGenerator[bool]:
        """While this process alone sees to it. False: another does."""

        async def take() -> bool:
            now = now_us()
            return await self._store.write(lambda: take_named_lease(name, self._owner, until=now + LEASE_US, now=now))

        async def beat() -> None:
            while True:
                await asyncio.sleep(BEAT_S)
                with contextlib.suppress(AgentError):  # missed beats are made up for by the next
                    await take()

        if not await take():
            yield False
            return
        beating = asyncio.create_task(beat())
        try:
            yield True
        finally:
            beating.cancel()
            await asyncio.gather(beating, return_exceptions=True)
            await self._store.write(lambda: give_back_named_lease(name, self._owner))

    async def _advance(self, batch: ProviderBatch) -> None:
        """Whatever comes next for it. ProviderError: to be tried again."""
        api = self._registry.batch_api(batch.group.provider)
        if api is None:
            await self._refused(
                batch, f"Provider {batch.group.provider!r} has no batch API, or is not configured any more."
            )
        elif not await self._store.read(lambda: batch_calls.is_wanted(batch.id)):
            await self._call_off(api, batch)
        elif batch.remote_id is None:
            await self._hand_in(api, batch)
        else:
            look = await api.look(batch.remote_id)
            match look.state:
                case "going":
                    await self._keep(batch)
                case "ended":
                    await self._take_in(api, batch, look)
                case "failed" if look.busy:
                    due = now_us() + BUSY_POLLS * self._poll_us
                    log.warning("batch %s was not taken, trying again later: %s", batch.id, look.error)
                    await self._store.write(lambda: batch_calls.give_back_calls(batch.id, due))
                case "failed":
                    await self._refused(batch, look.error)

    async def _hand_in(self, api: BatchApi, batch: ProviderBatch) -> None:
        """Hand it in, unless that was done already by somebody who did not live to note it."""
        if batch.tried_us is not None and (found := await api.find(_handed(batch))) is not None:
            await self._keep(msgspec.structs.replace(batch, remote_id=found, sure=api.profile.marked))
            return
        calls = await self._store.scan(lambda: batch_calls.sent_calls(batch.id))
        asks = [Ask(call_id, request) for call_id, request in calls]
        try:
            if batch.file is None and (file := await api.upload(_handed(batch), asks)) is not None:
                batch = msgspec.structs.replace(batch, file=file)
            batch = msgspec.structs.replace(batch, tried_us=batch.tried_us or now_us())
            if not await self._keep(batch):
                return
            remote_id = await api.create(_handed(batch), asks)
        except ProviderError as error:
            if error.status is None or error.status >= 500 or error.status in TRY_AGAIN:
                raise
            await self._refused(batch, error.message)
            return
        if not await self._keep(msgspec.structs.replace(batch, remote_id=remote_id, sure=True)):
            log.warning("batch %s was handed in by another process too; cancelling %s", batch.id, remote_id)
            await api.cancel(remote_id)

    async def _keep(self, batch: ProviderBatch, after_us: int = 0) -> bool:
        """Note how it stands, and look again after a while."""
        due = now_us() + max(self._poll_us, after_us)
        return await self._store.write(lambda: batch_calls.change_provider_batch(batch, due))

    async def _later(self, batch_id: str, error: ProviderError) -> None:
        batch = await self._store.read(lambda: batch_calls.provider_batch(batch_id))
        if batch is None:
            return
        if now_us() - batch.created_us > GIVE_UP_US:
            log.warning("batch %s is given up: %s", batch_id, error.message)
            answer = _failure(504, f"The provider's batch brought no answer in time. Last: {error.message}", final=True)
            await self._end(batch_id, answer)
            return
        log.warning("batch %s, trying again: %s", batch_id, error.message)
        await self._keep(batch, round((error.retry_after_s or 0) * 1e6))

    async def _take_in(self, api: BatchApi, batch: ProviderBatch, look: Look) -> None:
        """Store the answers, in pieces: what is stored is not lost if the rest has to be fetched again."""
        known = batch.sure
        answers: list[tuple[str, Answered]] = []
        async for result in api.results(look):
            call_id = result.id
            if not known and not await self._store.read(lambda id=call_id: batch_calls.is_its_call(batch.id, id)):
                await self._not_this(batch)
                return
            known = True
            answers.append((call_id, Answered(status=result.status, body=result.body, final=result.final)))
            if len(answers) == AT_ONCE:
                await self._store.write(lambda some=answers: batch_calls.answer_calls(batch.id, some))
                self.changed()
                answers = []
        await self._store.write(lambda: batch_calls.answer_calls(batch.id, answers))
        await self._end(
            batch.id, _failure(504, "The provider's batch ended without an answer to this request.", final=True)
        )

    async def _not_this(self, batch: ProviderBatch) -> None:
        """It only looked like it: somebody else's. Look for another, or hand it in after all."""
        assert batch.remote_id is not None
        others = (*batch.others, batch.remote_id)
        await self._keep(msgspec.structs.replace(batch, remote_id=None, others=others))

    async def _refused(self, batch: ProviderBatch, why: str) -> None:
        """The provider does not take these calls in a batch: they are made one by one, or fail, as was asked for."""
        log.warning("batch %s: %s takes no such batch: %s", batch.id, batch.group.provider, why)
        strict = batch.group.strict
        await self._end(batch.id, _failure(400, why, final=True) if strict else Answered(direct=True))

    async def _call_off(self, api: BatchApi, batch: ProviderBatch) -> None:
        """Nobody waits for it any more. What only looks like it is left alone."""
        remote_id = batch.remote_id if batch.sure else None
        if batch.remote_id is None and batch.tried_us is not None and api.profile.marked:
            remote_id = await api.find(_handed(batch))
        if remote_id is not None:
            await api.cancel(remote_id)
        await self._end(batch.id, None)

    async def _end(self, batch_id: str, left: Answered | None) -> None:
        await self._store.write(lambda: batch_calls.end_provider_batch(batch_id, left))
        self.changed()


def _failure(status: int, message: str, *, final: bool) -> Answered:
    return Answered(status=status, body=msgspec.json.encode({"error": {"message": message}}), final=final)


def _handed(batch: ProviderBatch) -> Handed:
    group = batch.group
    return Handed(
        id=batch.id,
        path=group.path,
        model=group.model,
        headers=dict(group.headers),
        created_us=batch.tried_us or batch.created_us,
        count=batch.count,
        file=batch.file,
        others=batch.others,
    )
