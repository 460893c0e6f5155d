"""Each test has a fake server of its own, and an environment that names no other."""

from collections.abc import Iterator

import pytest

from tests.unit.cli.fake_server import FakeServer


@pytest.fixture
def server() -> Iterator[FakeServer]:
    fake = FakeServer()
    fake.start()
    yield fake
    fake.stop()


@pytest.fixture(autouse=True)
def no_servers_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PERDURE_BASE_URL", "LETTA_BASE_URL", "PERDURE_PASSWORD", "LETTA_API_KEY", "PERDURE_MODEL"):
        monkeypatch.delenv(name, raising=False)
