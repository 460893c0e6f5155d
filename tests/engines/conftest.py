"""Real engines for tests. scripts/engines/test_<engine>.sh starts one and names it in PERDURE_TEST_<ENGINE>."""

import os
from collections.abc import AsyncIterator

import pytest

from perdure.providers.http import Http


@pytest.fixture
async def http() -> AsyncIterator[Http]:
    made = Http()
    yield made
    await made.close()


def _url(engine: str) -> str:
    url = os.environ.get(f"PERDURE_TEST_{engine.upper()}")
    if not url:
        script = engine.partition("_")[0]
        pytest.skip(
            f"no {engine} server: scripts/engines/test_{script}.sh installs one, starts it and runs these tests"
        )
    return url


@pytest.fixture(scope="session")
def sglang_url() -> str:
    return _url("sglang")


@pytest.fixture(scope="session")
def sglang_moe_url() -> str:
    """One whose model is a mixture of experts, and that tells them."""
    return _url("sglang_moe")


@pytest.fixture(scope="session")
def vllm_url() -> str:
    return _url("vllm")
