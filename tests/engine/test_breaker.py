"""The circuit breaker: closed, open, half-open; one probe at a time; two log lines an outage. Tests move the clock."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from types import SimpleNamespace

import anyio
import pytest
from structlog.testing import capture_logs

from consumer.engine import breaker as module
from consumer.engine.breaker import Breaker, backoff_s
from consumer.errors import CloudError, ConsumerError, Fault, StoreError

REFUSED = CloudError(Fault.NETWORK, operation="x", target="q", code="c", detail="refused")
WRONG_KEYS = CloudError(Fault.CREDENTIALS, operation="x", target="q", code="c", detail="wrong keys")


class Clock:
    """A monotonic clock that the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    moved = Clock()
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=moved.monotonic))
    return moved


def events(lines: Sequence[Mapping[str, object]]) -> list[object]:
    return [line["event"] for line in lines]


def test_pauses_double_up_to_four_seconds() -> None:
    """The first pause is at most 0.5 s, later ones at most 4 s, and never less than half of that."""
    assert 0.25 <= backoff_s(1) <= 0.5
    assert all(2 <= backoff_s(faults) <= 4 for faults in range(4, 50))


def test_a_fault_that_a_person_must_fix_is_retried_slowly(clock: Clock) -> None:
    """A fault that a person must fix is retried every 5 s for two minutes, then every 60 s."""
    breaker = Breaker("opened", "closed")
    assert breaker.failed(WRONG_KEYS) == 5
    clock.now += 119
    assert breaker.failed(WRONG_KEYS) == 5
    clock.now += 2
    assert breaker.failed(WRONG_KEYS) == 60
    assert breaker.failed(StoreError("disk full")) <= 4


def test_where_leases_end_every_fault_is_retried_fast(clock: Clock) -> None:
    """With ``always_fast`` wrong keys are retried within 4 s, like any fault."""
    assert Breaker("opened", "closed", always_fast=True).failed(WRONG_KEYS) <= 4


def test_an_outage_is_two_lines(clock: Clock) -> None:
    """The first fault logs the start, the first success the end with the length; nothing is logged in between."""
    breaker = Breaker("opened", "closed", queue="films")
    with capture_logs() as lines:
        for _ in range(10):
            breaker.failed(REFUSED)
            clock.now += 1
        breaker.succeeded()
        breaker.succeeded()
    assert events(lines) == ["opened", "closed"]
    assert lines[0]["queue"] == "films"
    assert "refused" in lines[0]["error"]
    assert (lines[1]["outage_seconds"], lines[1]["faults"]) == (10.0, 10)


def test_a_fault_of_another_kind_is_one_more_line(clock: Clock) -> None:
    """Wrong keys after a refused connection are logged; the same fault again is not."""
    breaker = Breaker("opened", "closed")
    with capture_logs() as lines:
        for error in (REFUSED, WRONG_KEYS, WRONG_KEYS):
            breaker.failed(error)
    assert events(lines) == ["opened", "opened"]


def test_a_single_fault_is_not_logged_with_log_after_two(clock: Clock) -> None:
    """With ``log_after=2`` one fault before a success logs nothing, unless it is urgent."""
    breaker = Breaker("opened", "closed", log_after=2)
    with capture_logs() as lines:
        breaker.failed(REFUSED)
        breaker.succeeded()
        breaker.failed(REFUSED)
        breaker.succeeded()
    assert lines == []
    with capture_logs() as lines:
        breaker.failed(REFUSED, urgent=True)
        breaker.succeeded()
    assert events(lines) == ["opened", "closed"]


def test_two_calls_that_fail_together_are_one_fault_for_the_log(clock: Clock) -> None:
    """With ``log_after=2`` calls that fail together are still a single fault."""
    breaker = Breaker("opened", "closed", log_after=2)
    asked_at = clock.now
    clock.now += 1
    with capture_logs() as lines:
        breaker.failed(REFUSED, asked_at)
        breaker.failed(REFUSED, asked_at)
        breaker.succeeded()
    assert lines == []


def test_single_faults_among_successes_are_one_outage(clock: Clock) -> None:
    """With ``quiet_s`` the end is logged only after that time without a fault; calls go through meanwhile."""
    breaker = Breaker("opened", "closed", quiet_s=5)
    with capture_logs() as lines:
        for _ in range(3):
            breaker.failed(REFUSED)
            clock.now += 1
            breaker.succeeded()
            assert breaker.is_closed
            assert breaker.is_logged
        clock.now += 5
        breaker.succeeded()
    assert events(lines) == ["opened", "closed"]
    # From the first fault to the first success after the last one.
    assert lines[1]["outage_seconds"] == 3.0


