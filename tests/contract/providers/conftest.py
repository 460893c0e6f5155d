"""A client without waits between attempts, and a loopback server to ask."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from perdure.providers.http import Http
from tests.doubles.wire import Wire


@pytest.fixture
async def http() -> AsyncIterator[Http]:
    async def at_once(_: float) -> None:
        await asyncio.sleep(0)

    made = Http(sleep=at_once)
    yield made
    await made.close()


@pytest.fixture
async def wire() -> AsyncIterator[Wire]:
    made = Wire()
    await made.start()
    yield made
    await made.stop()
