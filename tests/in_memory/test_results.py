"""Results of MPS are waited for while MPS does not answer."""

from __future__ import annotations

import time
from typing import Any

import anyio
import pytest
from structlog.testing import capture_logs

from consumer.errors import Fault
from consumer.plugin.handler import Job
from consumer.policy import Reason
from tests.engine.rig import body, handlers
from tests.in_memory.queue import MemoryQueue
from tests.in_memory.rig import MemoryMps, Serve, Surroundings

QUEUE = "jobs"


@pytest.fixture
def mps(around: Surroundings) -> MemoryMps:
    return around.mps


@pytest.mark.parametrize("fault", [Fault.SERVER, Fault.THROTTLED, Fault.NETWORK, Fault.CREDENTIALS])
async def test_an_outage_of_mps_is_waited_for(queue: MemoryQueue, mps: MemoryMps, serve: Serve, fault: Fault) -> None:
    """While MPS refuses, few queries are sent and no message is hidden or deleted; then each run is attempt 1."""
    attempts: list[int] = []

    async def clip(job: Job[Any]) -> None:
        attempts.append(job.attempt)

    for number in range(60):
        mps.add(f"{number:032x}", function="VideoClip", result="{}")
        queue.put(body(f"{number:032x}", "VideoClip"))
    mps.faults = [fault] * 10_000
    with capture_logs() as lines:
        async with serve(handlers(VideoClip=clip), slots=16) as daemon:
            await daemon.until(lambda: daemon.app.lanes[0].slots.free == 0)
            await anyio.sleep(10)
            asked, received = len(mps.asked), queue.calls["receive"]
            await anyio.sleep(100)
            assert len(mps.asked) - asked <= 100 / 2
            assert queue.calls["receive"] == received
            assert not all(check.ok for check in daemon.app.vitals.ready())
            assert all(check.ok for check in daemon.app.vitals.live())
            mps.faults.clear()
            await daemon.until(lambda: attempts, 65)
            await daemon.emptied(10)
            assert daemon.count("retries_total", queue=QUEUE, function="VideoClip", cause="unavailable") == 0
            assert all(check.ok for check in daemon.app.vitals.ready())
    assert attempts == [1] * 60
    begins, ends = [line for line in lines if line["log_level"] in {"warning", "error"} or "outage_seconds" in line]
    assert begins["log_level"] == "warning"
    assert "outage_seconds" in ends


async def test_what_needs_no_result_passes_by(queue: MemoryQueue, mps: MemoryMps, serve: Serve) -> None:
    """While MPS is down, handlers without a result run as long as there are slots; a stop does not wait for MPS."""
    seen: list[str] = []

    async def clip(job: Job[Any]) -> None:
        seen.append(job.function)

    async def bare(job: Job) -> None:
        seen.append(job.function)

    mps.faults = [Fault.SERVER] * 10_000
    queue.put(body("f" * 32, "VideoClip"))
    async with serve(handlers(VideoClip=clip, Cover=bare), slots=4) as daemon:
        await daemon.until(lambda: len(mps.asked) >= 3)
        for number in range(8):
            queue.put(body(f"{number:032x}"))
        await daemon.until(lambda: len(seen) == 8)
        assert await daemon.stop() < 2
        (left,) = queue.messages
        assert left.visible_at < time.monotonic() + 2
    assert seen == ["Cover"] * 8


async def test_an_outage_longer_than_patience_counts_no_failure(
    queue: MemoryQueue, mps: MemoryMps, serve: Serve
) -> None:
    """Messages are released from time to time, none fails, and each is handled as attempt 1."""
    attempts: list[int] = []

    async def clip(job: Job[Any]) -> None:
        attempts.append(job.attempt)

    for number in range(20):
        mps.add(f"{number:032x}", function="VideoClip", result="{}")
        queue.put(body(f"{number:032x}", "VideoClip"))
    mps.faults = [Fault.SERVER] * 1_000_000
    async with serve(handlers(VideoClip=clip)) as daemon:
        await anyio.sleep(1200)
        mps.faults.clear()
        await daemon.emptied(7200)
        assert not daemon.store.dead
    assert attempts == [1] * 20


@pytest.mark.parametrize("comes", [True, False], ids=["comes later", "never comes"])
async def test_a_result_that_is_not_ready(queue: MemoryQueue, mps: MemoryMps, serve: Serve, *, comes: bool) -> None:
    """A job that MPS still calls Analysing comes back later, and is set aside once the setting's time is over."""
    seen: list[str] = []

    async def clip(job: Job[Any]) -> None:
        seen.append(job.job_id)

    job_id = "a" * 32
    mps.add(job_id, function="VideoClip", state="Analysing")
    queue.put(body(job_id, "VideoClip"))
    async with serve(handlers(VideoClip=clip), result_wait_s=1800) as daemon:
        await anyio.sleep(900)
        assert daemon.count("result_queries_total", result="not_ready") >= 2
        assert len(queue.messages) == 1
        if comes:
            mps.add(job_id, function="VideoClip", result="{}")
        await daemon.emptied(3600)
        reasons = [letter.reason for letter in daemon.store.dead]
    assert seen == ([job_id] if comes else [])
    assert reasons == ([] if comes else [Reason.RESULT_NOT_READY])


async def test_one_job_that_mps_fails_for_is_no_outage(queue: MemoryQueue, mps: MemoryMps, serve: Serve) -> None:
    """A job that MPS fails for while it answers others delays no other, and ends as a dead letter."""
    seen: list[str] = []

    async def clip(job: Job[Any]) -> None:
        seen.append(job.job_id)

    query = mps.query

    async def query_but_one(job_id: str) -> object:
        if job_id == "bad":
            mps.faults.insert(0, Fault.SERVER)
        return await query(job_id)

    mps.query = query_but_one  # type: ignore[assignment,method-assign]
    queue.put(body("bad", "VideoClip"))
    with capture_logs() as lines:
        async with serve(handlers(VideoClip=clip)) as daemon:
            for number in range(50):
                mps.add(f"good{number}", function="VideoClip", result="{}")
                queue.put(body(f"good{number}", "VideoClip"))
                await anyio.sleep(2)
            assert len(seen) == 50
            await daemon.emptied(14 * 86_400)
    assert "outage_seconds" not in {key for line in lines for key in line}
