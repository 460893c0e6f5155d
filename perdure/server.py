"""The composition root: the one file that builds store, providers, sandbox, runner and app, and knows them all."""

import asyncio
import contextlib
import importlib
import logging
import math
import signal
import socket
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from starlette.types import ASGIApp

from perdure import event_loop
from perdure.agents.builtin_tools import ensure_builtin_tools
from perdure.agents.providers import Providers
from perdure.agents.sealing import check_vault, open_vault
from perdure.api.app import create_app
from perdure.api.services import Services
from perdure.config import Settings, SettingsError
from perdure.core.vault import Vault
from perdure.observe.load import load_metrics
from perdure.observe.metrics import Metrics
from perdure.observe.setup import Exports, exports
from perdure.providers.embeddings import Embeddings
from perdure.providers.limits import limits_from
from perdure.providers.registry import Registry, providers_from_config, providers_from_env
from perdure.providers.web import Web
from perdure.rollouts.attempt import Attempts
from perdure.rollouts.driver import MakesAttempts, Rollouts
from perdure.rollouts.fork import stand_in
from perdure.rollouts.on_ray import Parts, RayAttempts
from perdure.rollouts.rewards import Scoring
from perdure.runs.batches import Batches
from perdure.runs.indexer import Indexer
from perdure.runs.janitor import Janitor, Kept
from perdure.runs.provider_batches import ProviderBatches
from perdure.runs.runner import HAND_OVER_S, Runner
from perdure.runs.schedules import Schedules
from perdure.runs.search import Searcher
from perdure.runs.shared_limits import SharedLimits
from perdure.store.base import Store
from perdure.store.opening import open_store
from perdure.store.pgvector import PgVectors
from perdure.store.pgvector import prepare as prepare_pgvector
from perdure.store.postgres import PostgresStore
from perdure.store.sign_index import SignIndex
from perdure.store.sqlite import SqliteStore
from perdure.tools.sandbox import Sandbox
from perdure.tools.sandbox.on_ray import RaySandbox

log = logging.getLogger(__name__)

RAY_ANSWERS_S = 5.0
CLOSING_S = 2  # for answers that are on their way when the last run has ended or is handed over


@dataclass(slots=True)
class Server:
    """The parts of one server process, started and stopped together."""

    settings: Settings
    services: Services
    indexer: Indexer
    app: ASGIApp
    exports: Exports
    schedules: Schedules
    janitor: Janitor
    shared_limits: SharedLimits | None = None
    _checking: "asyncio.Task[None] | None" = None
    _draining: "asyncio.Task[None] | None" = None

    async def start(self) -> None:
        if isinstance(self.services.store, PostgresStore):
            await self.services.store.check_connections()
        await check_vault(self.services.store, self.services.vault)
        await ensure_builtin_tools(self.services.store)
        await self.services.providers.start()
        await self.services.sandbox.start()
        if self.services.sandbox.warning is not None:
            log.warning("%s", self.services.sandbox.warning)
        if self.shared_limits is not None:
            await self.shared_limits.start()
        await self.services.runner.start()
        await self.services.rollouts.start()
        await self.schedules.start()
        await self.services.batches.start()
        await self.janitor.start()
        self._checking = asyncio.create_task(self.services.store.check_after_crash())
        if isinstance(self.services.store, PostgresStore):
            self.indexer.unusable = await prepare_pgvector(self.services.store)
        self.indexer.start()
        if (reason := self.services.search.why_words_only) is not None:
            log.info("Archives and conversations are searched by words only. %s", reason)

    def drain(self) -> "asyncio.Task[None]":
        """Take up nothing more, and let running runs end for a while or hand them over. Requests are still answered."""
        if self._draining is None:
            self.services.runner.refuse()
            self._draining = asyncio.create_task(self._drain())
        return self._draining

    async def _drain(self) -> None:
        await self.schedules.stop()
        await self.janitor.stop()
        await self.services.batches.stop()
        await self.services.rollouts.stop()
        await self.services.runner.stop(self.settings.shutdown_grace_s)

    async def stop(self) -> None:
        """Drain, then close everything in the order it depends on each other."""
        await self.drain()
        if self.shared_limits is not None:
            await self.shared_limits.stop()
        if self._checking is not None:
            await asyncio.wait([self._checking], timeout=5)
        await self.indexer.stop()
        self.services.embeddings.close()
        await self.services.sandbox.close()
        await self.services.providers.stop()
        await self.services.registry.close()
        await self.services.web.close()
        await self.services.store.close()
        await asyncio.to_thread(self.exports.close)


