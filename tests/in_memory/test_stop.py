"""Stopping: in order, in time, with nothing lost."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable

import anyio
import pytest
from structlog.testing import capture_logs

from consumer.cloud.messages import Batch
from consumer.errors import Fault, StoreError
from consumer.plugin.handler import Job, Limits, Note, Reject, build
from consumer.plugin.registry import Registry
from consumer.store.ledger import JobRecord
from tests.engine.rig import Rollback, body, handlers
from tests.in_memory.ledger import MemoryLedger, MemoryStore
from tests.in_memory.queue import MemoryQueue
from tests.in_memory.rig import Serve

QUEUE = "jobs"


async def nothing(job: Job) -> None:
    """Does nothing."""


def seconds_hidden(queue: MemoryQueue) -> list[float]:
    """The time for which each message is still hidden."""
    return [round(kept.visible_at - time.monotonic(), 3) for kept in queue.messages]


async def test_an_idle_daemon_stops_within_a_second(serve: Serve) -> None:
    """With nothing in flight a stop takes at most half a second, for the current poll."""
    async with serve(handlers(Cover=nothing)) as daemon:
        await anyio.sleep(0.2)
        assert await daemon.stop() <= 0.6


async def test_running_handlers_finish_before_the_end(queue: MemoryQueue, serve: Serve) -> None:
    """A stop waits for the running handler, whose message is then deleted."""
    begun = anyio.Event()
    ended: list[str] = []

    async def cover(job: Job) -> None:
        begun.set()
        await anyio.sleep(15)
        ended.append(job.job_id)

    queue.put(body())
    async with serve(handlers(Cover=cover)) as daemon:
        await begun.wait()
        assert 15 <= await daemon.stop() < 16
    assert len(ended) == 1
    assert not queue.messages


async def test_what_has_not_started_is_given_back(queue: MemoryQueue, serve: Serve) -> None:
    """Messages that wait for a busy handler are visible again within 2 s of the stop."""
    begun = anyio.Event()

    async def cover(job: Job) -> None:
        begun.set()
        await anyio.sleep(15)

    for number in range(4):
        queue.put(body(f"{number:032x}"))
    registry = Registry({"Cover": build(cover, Note("Cover", Limits(concurrency=1)))})
    async with serve(registry) as daemon:
        await begun.wait()
        await anyio.sleep(0.3)
        daemon.app.stop()
        await anyio.sleep(1.9)
        running, *given_back = sorted(seconds_hidden(queue), reverse=True)
        assert running > 2
        assert len(given_back) == 3
        assert all(seconds <= 0.1 for seconds in given_back)
        await daemon.ended.wait()
    assert len(queue.messages) == 3


async def test_a_handler_is_cut_at_the_deadline_and_given_back(queue: MemoryQueue, serve: Serve) -> None:
    """A handler that outlasts the deadline is cancelled without a failure, and its message is visible again soon."""
    begun = anyio.Event()

    async def cover(job: Job) -> None:
        begun.set()
        await anyio.sleep(240)

    queue.put(body())
    async with serve(handlers(Cover=cover), stop_deadline_s=60) as daemon:
        await begun.wait()
        assert 50 < await daemon.stop() <= 60.5
        assert all(seconds <= 2 for seconds in seconds_hidden(queue))
        assert daemon.count("jobs_total", queue=QUEUE, function="Cover", outcome="released") == 1
    assert len(queue.messages) == 1


async def test_a_second_stop_skips_the_waiting(queue: MemoryQueue, serve: Serve) -> None:
    """After a second signal the daemon ends within 2 s though a handler runs; done messages are still deleted."""
    begun = anyio.Event()

    async def slow(job: Job) -> None:
        begun.set()
        await anyio.sleep(240)

    async def quick(job: Job) -> None:
        await begun.wait()

    queue.put(body("1" * 32, "Slow"))
    queue.put(body("2" * 32, "Quick"))
    async with serve(handlers(Slow=slow, Quick=quick)) as daemon:
        await begun.wait()
        daemon.app.stop()
        assert await daemon.stop() < 2
        assert len(queue.messages) == 1


async def test_a_stop_while_the_queue_is_down_ends_in_time(queue: MemoryQueue, serve: Serve) -> None:
    """While MNS does not answer, a stop still ends within its deadline."""
    async with serve(handlers(Cover=nothing), stop_deadline_s=10) as daemon:
        queue.fail_all(seconds=3600)
        queue.put(body())
        await anyio.sleep(0.3)
        assert await daemon.stop() <= 10.5


@pytest.mark.parametrize("refuses", [False, True], ids=["done", "dead letter"])
async def test_an_end_waits_for_the_store(
    queue: MemoryQueue, store: MemoryStore, serve: Serve, *, refuses: bool
) -> None:
    """A handler that ends while the store is down is not run again: its end is stored first, then it is deleted."""
    runs = 0
    finish = anyio.Event()

    async def cover(job: Job) -> None:
        nonlocal runs
        runs += 1
        await finish.wait()
        if refuses:
            raise Reject("never")

    queue.put(body())
    async with serve(handlers(Cover=cover)) as daemon:
        await daemon.until(lambda: runs == 1)
        store.down = StoreError("gone")
        finish.set()
        await anyio.sleep(600)
        assert len(queue.messages) == 1
        assert not store.ended
        store.down = None
        await daemon.emptied(10)
    assert runs == 1
    assert [job.dead for job in store.ended.values()] == [refuses]


async def test_a_stop_while_the_store_is_down_ends_in_time(
    queue: MemoryQueue, store: MemoryStore, serve: Serve
) -> None:
    """With an end that can't be stored, a stop still ends within its deadline, and the message stays."""
    begun, finish = anyio.Event(), anyio.Event()

    async def cover(job: Job) -> None:
        begun.set()
        await finish.wait()

    queue.put(body())
    async with serve(handlers(Cover=cover), stop_deadline_s=10) as daemon:
        await begun.wait()
        store.down = StoreError("gone")
        finish.set()
        await anyio.sleep(0.5)
        assert await daemon.stop() < 12
    assert len(queue.messages) == 1


