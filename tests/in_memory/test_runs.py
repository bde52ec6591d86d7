"""The history of a job: what is stored of its runs, and what is not."""

from __future__ import annotations

import time

import anyio

from consumer.plugin.handler import Job, Retry
from tests.engine.rig import body, handlers
from tests.in_memory.ledger import MemoryStore
from tests.in_memory.queue import MemoryQueue
from tests.in_memory.rig import Serve


async def test_each_run_that_leaves_its_job_open_is_stored(
    queue: MemoryQueue, store: MemoryStore, serve: Serve
) -> None:
    """A failure, a retry and a wait are stored with times and what was raised; the run that ends the job is not."""
    runs: list[float] = []

    async def cover(job: Job) -> None:
        runs.append(time.time())
        await anyio.sleep(2)
        match len(runs):
            case 1:
                raise ValueError("no such film")
            case 2:
                raise Retry("too early", after_s=300, counts=False)
            case 3:
                raise Retry("once more", after_s=600)

    queue.put(body())
    async with serve(handlers(Cover=cover)) as daemon:
        await daemon.emptied(6000)
    found = [run for _, run in store.runs.values()]
    assert [(run.attempt, run.result, run.error) for run in found] == [
        (1, "failed", "ValueError: no such film"),
        (2, "waiting", "too early"),
        (2, "asked", "once more"),
    ]
    assert [run.started_at for run in found] == runs[:3]
    assert [round(run.ended_at - run.started_at) for run in found] == [2, 2, 2]
    assert [round(run.retry_at - run.ended_at) for run in found[1:] if run.retry_at is not None] == [300, 600]
    assert "in cover" in (found[0].traceback or "")
    (done,) = store.done
    assert (done.attempts, {run.key for run in found}, done.job_id) == (3, {done.key}, found[0].job_id)


async def test_a_run_that_a_stop_interrupts_is_stored(queue: MemoryQueue, store: MemoryStore, serve: Serve) -> None:
    """It counts as no failure, and its message is due at once."""
    begun = anyio.Event()

    async def cover(job: Job) -> None:
        begun.set()
        await anyio.sleep(10_000)

    queue.put(body())
    async with serve(handlers(Cover=cover)) as daemon:
        await begun.wait()
        await daemon.stop()
    ((_, run),) = store.runs.values()
    assert (run.attempt, run.result, run.error) == (1, "interrupted", "the daemon stops")
    assert run.retry_at == run.ended_at + 1


async def test_what_has_not_run_has_no_history(queue: MemoryQueue, store: MemoryStore, serve: Serve) -> None:
    """A job that ends at its first attempt writes its claim and its end alone."""

    async def cover(job: Job) -> None:
        pass

    queue.put(body())
    async with serve(handlers(Cover=cover)) as daemon:
        await daemon.emptied()
    assert store.runs == {}
    assert [write for write in store.writes if write in {"claim", "fail", "release", "done"}] == ["claim", "done"]
