"""Rules of progress: what counts as alive, what as ready, and that a pause excuses silence only while it lasts."""

from __future__ import annotations

import time
from importlib.metadata import version as installed_version

import pytest

import consumer.version
from consumer.progress import LaneProgress, Wait
from consumer.version import version

LIMIT_S = 10.0


@pytest.fixture
def lane() -> LaneProgress:
    """A lane that has just begun."""
    return LaneProgress(queue="q", poll_limit_s=LIMIT_S)


def test_the_first_poll_has_its_time(lane: LaneProgress) -> None:
    """A lane is alive from its beginning until its first poll is overdue."""
    assert lane.alive(lane.began_at + LIMIT_S - 0.1)
    assert not lane.alive(lane.began_at + LIMIT_S)


@pytest.mark.parametrize("fault", [None, "MNS is down"])
def test_a_poll_that_ends_is_progress(lane: LaneProgress, fault: str | None) -> None:
    """A poll that has ended, even in error, keeps the lane alive until the next is overdue."""
    lane.began_at -= 100
    assert not lane.alive(time.monotonic())
    lane.polled(fault=fault)
    assert lane.alive(lane.polled_at + LIMIT_S - 0.1)
    assert not lane.alive(lane.polled_at + LIMIT_S)


def test_ready_is_the_last_poll(lane: LaneProgress) -> None:
    """A lane is ready once a poll has succeeded and as long as none has failed since."""
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


@pytest.mark.parametrize("why", list(Wait))
def test_a_declared_wait_is_alive_while_it_lasts(lane: LaneProgress, why: Wait) -> None:
    """A declared pause excuses silence until its end, and the poll after it has its own time."""
    lane.began_at -= 1000
    lane.wait(why, 60)
    assert lane.waiting is why
    assert lane.alive(lane.waiting_until - 0.1)
    assert lane.alive(lane.waiting_until + LIMIT_S - 0.1)
    assert not lane.alive(lane.waiting_until + LIMIT_S)


@pytest.mark.parametrize("ended_by", ["resume", "polled"])
def test_a_wait_that_ended_early_excuses_nothing_more(lane: LaneProgress, ended_by: str) -> None:
    """Once polling goes on before a pause's declared end, a hang shows as soon as after any poll."""
    lane.wait(Wait.OUTAGE, 3600)
    getattr(lane, ended_by)()
    now = time.monotonic()
    assert lane.waiting is None
    assert lane.alive(now)
    assert not lane.alive(now + LIMIT_S)


def test_the_version_is_the_installed_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The version is the distribution's, and one that was never installed says so."""
    known = installed_version("pytest")
    monkeypatch.setattr(consumer.version, "installed_version", lambda _: installed_version("pytest"))
    assert version() == known
    monkeypatch.setattr(consumer.version, "installed_version", lambda _: installed_version("never-installed-dist"))
    assert version() == "0+unknown"