def build(settings: Settings) -> Server:
    """Put the parts together; nothing is started but the database's writer."""
    vault = open_vault(settings.encryption_keys, settings.data_dir)
    store, private = open_store(settings)
    configs = [*providers_from_config(settings.config, settings.env), *providers_from_env(settings.env)]
    limits = limits_from(settings.config, settings.env)
    shared_limits = SharedLimits(store) if limits and store.signals.shared else None
    registry = Registry(
        configs,
        tokenizers_dir=settings.tokenizers_dir,
        env=settings.env,
        limits=limits,
        make_gate=None if shared_limits is None else shared_limits.gate,
    )
    web = Web(allow_private=settings.allow_private_urls)
    sandbox = _sandbox(settings, [settings.data_dir, *private])
    embeddings = Embeddings(registry, default=settings.default_embedding)
    indexer = Indexer(store, embeddings, SignIndex() if isinstance(store, SqliteStore) else PgVectors())
    searcher = Searcher(store, embeddings, indexer)
    runner = _runner(settings, store, registry, sandbox, web, searcher, vault)
    if isinstance(store, SqliteStore):
        store.alone_when(lambda: runner.active <= 1)
    metrics = _metrics(store, registry, runner)
    told = exports(settings.env)
    runner.observers += [metrics.committed, searcher.committed, *told.observers]
    provider_batches = ProviderBatches(
        store, registry, runner.owner, poll_s=settings.batch_poll_s, gather_s=settings.batch_gather_s
    )
    batches = Batches(store, runner, provider_batches, at_once=settings.batch_concurrency)
    runner.observers.append(batches.committed)
    rollouts = Rollouts(store, runner, _attempts(settings, Parts(store, runner, Scoring(sandbox, web))))
    services = Services(
        settings=settings,
        store=store,
        registry=registry,
        sandbox=sandbox,
        runner=runner,
        web=web,
        rollouts=rollouts,
        batches=batches,
        metrics=metrics.text,
        embeddings=embeddings,
        search=searcher,
        vault=vault,
        providers=Providers(store, registry, vault),
    )
    return Server(
        settings,
        services,
        indexer,
        create_app(services),
        told,
        Schedules(store, runner),
        Janitor(store, runner.owner, _kept(settings)),
        shared_limits,
    )


def _runner(
    settings: Settings, store: Store, registry: Registry, sandbox: Sandbox, web: Web, searcher: Searcher, vault: Vault
) -> Runner:
    return Runner(
        store,
        registry,
        sandbox,
        web=web,
        searcher=searcher,
        max_queued=settings.max_queued_per_conversation,
        trace_limit=settings.trace_limit,
        callback_secret=settings.callback_secret,
        approval_expiry_s=settings.approval_expiry_s,
        max_agent_depth=settings.max_agent_depth,
        stand_in=partial(stand_in, store),
        open_secrets=vault.open_all,
        max_runs=settings.max_runs if settings.runs else 0,
        max_backlog=settings.max_backlog,
        cache_bytes=settings.cache_bytes,
    )


def _metrics(store: Store, registry: Registry, runner: Runner) -> Metrics:
    return Metrics(
        {
            "perdure_runs_active": ("Runs this process drives now", lambda: runner.active),
            "perdure_runs_waiting": ("Runs accepted here that wait for their conversation", lambda: runner.waiting),
            "perdure_runs_queued": (
                "Runs of the database that wait for a place or their conversation, as of the last second",
                lambda: runner.capacity.backlog,
            ),
        },
        lambda: load_metrics(registry.gates, store.work),
    )


def _kept(settings: Settings) -> Kept:
    return Kept(
        events_s=settings.keep_streams_s,
        traces_s=settings.keep_traces_s,
        callbacks_s=settings.keep_callbacks_s,
        ticks_s=settings.keep_ticks_s,
        batches_s=settings.keep_batches_s,
    )


def _sandbox(settings: Settings, hide: list[Path]) -> Sandbox:
    """Here, or on the Ray cluster that the settings name. SettingsError if that cannot be reached."""
    mode: Any = settings.tool_isolation
    options: dict[str, Any] = {"mode": mode, "timeout_s": settings.tool_timeout_s, "hide": hide}
    if settings.ray is None:
        return Sandbox(**options)
    connect_ray(settings.ray)
    return RaySandbox(hosts=settings.ray_workers, **options)


def _attempts(settings: Settings, parts: Parts) -> MakesAttempts:
    if settings.ray is None:
        return Attempts(parts.store, parts.runner, parts.scoring, holder=parts.runner.owner)
    if settings.postgres_url is None:
        raise SettingsError(
            "Rollouts on Ray need a database that several processes can share: give --database "
            "postgresql://user@host/name (PERDURE_DATABASE_URL) with --ray."
        )
    there = msgspec.structs.replace(settings, ray=None)
    return RayAttempts(partial(rollout_parts, there), hosts=settings.ray_workers, holder=parts.runner.owner)


