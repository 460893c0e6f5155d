"""A store with the built-in tools in it, and a registry with two models."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from perdure.agents.builtin_tools import ensure_builtin_tools
from perdure.agents.create import create_agent
from perdure.agents.spec import AgentSpec
from perdure.store.agents import AgentView
from perdure.store.sqlite import SqliteStore
from tests.doubles.fixed_registry import FixedRegistry, info


@pytest.fixture
def registry() -> FixedRegistry:
    return FixedRegistry(info("openai/small", 4096), info("openai/large", 100_000))


@pytest.fixture
async def ready(store: SqliteStore) -> AsyncIterator[SqliteStore]:
    await ensure_builtin_tools(store)
    yield store


@pytest.fixture
def make(ready: SqliteStore, registry: FixedRegistry) -> Any:
    async def make_agent(**fields: Any) -> AgentView:
        return await create_agent(ready, registry, AgentSpec(**{"model": "openai/small", **fields}))

    return make_agent
