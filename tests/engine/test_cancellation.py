"""A handler is cancelled once and has a bounded time to clean up."""

from __future__ import annotations

import anyio

from consumer.plugin.handler import Job, Limits, Note, build
from consumer.plugin.registry import Registry
from consumer.sandbox import Sandbox
from tests.engine.rig import QUEUE, Rollback, Serve, body


def registry(work: Rollback, **limits: float) -> Registry:
    async def cover(job: Job) -> None:
        await work(job)

    return Registry({"Cover": build(cover, Note("Cover", Limits(**limits)))})  # type: ignore[arg-type]  # by name


async def test_a_time_limit_lets_the_handler_clean_up(sandbox: Sandbox, serve: Serve) -> None:
    """At its time limit a handler is cancelled once, its clean-up completes, and the run counts as one failure."""
    work = Rollback()
    sandbox.put(QUEUE, body().decode())
    async with serve(registry(work, timeout_s=0.2), retry_base_s=30) as daemon:
        await daemon.until(lambda: daemon.count("retries_total", queue=QUEUE, function="Cover", cause="timed_out") == 1)
    assert (work.cancelled, work.rolled_back) == (1, 1)


async def test_a_hurried_stop_still_lets_the_handler_clean_up(sandbox: Sandbox, serve: Serve) -> None:
    """A second signal cancels at once, also during a poll, and a short clean-up still completes."""
    work = Rollback(rollback_s=0.1)
    sandbox.put(QUEUE, body().decode())
    async with serve(registry(work)) as daemon:
        await work.begun.wait()
        await anyio.sleep(0.2)
        daemon.app.stop()
        assert await daemon.stop() < 2
    assert (work.cancelled, work.rolled_back) == (1, 1)
