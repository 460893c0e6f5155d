"""Real engines for tests. SGLang is started by scripts/engines/test_sglang.sh, which names it in PERDURE_TEST_SGLANG."""

import os
from collections.abc import AsyncIterator

import pytest

from perdure.providers.http import Http


@pytest.fixture
async def http() -> AsyncIterator[Http]:
    made = Http()
    yield made
    await made.close()


@pytest.fixture(scope="session")
def sglang_url() -> str:
    url = os.environ.get("PERDURE_TEST_SGLANG")
    if not url:
        pytest.skip("no SGLang server: scripts/engines/test_sglang.sh installs one, starts it and runs these tests")
    return url