def test_a_wider_outage_suppresses_the_line(clock: Clock) -> None:
    """While a wider outage is logged this one is not; once that is over, the next fault is."""
    is_wider = True
    breaker = Breaker("opened", "closed", suppress_log=lambda: is_wider)
    with capture_logs() as lines:
        breaker.failed(REFUSED)
        assert lines == []
        is_wider = False
        breaker.failed(REFUSED)
    assert events(lines) == ["opened"]


def test_one_probe_at_a_time(clock: Clock) -> None:
    """Open, a call may go after the pause; half-open, no other may; an answer that never comes frees the turn."""
    breaker = Breaker("opened", "closed")
    assert breaker.try_probe()
    pause_s = breaker.failed(REFUSED)
    assert not breaker.try_probe()
    clock.now += pause_s
    assert breaker.try_probe()
    assert not breaker.try_probe()
    clock.now += 4
    assert breaker.try_probe()
    breaker.succeeded()
    assert breaker.is_closed
    assert breaker.wait_s() == 0


def test_calls_that_fail_together_are_one_fault(clock: Clock) -> None:
    """Thirty calls under way at once that fail lengthen the pause once."""
    breaker = Breaker("opened", "closed")
    asked_at = clock.now
    clock.now += 1
    pauses = [breaker.failed(REFUSED, asked_at) for _ in range(30)]
    assert max(pauses) <= 0.5


def test_a_suspicion_is_no_fault() -> None:
    """A breaker that is open until a probe names no fault; one that has seen a call fail does, until it closes."""
    breaker = Breaker("opened", "closed")
    breaker.open_until_probed()
    faults = [breaker.fault]
    assert not breaker.is_closed
    breaker.failed(REFUSED)
    faults.append(breaker.fault)
    breaker.succeeded()
    assert [*faults, breaker.fault] == [None, REFUSED, None]


class Service:
    """Fails as long as it is down."""

    def __init__(self, *, is_up: bool) -> None:
        self.is_up = is_up
        self.probes = self.at_once = self.most_at_once = 0

    async def probe(self) -> None:
        self.probes += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await anyio.sleep(0.001)
        finally:
            self.at_once -= 1
        if not self.is_up:
            raise StoreError("down")


async def test_a_call_that_fails_alone_is_no_outage() -> None:
    """A failed call probes the service: if that answers the breaker stays closed and logs nothing."""
    service = Service(is_up=True)
    breaker = Breaker("opened", "closed", probe=service.probe)
    with capture_logs() as lines:
        assert await breaker.confirm(REFUSED, time.monotonic())
        states = [breaker.is_closed]
        service.is_up = False
        assert not await breaker.confirm(REFUSED, time.monotonic())
        states.append(breaker.is_closed)
        assert not await breaker.confirm(REFUSED, time.monotonic())
    assert states == [True, False]
    assert service.probes == 2
    # The call's own error says more than the probe's.
    assert "refused" in lines[0]["error"]


async def test_a_success_since_the_call_began_answers_for_the_probe() -> None:
    """If another call has succeeded since, the service works and is not probed."""
    service = Service(is_up=False)
    breaker = Breaker("opened", "closed", probe=service.probe)
    asked_at = time.monotonic()
    await anyio.sleep(0.001)
    breaker.succeeded()
    assert await breaker.confirm(REFUSED, asked_at)
    assert service.probes == 0


async def test_a_call_that_overlapped_an_outage_failed_with_it() -> None:
    """A call that began before an outage counts as failed by it, also after the outage."""
    service = Service(is_up=False)
    breaker = Breaker("opened", "closed", probe=service.probe)
    asked_at = time.monotonic()
    assert not await breaker.confirm(REFUSED, time.monotonic())
    service.is_up = True
    await breaker.wait_closed()
    assert not await breaker.confirm(REFUSED, asked_at)
    assert await breaker.confirm(REFUSED, time.monotonic())


async def test_all_waiters_continue_when_one_probe_succeeds() -> None:
    """While it is open the waiters probe one at a time, and all continue after the first success."""
    service = Service(is_up=False)
    breaker = Breaker("opened", "closed", probe=service.probe)
    breaker.failed(StoreError("down"))
    with anyio.fail_after(5):
        async with anyio.create_task_group() as waiters:
            for _ in range(20):
                waiters.start_soon(breaker.wait_closed)
            await anyio.sleep(0.6)
            service.is_up = True
    assert breaker.is_closed
    assert service.most_at_once == 1
    assert service.probes <= 4


async def test_a_success_from_elsewhere_ends_the_waiting_at_once() -> None:
    """A success of another call ends a waiter's pause."""
    breaker = Breaker("opened", "closed", probe=Service(is_up=False).probe)
    for _ in range(10):
        breaker.failed(ConsumerError("down"))
    with anyio.fail_after(1):
        async with anyio.create_task_group() as waiters:
            waiters.start_soon(breaker.wait_closed)
            await anyio.sleep(0.05)
            breaker.succeeded()
