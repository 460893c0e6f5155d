"""`perdure serve` as it starts: what cannot work is said in one line, and nothing is left behind."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest


def serve(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "perdure", "serve", *arguments],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def refused(result: subprocess.CompletedProcess[str]) -> str:
    assert result.returncode == 1
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    return result.stderr


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        said = refused(serve("--port", port, "--data-dir", str(tmp_path / "data")))
    assert port in said
    assert "--port" in said
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("name", "value"),
    [("PERDURE_PORT", "abc"), ("PERDURE_TOOL_TIMEOUT", "soon"), ("PERDURE_ALLOW_PRIVATE_URLS", "perhaps")],
)
def test_a_wrong_variable_is_named(tmp_path: Path, name: str, value: str) -> None:
    assert name in refused(serve("--data-dir", str(tmp_path), **{name: value}))


def test_a_database_it_cannot_use_is_named(tmp_path: Path) -> None:
    junk = tmp_path / "junk.db"
    junk.write_text("this is no database, whatever its name says " * 50)
    assert str(junk) in refused(serve("--port", "0", "--data-dir", str(tmp_path), "--database", str(junk)))
    assert "mysql" in refused(serve("--port", "0", "--database", "mysql://localhost/x"))
    assert "PostgreSQL cannot be opened" in refused(
        serve("--port", "0", "--data-dir", str(tmp_path), "--database", "postgresql://127.0.0.1:1/x")
    )
    (tmp_path / "file").write_text("")
    below = str(tmp_path / "file" / "perdure.db")
    assert "--database" in refused(serve("--port", "0", "--database", below))
