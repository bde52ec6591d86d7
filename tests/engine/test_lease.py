"""Leases on a real queue: kept from receipt to settle, handed over, told apart when lost."""

from __future__ import annotations

import time

import anyio
import pytest

from consumer.plugin.handler import Limits, Note, build
from consumer.plugin.job import Job, Retry
from consumer.plugin.registry import Registry
from consumer.sandbox import Fault, Sandbox
from tests.engine.rig import Daemon, Serve, body

SHORT = "short"


@pytest.fixture
def short(sandbox: Sandbox) -> str:
    """A queue whose messages come back after 3 s; its NotifyUrl."""
    sandbox.account.create(SHORT, {"VisibilityTimeout": "3"})
    return sandbox.notify_url(SHORT)


class Runs:
    """A handler that sleeps, and how often it ran and was cut short."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.begun = 0
        self.ended = 0
        self.cut = 0

    async def once(self) -> None:
        """Run."""
        self.begun += 1
        try:
            await anyio.sleep(self.seconds)
            self.ended += 1
        except anyio.get_cancelled_exc_class():
            self.cut += 1
            raise


def registry(runs: Runs, **limits: int) -> Registry:
    async def cover(job: Job) -> None:
        await runs.once()

    return Registry({"Cover": build(cover, Note("Cover", Limits(**limits)))})


async def empty(daemon: Daemon, within_s: float = 12) -> None:
    await daemon.until(lambda: not daemon.sandbox.messages(SHORT), within_s)


async def test_a_handler_longer_than_the_visibility_runs_once(sandbox: Sandbox, serve: Serve, short: str) -> None:
    """A handler that takes longer than the queue's visibility timeout keeps its message and runs once."""
    runs = Runs(5)
    sandbox.put(SHORT, body().decode())
    async with serve(registry(runs), notify_url=short, lease_step_s=10) as daemon:
        await empty(daemon)
        assert daemon.count("lease_renewals_total", queue=SHORT, result="renewed") >= 1
    assert (runs.begun, runs.ended) == (1, 1)


async def test_a_message_that_waits_for_a_busy_handler_is_kept(sandbox: Sandbox, serve: Serve, short: str) -> None:
    """Messages that wait longer than the visibility timeout for a busy handler's turn run once each."""
    runs = Runs(1.6)
    for number in range(3):
        sandbox.put(SHORT, body(f"{number:032x}").decode())
    async with serve(registry(runs, concurrency=1), notify_url=short, lease_step_s=10) as daemon:
        await empty(daemon)
    assert (runs.begun, runs.ended) == (3, 3)


async def test_a_renewal_whose_answer_got_lost_is_tried_again(sandbox: Sandbox, serve: Serve, short: str) -> None:
    """A renewal that had its effect but no answer costs no second run: the message is taken back when it returns."""
    runs = Runs(4)
    sandbox.put(SHORT, body().decode())
    sandbox.faults.add(Fault(kind="drop_after", operations=("hide",), count=1))
    async with serve(registry(runs), notify_url=short, lease_step_s=10) as daemon:
        await empty(daemon, 15)
    assert (runs.begun, runs.ended, runs.cut) == (1, 1, 0)


async def test_renewals_that_fail_for_a_while_lose_nothing(sandbox: Sandbox, serve: Serve, short: str) -> None:
    """Renewals answered by 503 are tried until one succeeds."""
    runs = Runs(3)
    sandbox.put(SHORT, body().decode())
    sandbox.faults.add(Fault(kind="error", status=503, operations=("hide",), count=2))
    async with serve(registry(runs), notify_url=short, lease_step_s=10) as daemon:
        await empty(daemon)
        assert daemon.count("lease_renewals_total", queue=SHORT, result="failed") == 2
    assert (runs.begun, runs.ended) == (1, 1)


@pytest.mark.timeout(40)
async def test_a_lease_known_lost_cancels_and_the_redelivery_runs(sandbox: Sandbox, serve: Serve) -> None:
    """A receipt that is refused though it should be good cuts the run short, deletes nothing, and it runs again."""
    sandbox.account.create("middling", {"VisibilityTimeout": "6"})
    runs = Runs(3.5)
    sandbox.put("middling", body().decode())
    sandbox.faults.add(Fault(kind="error", status=404, code="MessageNotExist", operations=("hide",), count=1))
    async with serve(registry(runs), notify_url=sandbox.notify_url("middling"), lease_step_s=10) as daemon:
        await daemon.until(lambda: not sandbox.messages("middling"), 18)
        assert daemon.count("jobs_total", queue="middling", function="Cover", outcome="lease_lost") == 1
        assert daemon.count("jobs_total", queue="middling", function="Cover", outcome="done") == 1
    assert (runs.begun, runs.cut, runs.ended) == (2, 1, 1)


