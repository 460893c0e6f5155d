import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from perdure.cli.serve import Banner, isolation_note, password_note, url_host
from perdure.config import load_settings


def settings(env: dict[str, str], **overrides: Any) -> Any:
    return load_settings(env, **overrides)


def test_an_open_server_on_the_network_is_warned_of() -> None:
    assert "anybody on this machine" in password_note(settings({}), {})[0]
    text, style = password_note(settings({}, host="0.0.0.0"), {})
    assert "PERDURE_PASSWORD" in text and style == "red"


def test_only_a_password_nobody_knows_is_shown() -> None:
    env = {"PERDURE_PASSWORD": "hush"}
    assert "hush" not in password_note(settings(env), env)[0]
    made_up = settings({"LETTA_SERVER_SECURE": "true"})
    assert made_up.password and made_up.password in password_note(made_up, {})[0]


@pytest.mark.parametrize(("host", "shown"), [("0.0.0.0", "127.0.0.1"), ("::1", "[::1]"), ("box", "box")])
def test_hosts_are_shown_as_one_can_open_them(host: str, shown: str) -> None:
    assert url_host(host) == shown


def test_weak_isolation_is_said_in_the_sandboxes_own_words() -> None:
    assert isolation_note("strict", None) == ("in a sandbox (strict isolation)", "")
    assert isolation_note("process", "no namespaces here") == ("no namespaces here", "yellow")


async def test_the_banner_names_address_models_and_what_is_wrong(capsys: Any, tmp_path: Any) -> None:
    class Registry:
        def __init__(self) -> None:
            self.errors = {"openai": RuntimeError("401: wrong key")}

        async def list_models(self) -> list[Any]:
            await asyncio.sleep(0)
            return [SimpleNamespace(handle=f"x/{n}", kind="llm") for n in range(8)]

    services = SimpleNamespace(sandbox=SimpleNamespace(isolation="strict", warning=None), registry=Registry())
    banner = Banner(settings({}, port=1234, data_dir=tmp_path), {})
    banner(SimpleNamespace(services=services))  # type: ignore[arg-type]
    assert banner._task is not None
    await banner._task
    err = capsys.readouterr().err
    assert "http://127.0.0.1:1234" in err and str(tmp_path / "perdure.db") in err
    assert "x/0, x/1, x/2, x/3, x/4, x/5 and 2 more" in err
    assert "openai: 401: wrong key" in err
