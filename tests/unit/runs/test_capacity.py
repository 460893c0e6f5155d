"""How many runs a process drives at once, and what becomes of the rest."""

import pytest

from perdure.core.errors import Unavailable
from perdure.runs.capacity import Capacity


def test_a_run_that_waits_for_another_takes_no_place() -> None:
    jobs: set[str] = {"parent", "other"}
    capacity = Capacity(jobs, most=2)
    assert capacity.full
    with capacity.aside("parent"), capacity.aside("parent"):
        assert capacity.room == 1
        jobs.add("child")
        assert capacity.full
    assert capacity.room == 0


def test_a_process_without_a_limit_always_has_room_and_one_that_only_accepts_never() -> None:
    assert not Capacity({"a": 1}, most=None).full
    assert Capacity({}, most=0).full


def test_too_large_a_backlog_is_refused_until_it_is_smaller() -> None:
    capacity = Capacity({}, most=1, max_backlog=3)
    capacity.counted(2)
    capacity.check()
    capacity.queued()
    with pytest.raises(Unavailable, match="PERDURE_MAX_BACKLOG") as refused:
        capacity.check()
    assert refused.value.retry_after_s >= 1
    capacity.counted(2)
    capacity.check()
