"""Cancellation as handlers expect it: once, with time to clean up, and never for ever."""

from __future__ import annotations

import asyncio
import contextlib
import time

import anyio
from structlog.testing import capture_logs

from consumer.plugin.handler import Limits, Note, build
from consumer.plugin.job import Job
from consumer.plugin.registry import Registry
from consumer.sandbox import Sandbox
from tests.engine.rig import QUEUE, Serve, body, handlers


class Work:
    """A handler with something to roll back.

    Args:
        rollback_s: How long that takes.
    """

    def __init__(self, rollback_s: float = 0.3) -> None:
        self.rollback_s = rollback_s
        self.begun = anyio.Event()
        self.cancelled = 0
        self.rolled_back = 0

    async def __call__(self) -> None:
        self.begun.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            # Cancelled a second time, this would not come to its end.
            await asyncio.sleep(self.rollback_s)
            self.rolled_back += 1


def registry(work: Work, **limits: float) -> Registry:
    async def cover(job: Job) -> None:
        await work()

    return Registry({"Cover": build(cover, Note("Cover", Limits(**limits)))})  # type: ignore[arg-type]  # by name


async def test_a_time_limit_lets_the_handler_clean_up(sandbox: Sandbox, serve: Serve) -> None:
    """At its time limit a handler is cancelled once, its clean-up completes, and the run counts as one failure."""
    work = Work()
    sandbox.put(QUEUE, body().decode())
    async with serve(registry(work, timeout_s=0.2), retry_base_s=30) as daemon:
        await daemon.until(lambda: daemon.count("retries_total", queue=QUEUE, function="Cover", cause="timed_out") == 1)
    assert (work.cancelled, work.rolled_back) == (1, 1)


async def test_a_stop_lets_the_handler_clean_up(sandbox: Sandbox, serve: Serve) -> None:
    """At a stop a handler is cancelled a grace before the deadline, cleans up, and its message is given back."""
    work = Work()
    sandbox.put(QUEUE, body().decode())
    async with serve(registry(work), stop_deadline_s=4, cancel_grace_s=1) as daemon:
        await work.begun.wait()
        assert 1.5 < await daemon.stop() < 4
        assert daemon.count("jobs_total", queue=QUEUE, function="Cover", outcome="released") == 1
    assert (work.cancelled, work.rolled_back) == (1, 1)
    (left,) = sandbox.messages(QUEUE)
    assert left.visible_ms / 1000 < time.time() + 3


async def test_a_hurried_stop_still_lets_the_handler_clean_up(sandbox: Sandbox, serve: Serve) -> None:
    """Asked twice, the stop cancels at once, whatever poll is under way, and a short clean-up still completes."""
    work = Work(rollback_s=0.1)
    sandbox.put(QUEUE, body().decode())
    async with serve(registry(work)) as daemon:
        await work.begun.wait()
        await anyio.sleep(0.2)
        daemon.app.stop()
        assert await daemon.stop() < 2
    assert (work.cancelled, work.rolled_back) == (1, 1)


async def test_who_ignores_its_cancellation_holds_up_no_stop(sandbox: Sandbox, serve: Serve) -> None:
    """A handler that goes on all the same is logged with its stack, uses no processor, and its message comes back."""
    begun = anyio.Event()

    async def cover(job: Job) -> None:
        until = time.monotonic() + 6
        begun.set()
        while time.monotonic() < until:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(until - time.monotonic())

    sandbox.put(QUEUE, body().decode())
    with capture_logs() as lines:
        async with serve(handlers(Cover=cover), stop_deadline_s=3, cancel_grace_s=0.5) as daemon:
            await begun.wait()
            spent_s = time.process_time()
            assert await daemon.stop() < 3.5
            assert time.process_time() - spent_s < 1
            assert daemon.app.lanes[0].threads.left_behind == 1
    (told,) = [line for line in lines if line["event"] == "a handler still runs though it was cancelled"]
    assert "test_cancellation.py" in told["stack"]
    assert "asyncio.sleep(until" in told["stack"]
    (left,) = sandbox.messages(QUEUE)
    assert left.visible_ms / 1000 < time.time() + 10


async def test_a_lost_lease_keeps_the_claim_until_the_handler_has_cleaned_up(sandbox: Sandbox, serve: Serve) -> None:
    """While a cancelled handler cleans up, another message of its job is not handled; afterwards it is."""
    sandbox.account.create("short", {"VisibilityTimeout": "6"})
    queue = sandbox.account.get("short").queue
    work = Work(rollback_s=1.5)
    runs = 0

    async def cover(job: Job) -> None:
        nonlocal runs
        runs += 1
        if runs == 1:
            await work()

    sandbox.put("short", body().decode())
    async with serve(handlers(Cover=cover), notify_url=sandbox.notify_url("short"), lease_step_s=10) as daemon:
        await work.begun.wait()
        lane = daemon.app.lanes[0]
        (delivery,) = lane.deliveries
        # Somebody else hid the message: our receipt is dead, the next renewal is refused.
        queue.change_visibility(delivery.receipt.handle, 4, sandbox.clock.now_ms())
        await daemon.until(lambda: work.cancelled == 1)
        assert runs == 1
        assert delivery.is_claimed
        await daemon.until(lambda: work.rolled_back == 1)
        await daemon.until(lambda: not sandbox.messages("short"), 20)
    assert runs == 2
