"""Cancellation as handlers expect it: once, with time to clean up, and never for ever."""

from __future__ import annotations

import asyncio

import anyio

from consumer.plugin.handler import Limits, Note, build
from consumer.plugin.job import Job
from consumer.plugin.registry import Registry
from consumer.sandbox import Sandbox
from tests.engine.rig import QUEUE, Serve, body


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
