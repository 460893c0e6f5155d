import sys
import zoneinfo
from collections.abc import Iterator
from datetime import UTC

import pytest

from perdure.core import timezones
from perdure.core.timezones import UnknownTimeZone, time_zone


@pytest.fixture
def no_database(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As on a machine with neither /usr/share/zoneinfo nor the package tzdata."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "tzdata"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tzdata", None)
    zoneinfo.reset_tzpath(to=())
    zoneinfo.ZoneInfo.clear_cache()
    timezones._any_known.cache_clear()
    yield
    zoneinfo.reset_tzpath()
    timezones._any_known.cache_clear()


def test_a_zone_is_known_by_its_name() -> None:
    assert str(time_zone("Europe/Paris")) == "Europe/Paris"


@pytest.mark.parametrize("name", ["Mars/Olympus", "", "Europe", "../../etc/passwd", "Europe/Paris\0"])
def test_an_unknown_one_is_refused_by_the_name_of_its_field(name: str) -> None:
    with pytest.raises(UnknownTimeZone, match=r"timezone: .* is not an IANA time zone") as refused:
        time_zone(name)
    assert refused.value.status == 422


def test_without_a_database_utc_is_known_and_the_others_say_what_is_missing(no_database: None) -> None:
    assert time_zone("UTC") is UTC
    with pytest.raises(UnknownTimeZone, match=r"timezone: 'Europe/Paris' cannot be looked up.*pip install tzdata"):
        time_zone("Europe/Paris")
