from pathlib import Path

import pytest

from perdure.config import SettingsError, default_data_dir, load_settings

HOME = {"HOME": "/home/ada"}


@pytest.mark.parametrize(
    ("env", "platform", "expected"),
    [
        (HOME, "linux", "/home/ada/.local/share/perdure"),
        (HOME | {"XDG_DATA_HOME": "/data"}, "linux", "/data/perdure"),
        (HOME | {"XDG_DATA_HOME": ""}, "linux", "/home/ada/.local/share/perdure"),
        (HOME | {"XDG_DATA_HOME": "data"}, "linux", "/home/ada/.local/share/perdure"),
        (HOME | {"XDG_DATA_HOME": "~/data"}, "linux", "/home/ada/.local/share/perdure"),
        (HOME, "darwin", "/home/ada/Library/Application Support/perdure"),
        (HOME | {"XDG_DATA_HOME": "/data"}, "darwin", "/data/perdure"),
        ({"LOCALAPPDATA": "C:/Users/Ada/AppData/Local"}, "win32", "C:/Users/Ada/AppData/Local/perdure"),
    ],
)
def test_data_is_kept_where_the_platform_wants_it(env: dict[str, str], platform: str, expected: str) -> None:
    assert default_data_dir(env, platform) == Path(expected)


def test_without_a_variable_it_is_in_the_home_that_the_system_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "home", lambda: Path("/users/ada"))
    assert default_data_dir({}, "win32") == Path("/users/ada/AppData/Local/perdure")
    monkeypatch.setattr("pwd.getpwuid", lambda uid: type("Entry", (), {"pw_dir": "/home/ada"}))
    for env in ({}, {"HOME": ""}, {"HOME": "ada"}):
        assert default_data_dir(env, "linux") == Path("/home/ada/.local/share/perdure")


def test_a_user_without_a_home_needs_only_a_data_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.setattr("pwd.getpwuid", unknown)
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.delenv("HOME", raising=False)
    with pytest.raises(SettingsError, match="PERDURE_DATA_DIR"):
        load_settings({})
    assert load_settings({"PERDURE_DATA_DIR": "/data"}).data_dir == Path("/data")
