"""Sandboxes of every kind that this machine can do: the same suite for strict and for process isolation."""

import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from perdure.tools.sandbox import Sandbox, SandboxResult
from perdure.tools.sandbox.isolation import find_bwrap


def machine_has_namespaces() -> bool:
    """Asked of bubblewrap itself, so that a sandbox that fails to start is a failure and not a skipped test."""
    bwrap = find_bwrap()
    if bwrap is None:
        return False
    command = [bwrap, "--unshare-all", "--ro-bind", "/", "/", "--proc", "/proc", "true"]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


needs_namespaces = pytest.mark.skipif(not machine_has_namespaces(), reason="bubblewrap cannot make namespaces here")


@asynccontextmanager
async def started(**options: Any) -> AsyncIterator[Sandbox]:
    made = Sandbox(**{"timeout_s": 20, "memory_mb": 256, "workers": 4, **options})
    await made.start()
    try:
        yield made
    finally:
        await made.close()


@pytest.fixture(params=[pytest.param("strict", marks=needs_namespaces), "process"])
async def sandbox(request: pytest.FixtureRequest) -> AsyncIterator[Sandbox]:
    async with started(mode=request.param) as made:
        yield made


@pytest.fixture(params=[pytest.param("strict", marks=needs_namespaces)])
async def strict(request: pytest.FixtureRequest) -> AsyncIterator[Sandbox]:
    async with started(mode=request.param) as made:
        yield made


async def run_tool(sandbox: Sandbox, body: str, *, before: str = "", **options: Any) -> SandboxResult:
    """Run the body of a function `tool()`."""
    indented = "\n".join(f"    {line}" for line in body.strip("\n").splitlines())
    source = f"{before}\ndef tool():\n{indented}\n"
    return await sandbox.run(source=source, function="tool", args={}, env=options.pop("env", {}), **options)


async def assert_still_works(sandbox: Sandbox) -> None:
    result = await run_tool(sandbox, "return 'still here'")
    assert (result.status, result.value) == ("success", "still here"), result