async def test_a_daemon_that_is_cancelled_while_the_store_is_down_ends(
    queue: MemoryQueue, store: MemoryStore, serve: Serve
) -> None:
    """A daemon that is cancelled with an end that can't be stored gives up after a moment."""
    begun, finish = anyio.Event(), anyio.Event()

    async def cover(job: Job) -> None:
        begun.set()
        await finish.wait()

    queue.put(body())
    async with serve(handlers(Cover=cover)) as daemon:
        await begun.wait()
        store.down = StoreError("gone")
        finish.set()
        await anyio.sleep(0.5)
        daemon.task.cancel()
        with anyio.fail_after(5):
            await daemon.ended.wait()
    assert len(queue.messages) == 1


async def test_an_end_that_is_being_stored_is_not_cut_short(
    queue: MemoryQueue, store: MemoryStore, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even when the whole daemon is cancelled at once, an end whose storing has begun is stored."""
    storing = anyio.Event()
    done = MemoryLedger.done

    async def slowly(ledger: MemoryLedger, record: JobRecord) -> bool:
        storing.set()
        await anyio.sleep(0.3)
        return await done(ledger, record)

    monkeypatch.setattr(MemoryLedger, "done", slowly)
    queue.put(body())
    async with serve(handlers(Cover=nothing)) as daemon:
        await storing.wait()
        assert not store.done
        daemon.task.cancel()
        await daemon.ended.wait()
    assert len(store.done) == 1


async def test_a_stop_tries_its_deletes_until_the_deadline(queue: MemoryQueue, serve: Serve) -> None:
    """A stop tries failing deletes again; it ends when one succeeds before the deadline."""
    queue.fail("delete", times=math.inf)
    queue.put(body())
    async with serve(handlers(Cover=nothing), stop_deadline_s=30) as daemon:
        await daemon.until(lambda: daemon.count("jobs_total", queue=QUEUE, function="Cover", outcome="done") == 1)

        async def mend() -> None:
            await anyio.sleep(10)
            queue.mend()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(mend)
            assert 10 <= await daemon.stop() < 12
    assert not queue.messages


@pytest.mark.parametrize("turns", range(12))
async def test_a_slot_that_gets_free_as_the_stop_comes_begins_no_poll(
    queue: MemoryQueue, serve: Serve, turns: int
) -> None:
    """When the last slot gets free just before the stop, no long poll begins that the stop would wait for."""
    begun, finish = anyio.Event(), anyio.Event()

    async def cover(job: Job) -> None:
        begun.set()
        await finish.wait()

    queue.put(body())
    async with serve(handlers(Cover=cover), slots=1) as daemon:
        await begun.wait()
        finish.set()
        for _ in range(turns):
            await asyncio.sleep(0)
        assert await daemon.stop() < 1.5
    assert not queue.messages


async def test_an_answer_that_stalls_does_not_hold_the_stop(
    queue: MemoryQueue, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A receive whose answer has begun is read on, but not past the deadline."""

    async def stalls(count: int, wait_s: int, *, on_answer: Callable[[], None]) -> Batch:
        on_answer()
        await anyio.sleep(3600)
        raise AssertionError("unreachable")

    monkeypatch.setattr(queue, "receive", stalls)
    async with serve(handlers(Cover=nothing), stop_deadline_s=30) as daemon:
        await anyio.sleep(2.5)
        assert 25 < await daemon.stop() <= 30.5


async def test_a_time_limit_lets_the_handler_clean_up(queue: MemoryQueue, serve: Serve) -> None:
    """At its time limit a handler is cancelled once, its clean-up completes, and the run counts as one failure."""
    rollback = Rollback(4)
    queue.put(body())
    registry = Registry({"Cover": build(rollback.__call__, Note("Cover", Limits(timeout_s=20)))})
    async with serve(registry) as daemon:
        await daemon.until(lambda: daemon.count("retries_total", queue=QUEUE, function="Cover", cause="timed_out") == 1)
    assert (rollback.cancelled, rollback.rolled_back) == (1, 1)


async def test_a_stop_lets_the_handler_clean_up(queue: MemoryQueue, serve: Serve) -> None:
    """At a stop a handler is cancelled a grace before the deadline, cleans up, and its message is given back."""
    rollback = Rollback(4)
    queue.put(body())
    async with serve(handlers(Cover=rollback.__call__), stop_deadline_s=30, cancel_grace_s=5) as daemon:
        await rollback.begun.wait()
        assert 24 <= await daemon.stop() < 30
        assert daemon.count("jobs_total", queue=QUEUE, function="Cover", outcome="released") == 1
    assert (rollback.cancelled, rollback.rolled_back) == (1, 1)
    assert all(seconds <= 3 for seconds in seconds_hidden(queue))


async def test_a_hurried_stop_still_lets_the_handler_clean_up(queue: MemoryQueue, serve: Serve) -> None:
    """A second signal cancels at once, also during a poll, and a short clean-up still completes."""
    rollback = Rollback(0.1)
    queue.put(body())
    async with serve(handlers(Cover=rollback.__call__)) as daemon:
        await rollback.begun.wait()
        await anyio.sleep(0.2)
        daemon.app.stop()
        assert await daemon.stop() < 2
    assert (rollback.cancelled, rollback.rolled_back) == (1, 1)


async def test_a_handler_that_ignores_its_cancellation_delays_no_stop(queue: MemoryQueue, serve: Serve) -> None:
    """A handler that ignores its cancellation is logged with its stack, and its message is visible again."""
    begun = anyio.Event()

    async def cover(job: Job) -> None:
        until = time.monotonic() + 60
        begun.set()
        while time.monotonic() < until:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(until - time.monotonic())

    queue.put(body())
    with capture_logs() as lines:
        async with serve(handlers(Cover=cover), stop_deadline_s=30, cancel_grace_s=5) as daemon:
            await begun.wait()
            assert await daemon.stop() <= 30.5
    (line,) = [line for line in lines if "stack" in line]
    assert line["log_level"] == "warning"
    assert "test_stop.py" in line["stack"]
    assert "asyncio.sleep(until" in line["stack"]
    assert all(seconds <= 10 for seconds in seconds_hidden(queue))
    assert len(queue.messages) == 1
    # It ends by itself: nothing of it outlives the test.
    await anyio.sleep(60)


async def test_a_network_that_loses_answers_at_the_stop_loses_no_message(queue: MemoryQueue, serve: Serve) -> None:
    """A release whose answer is lost does not delay the stop; the message stays in its queue."""
    begun = anyio.Event()

    async def cover(job: Job) -> None:
        begun.set()
        await anyio.sleep(240)

    queue.put(body())
    async with serve(handlers(Cover=cover), stop_deadline_s=10) as daemon:
        await begun.wait()
        queue.fail("hide", Fault.NETWORK, times=math.inf, after=True)
        assert await daemon.stop() <= 10.5
    assert len(queue.messages) == 1
