"""Progress of polls: when a queue is alive, when it is ready, and how long a declared pause counts."""

from __future__ import annotations

import time

import pytest

from consumer.engine.vitals import LaneProgress, Pause

LIMIT_S = 10.0


@pytest.fixture
def lane() -> LaneProgress:
    """A lane that has just started."""
    return LaneProgress(poll_limit_s=LIMIT_S)


def test_a_queue_is_alive_until_its_first_poll_is_overdue(lane: LaneProgress) -> None:
    """A lane is alive from its start until its first poll is overdue."""
    assert lane.alive(lane.began_at + LIMIT_S - 0.1)
    assert not lane.alive(lane.began_at + LIMIT_S)


@pytest.mark.parametrize("fault", [None, "MNS is down"])
def test_a_poll_that_has_ended_is_progress(lane: LaneProgress, fault: str | None) -> None:
    """A poll that has ended, even in error, keeps the lane alive until the next one is overdue."""
    lane.began_at -= 100
    assert not lane.alive(time.monotonic())
    lane.polled(fault=fault)
    assert lane.alive(lane.polled_at + LIMIT_S - 0.1)
    assert not lane.alive(lane.polled_at + LIMIT_S)


def test_the_last_poll_decides_readiness(lane: LaneProgress) -> None:
    """A lane is ready after a poll has succeeded, until one fails."""
    assert not lane.ready()
    lane.polled()
    succeeded_at = lane.succeeded_at
    assert lane.ready()
    lane.polled(fault="MNS is down")
    assert not lane.ready()
    assert lane.fault == "MNS is down"
    assert lane.succeeded_at == succeeded_at
    lane.polled()
    assert lane.ready()
    assert lane.fault is None


@pytest.mark.parametrize("why", list(Pause))
def test_a_declared_pause_counts_while_it_lasts(lane: LaneProgress, why: Pause) -> None:
    """No poll is due before a declared pause ends; the next poll then has its full time."""
    lane.began_at -= 1000
    lane.wait(why, 60)
    assert lane.waiting is why
    assert lane.alive(lane.waiting_until - 0.1)
    assert lane.alive(lane.waiting_until + LIMIT_S - 0.1)
    assert not lane.alive(lane.waiting_until + LIMIT_S)


@pytest.mark.parametrize("ended_by", ["resume", "polled"])
def test_a_pause_that_ends_early_counts_no_more(lane: LaneProgress, ended_by: str) -> None:
    """After a pause that ends early a hang shows as soon as after any poll."""
    lane.wait(Pause.OUTAGE, 3600)
    getattr(lane, ended_by)()
    now = time.monotonic()
    assert lane.waiting is None
    assert lane.alive(now)
    assert not lane.alive(now + LIMIT_S)
