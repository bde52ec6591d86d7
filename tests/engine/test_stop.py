"""Stopping: in order, in time, with nothing lost."""

from __future__ import annotations

import time
from collections.abc import Callable

import anyio
import pytest

from consumer.cloud.messages import Batch
from consumer.plugin.handler import Limits, Note, build
from consumer.plugin.job import Job
from consumer.plugin.registry import Registry
from consumer.sandbox import Fault, Sandbox
from consumer.store.ledger import JobRecord
from tests.engine.rig import QUEUE, Serve, body, handlers


async def nothing(job: Job) -> None:
    """Does nothing."""


@pytest.mark.alone
async def test_an_idle_daemon_stops_within_a_second(serve: Serve) -> None:
    """With nothing in flight a stop takes less than 1 s."""
    async with serve(handlers(Cover=nothing), wait_s=30) as daemon:
        await anyio.sleep(0.2)
        assert await daemon.stop() < 1


async def test_running_handlers_finish_before_the_end(sandbox: Sandbox, serve: Serve) -> None:
    """A stop waits for the running handler, whose message is then deleted."""
    begun = anyio.Event()
    ended = False

    async def cover(job: Job) -> None:
        nonlocal ended
        begun.set()
        await anyio.sleep(1)
        ended = True

    sandbox.put(QUEUE, body().decode())
    async with serve(handlers(Cover=cover)) as daemon:
        await begun.wait()
        await daemon.stop()
    assert ended
    assert not sandbox.messages(QUEUE)


async def test_what_has_not_started_is_given_back(sandbox: Sandbox, serve: Serve) -> None:
    """Messages that wait for a busy handler are visible again within 2 s of the stop."""
    begun = anyio.Event()

    async def cover(job: Job) -> None:
        begun.set()
        await anyio.sleep(1)

    for number in range(4):
        sandbox.put(QUEUE, body(f"{number:032x}").decode())
    registry = Registry({"Cover": build(cover, Note("Cover", Limits(concurrency=1)))})
    async with serve(registry) as daemon:
        await begun.wait()
        await anyio.sleep(0.3)
        stopped_at = time.time()
        await daemon.stop()
        left = sandbox.messages(QUEUE)
        assert len(left) == 3
        assert all(message.visible_ms / 1000 <= stopped_at + 2 for message in left)


async def test_a_handler_is_cut_at_the_deadline_and_given_back(sandbox: Sandbox, serve: Serve) -> None:
    """A handler that outlasts the deadline is cancelled, counts no failure, and its message comes back soon."""
    begun = anyio.Event()

    async def cover(job: Job) -> None:
        begun.set()
        await anyio.sleep(60)

    sandbox.put(QUEUE, body().decode())
    async with serve(handlers(Cover=cover), stop_deadline_s=2) as daemon:
        await begun.wait()
        assert await daemon.stop() < 2.5
        (left,) = sandbox.messages(QUEUE)
        assert left.visible_ms / 1000 < time.time() + 2
        assert daemon.count("jobs_total", queue=QUEUE, function="Cover", outcome="released") == 1


async def test_a_second_stop_skips_the_waiting(sandbox: Sandbox, serve: Serve) -> None:
    """Asked twice, the daemon ends within 2 s though a handler runs; what had ended is still deleted."""
    begun = anyio.Event()

    async def slow(job: Job) -> None:
        begun.set()
        await anyio.sleep(60)

    async def quick(job: Job) -> None:
        await begun.wait()

    sandbox.put(QUEUE, body("1" * 32, "Slow").decode())
    sandbox.put(QUEUE, body("2" * 32, "Quick").decode())
    async with serve(handlers(Slow=slow, Quick=quick)) as daemon:
        await begun.wait()
        daemon.app.stop()
        assert await daemon.stop() < 2
        assert len(sandbox.messages(QUEUE)) == 1


async def test_a_stop_while_the_queue_is_down_ends_in_time(sandbox: Sandbox, serve: Serve) -> None:
    """With MNS answering nothing, a stop still ends within its deadline."""
    async with serve(handlers(Cover=nothing), stop_deadline_s=3) as daemon:
        sandbox.faults.add(Fault(kind="hang"))
        sandbox.put(QUEUE, body().decode())
        await anyio.sleep(0.3)
        assert await daemon.stop() < 3.5


async def test_an_end_that_is_being_written_is_not_cut_short(
    sandbox: Sandbox, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even when the whole daemon is cancelled at once, an end whose writing has begun is written."""
    writing = anyio.Event()
    written: list[str] = []

    async with serve(handlers(Cover=nothing)) as daemon:
        ledger = daemon.app.lanes[0].store.ledger
        done = ledger.done

        async def slowly(record: JobRecord) -> bool:
            writing.set()
            await anyio.sleep(0.3)
            written.append(record.key)
            return await done(record)

        monkeypatch.setattr(ledger, "done", slowly)
        sandbox.put(QUEUE, body().decode())
        await writing.wait()
        daemon.task.cancel()
        await daemon.ended.wait()
    assert len(written) == 1


async def test_a_slot_that_gets_free_as_the_stop_comes_begins_no_poll(sandbox: Sandbox, serve: Serve) -> None:
    """When the last slot gets free in the very moment of the stop, no long poll begins that the stop would wait for."""
    begun, finish = anyio.Event(), anyio.Event()

    async def cover(job: Job) -> None:
        begun.set()
        await finish.wait()

    sandbox.put(QUEUE, body().decode())
    async with serve(handlers(Cover=cover), slots=1, wait_s=30) as daemon:
        await begun.wait()
        lane = daemon.app.lanes[0]
        give_back = lane.slots.give_back
        with pytest.MonkeyPatch.context() as patch:

            def at_that_moment(count: int, *, unused: bool = False) -> None:
                give_back(count, unused=unused)
                daemon.app.stop()

            patch.setattr(lane.slots, "give_back", at_that_moment)
            began_at = time.monotonic()
            finish.set()
            await daemon.ended.wait()
        assert time.monotonic() - began_at < 1.5
    assert not sandbox.messages(QUEUE)


async def test_an_answer_that_stalls_does_not_hold_the_stop(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """A receive whose answer has begun is read on, but not past the deadline."""
    async with serve(handlers(Cover=nothing), stop_deadline_s=3) as daemon:

        async def stalls(count: int, wait_s: int, *, on_answer: Callable[[], None]) -> Batch:
            on_answer()
            await anyio.sleep(60)
            raise AssertionError("unreachable")

        monkeypatch.setattr(daemon.app.lanes[0].queue, "receive", stalls)
        # The poll of before ends after 2 s.
        await anyio.sleep(2.5)
        assert 1.5 < await daemon.stop() < 3.5