def connect_ray(address: str) -> None:
    """Join the Ray cluster, once a process. SettingsError if it cannot be reached."""
    try:
        ray: Any = importlib.import_module("ray")
    except ImportError as error:
        raise SettingsError("Ray needs the extra: pip install 'perdure[ray]'.") from error
    if ray.is_initialized():
        return
    try:
        host, colon, port = address.rpartition(":")
        if colon and port.isdigit() and "/" not in host:  # Ray itself would try for minutes
            socket.create_connection((host.strip("[]"), int(port)), timeout=RAY_ANSWERS_S).close()
        ray.init(address=address, namespace="perdure", log_to_driver=False, configure_logging=False)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise SettingsError(
            f"The Ray cluster {address!r} cannot be reached: {error}. Give auto, local or host:port (--ray, PERDURE_RAY)."
        ) from error


@contextlib.asynccontextmanager
async def rollout_parts(settings: Settings) -> AsyncGenerator[Parts]:
    """What attempts are made with in a process that does nothing else: it takes up no job and no schedule by itself."""
    server = build(settings)
    services = server.services
    await services.providers.start()
    await services.sandbox.start()
    if server.shared_limits is not None:
        await server.shared_limits.start()
    await services.runner.start()
    try:
        yield Parts(services.store, services.runner, Scoring(services.sandbox, services.web))
    finally:
        await server.stop()


@contextlib.asynccontextmanager
async def running(settings: Settings) -> AsyncGenerator[Server]:
    """A started server without a socket: for tests and for those who mount the app themselves."""
    server = build(settings)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


def serve(settings: Settings, *, on_ready: Callable[[Server], None] | None = None, log_level: str = "info") -> None:
    """Serve until SIGTERM or SIGINT, then shut down gracefully. Raises AgentError if the parts cannot be built."""
    import uvicorn

    listener = _listen(settings)

    async def main() -> None:
        server = build(settings)
        await server.start()
        config = uvicorn.Config(
            server.app,
            host=settings.host,
            port=settings.port,
            log_level=log_level,
            access_log=False,
            lifespan="off",
            ws="none",
            proxy_headers=False,  # nothing here asks who the client is, or by which scheme it came
            timeout_keep_alive=75,
            timeout_graceful_shutdown=math.ceil(settings.shutdown_grace_s + HAND_OVER_S) + CLOSING_S,
        )
        event_loop.spare_collections()
        http = uvicorn.Server(config)
        http.install_signal_handlers = lambda: None  # type: ignore[attr-defined,method-assign]
        loop = asyncio.get_running_loop()

        def leave() -> None:
            """No new connections, and at once what those that are open wait for comes to its end."""
            http.should_exit = True
            server.drain()

        for number in (signal.SIGTERM, signal.SIGINT):
            with contextlib.suppress(NotImplementedError):
                loop.add_signal_handler(number, leave)
        serving = asyncio.create_task(http.serve(sockets=[listener]))
        while not http.started and not serving.done():  # noqa: ASYNC110 (uvicorn has no event for this)
            await asyncio.sleep(0.01)
        if on_ready is not None and http.started:
            on_ready(server)
        try:
            await serving
        finally:
            await server.stop()

    event_loop.run(main())


def work(settings: Settings, *, on_ready: Callable[[Server], None] | None = None) -> None:
    """Drive the runs that any server of the database accepts, without an HTTP API, until SIGTERM or SIGINT.

    SettingsError unless the database is PostgreSQL: a SQLite file belongs to one process.
    """
    if settings.postgres_url is None:
        raise SettingsError(
            "A worker needs a database that several processes can share: give --database postgresql://user@host/name "
            "(PERDURE_DATABASE_URL). On SQLite, `perdure serve` drives its runs itself."
        )

    async def main() -> None:
        server = build(settings)
        await server.start()
        event_loop.spare_collections()
        over = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            with contextlib.suppress(NotImplementedError):
                loop.add_signal_handler(number, over.set)
        if on_ready is not None:
            on_ready(server)
        try:
            await over.wait()
        finally:
            await server.stop()

    event_loop.run(main())


def _listen(settings: Settings) -> socket.socket:
    """The server's socket, before anything is opened or started for it."""
    try:
        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        listener = socket.create_server((settings.host, settings.port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        raise SettingsError(
            f"Cannot listen on {settings.host}:{settings.port}: {error}. Choose another --port (PERDURE_PORT) or --host."
        ) from error
    listener.setblocking(False)
    return listener