@pytest.mark.timeout(40)
@pytest.mark.parametrize("fails", [False, True], ids=["it ends well", "it raises"])
async def test_a_plain_function_keeps_its_claim_when_its_lease_is_lost(
    sandbox: Sandbox, serve: Serve, *, fails: bool
) -> None:
    """A thread can't be cut short: its job stays claimed until it ends, and its message is taken back with it."""
    sandbox.account.create("middling", {"VisibilityTimeout": "4"})
    begun: list[int] = []
    at_once = most_at_once = 0

    def cover(job: Job) -> None:
        nonlocal at_once, most_at_once
        begun.append(job.attempt)
        at_once += 1
        most_at_once = max(most_at_once, at_once)
        time.sleep(7 if len(begun) == 1 else 0.1)
        at_once -= 1
        if fails and len(begun) == 1:
            raise Retry("as told", after_s=1)

    sandbox.put("middling", body().decode())
    sandbox.faults.add(Fault(kind="error", status=404, code="MessageNotExist", operations=("hide",), count=1))
    plain = Registry({"Cover": build(cover, Note("Cover", Limits()))})
    async with serve(plain, notify_url=sandbox.notify_url("middling"), lease_step_s=10) as daemon:
        await daemon.until(lambda: daemon.count("lease_renewals_total", queue="middling", result="lost") == 1)
        await daemon.until(lambda: not sandbox.messages("middling"), 25)
        assert daemon.count("jobs_total", queue="middling", function="Cover", outcome="lease_lost") == 0
        assert daemon.count("jobs_total", queue="middling", function="Cover", outcome="done") == 1
    assert begun == ([1, 2] if fails else [1])
    assert most_at_once == 1


@pytest.mark.timeout(40)
async def test_nothing_waits_longer_than_it_may_be_held(sandbox: Sandbox, serve: Serve, short: str) -> None:
    """A message that waits for its turn as long as a message may be held is given back, without a failure."""
    runs = Runs(6)
    async with serve(registry(runs, concurrency=1), notify_url=short) as daemon:
        # Shorter than the settings allow, for the test's sake.
        leases = daemon.app.lanes[0].leases
        leases.policy = leases.policy.model_copy(update={"lease_step_s": 2, "max_hold_s": 3})
        for number in range(2):
            sandbox.put(SHORT, body(f"{number:032x}").decode())
        await daemon.until(
            lambda: daemon.count("jobs_total", queue=SHORT, function="Cover", outcome="released") == 1, 5
        )
        assert runs.begun == 1
        await empty(daemon, 25)
        assert daemon.count("retries_total", queue=SHORT, function="Cover", cause="failed") == 0
    assert (runs.begun, runs.ended) == (2, 2)


async def test_renewals_ask_one_by_one_while_they_fail(sandbox: Sandbox, serve: Serve) -> None:
    """With renewals answered by 503 many held messages make few calls, and all leases are kept afterwards."""
    sandbox.account.create("middling", {"VisibilityTimeout": "6"})
    runs = Runs(8)
    for number in range(48):
        sandbox.put("middling", body(f"{number:032x}").decode())
    async with serve(registry(runs), notify_url=sandbox.notify_url("middling"), lease_step_s=10) as daemon:
        await daemon.until(lambda: runs.begun == 48)
        sandbox.faults.add(Fault(kind="error", status=503, operations=("hide",)))
        await daemon.until(lambda: daemon.count("lease_renewals_total", queue="middling", result="failed") > 0)
        await anyio.sleep(0.2)
        before = sandbox.log.by_operation["ChangeMessageVisibility"]
        await anyio.sleep(1.5)
        assert sandbox.log.by_operation["ChangeMessageVisibility"] - before <= 4
        sandbox.faults.clear()
        await daemon.until(lambda: not sandbox.messages("middling"), 12)
    assert (runs.begun, runs.ended) == (48, 48)


async def test_a_message_that_comes_back_while_it_runs_is_not_run_again(
    sandbox: Sandbox, serve: Serve, short: str
) -> None:
    """The same message delivered again during its run hands its receipt over and runs no second time."""
    runs = Runs(1)
    sandbox.put(SHORT, body().decode())
    sandbox.faults.add(Fault(kind="duplicate", count=1))
    async with serve(registry(runs), notify_url=short) as daemon:
        await empty(daemon)
        assert daemon.count("messages_received_total", queue=SHORT) >= 2
    assert runs.begun == 1


@pytest.mark.timeout(90)
async def test_full_slots_of_long_handlers_repeat_nothing(sandbox: Sandbox, serve: Serve) -> None:
    """200 messages whose handlers take ten times the visibility timeout, all slots full: each runs once."""
    sandbox.account.create("brief", {"VisibilityTimeout": "3"})
    runs = Runs(30)
    for number in range(200):
        sandbox.put("brief", body(f"{number:032x}").decode())
    async with serve(registry(runs), notify_url=sandbox.notify_url("brief"), lease_step_s=10, slots=200) as daemon:
        await daemon.until(lambda: not sandbox.messages("brief"), 60)
    assert (runs.begun, runs.ended) == (200, 200)
