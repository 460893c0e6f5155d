"""Many rollouts at once, the server killed in the middle: nothing that was on disk is lost, nothing trains that is not whole."""

import pytest

from perdure.bench.rollouts import CALLS, Load, Result, measure


def whole(result: Result) -> None:
    """What `measure` raises for is not there: every attempt ended, verified, with each of its calls once."""
    assert result.ended_at_kill is not None and result.calls_at_kill is not None
    assert 0 < result.ended_at_kill < result.rollouts
    assert result.ended_at_kill * CALLS <= result.calls_at_kill <= result.rollouts * CALLS


def test_rollouts_outlive_a_kill_in_the_middle_of_them() -> None:
    result = measure(Load(rollouts=60, concurrency=12, group_size=6, delay_ms=100, kill=True))
    whole(result)
    assert result.most_at_once == 12


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_thousand_at_once_outlive_a_kill_in_bounded_memory() -> None:
    result = measure(Load(rollouts=1000, concurrency=1000, kill=True))
    whole(result)
    assert result.most_at_once > 900
    assert result.peak_mb - result.idle_mb < 400
