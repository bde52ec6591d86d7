"""The pace of polls and deletes: more while messages flow, fewer when they are shed, growing pauses after faults."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import anyio
import pytest
from structlog.testing import capture_logs

from consumer.errors import Fault, StoreError
from consumer.plugin.handler import Job, Limits, Note, build
from consumer.plugin.registry import Registry
from tests.engine.rig import body, handlers
from tests.in_memory.ledger import MemoryStore
from tests.in_memory.queue import MemoryQueue
from tests.in_memory.rig import Daemon, Serve

QUEUE = "jobs"
LOUD = {"warning", "error", "critical"}


async def nothing(job: Job) -> None:
    """Does nothing."""


async def slow(job: Job) -> None:
    """Is at work when an outage begins."""
    await anyio.sleep(20)


def fill(queue: MemoryQueue, numbers: Sequence[int], function: str = "Cover") -> None:
    for number in numbers:
        queue.put(body(f"{number:032x}", function))


def done(daemon: Daemon, function: str = "Cover") -> float:
    return daemon.count("jobs_total", queue=QUEUE, function=function, outcome="done")


def loud(lines: Sequence[Mapping[str, object]]) -> list[Mapping[str, object]]:
    """What was logged above info, and of an outage's end."""
    return [line for line in lines if line["log_level"] in LOUD or "outage_seconds" in line]


async def test_an_idle_queue_costs_a_request_every_30_s(queue: MemoryQueue, serve: Serve) -> None:
    """One long poll after the other, and nothing else but a look at the queue's attributes."""
    async with serve(handlers(Cover=nothing)) as daemon:
        await anyio.sleep(3600)
        assert 119 <= queue.calls["receive"] <= 122
        assert queue.calls.total() <= 125
        slots = daemon.app.lanes[0].slots
        assert slots.total - slots.free <= 16


async def test_shed_polls_lower_their_number(queue: MemoryQueue, serve: Serve) -> None:
    """Immediate empty answers lead to growing pauses instead of a hot loop, and are counted."""
    queue.sheds = True
    async with serve(handlers(Cover=nothing)) as daemon:
        await anyio.sleep(600)
        assert queue.calls["receive"] <= 50
        assert daemon.count("polls_total", queue=QUEUE, result="shed") >= 10
        queue.sheds = False
        queue.put(body())
        await daemon.emptied(60)


async def test_joining_polls_empty_a_full_queue(queue: MemoryQueue, serve: Serve) -> None:
    """While answers come full, more polls join; all messages are handled in full batches."""
    queue.answer_s = 0.01
    fill(queue, range(320))
    async with serve(handlers(Cover=nothing)) as daemon:
        await daemon.emptied(5)
        assert done(daemon) == 320
        assert queue.calls["receive"] <= 320 / 16 + 8
        assert queue.calls["delete"] <= 320 / 16 + 8


async def test_a_limited_handler_leaves_the_slots_to_others(queue: MemoryQueue, serve: Serve) -> None:
    """With more messages than slots for a slow handler of concurrency 1, all others are handled at once."""
    seen: list[str] = []
    running = most = 0

    async def cover(job: Job) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await anyio.sleep(10)
        running -= 1

    async def clip(job: Job) -> None:
        seen.append(job.job_id)

    fill(queue, range(24))
    fill(queue, range(100, 120), "VideoClip")
    registry = Registry(
        {
            "Cover": build(cover, Note("Cover", Limits(concurrency=1))),
            "VideoClip": build(clip, Note("VideoClip", Limits())),
        }
    )
    async with serve(registry, slots=8) as daemon:
        await daemon.until(lambda: len(seen) == 20, 5)
        # The others were given back without a failure, and wait in the queue.
        assert daemon.count("jobs_total", queue=QUEUE, function="Cover", outcome="released") >= 8
        assert daemon.count("retries_total", queue=QUEUE, function="Cover", cause="failed") == 0
        await daemon.emptied(3600)
        slots = daemon.app.lanes[0].slots
        assert slots.aside == 0
    assert most == 1
    assert len(seen) == 20


@pytest.mark.parametrize("slots", [1, 8])
async def test_all_messages_of_a_limited_handler_are_handled(queue: MemoryQueue, serve: Serve, slots: int) -> None:
    """Messages that gave up their slot take one again, one after the other, each once."""
    seen: list[str] = []

    async def cover(job: Job) -> None:
        await anyio.sleep(1)
        seen.append(job.job_id)

    fill(queue, range(20))
    registry = Registry({"Cover": build(cover, Note("Cover", Limits(concurrency=2)))})
    async with serve(registry, slots=slots) as daemon:
        await daemon.emptied(600)
    assert len(seen) == len(set(seen)) == 20


def all_fail(fault: Fault, *, after: bool = False, seconds: float = 0.0) -> Callable[[MemoryQueue], None]:
    def begin(queue: MemoryQueue) -> None:
        for verb in ("receive", "hide", "delete", "attributes"):
            queue.fail(verb, fault, times=math.inf, after=after, seconds=seconds)

    return begin


@pytest.mark.parametrize(
    "begin",
    [
        pytest.param(all_fail(Fault.NETWORK), id="refused connections"),
        pytest.param(all_fail(Fault.NETWORK, after=True), id="lost answers"),
        pytest.param(all_fail(Fault.NETWORK, seconds=10), id="answers that time out"),
        pytest.param(all_fail(Fault.UNREADABLE), id="a proxy's page"),
        pytest.param(all_fail(Fault.SERVER), id="503"),
        pytest.param(all_fail(Fault.THROTTLED, seconds=0.5), id="429"),
    ],
)
async def test_mns_is_gone(queue: MemoryQueue, serve: Serve, begin: Callable[[MemoryQueue], None]) -> None:
    """In ten minutes without MNS few calls are made and two lines logged; 5 s after its return all is handled."""
    with capture_logs() as lines:
        async with serve(handlers(Cover=nothing, Slow=slow)) as daemon:
            fill(queue, range(20), "Slow")
            await daemon.until(lambda: len(daemon.app.lanes[0].deliveries) == 20)
            begin(queue)
            fill(queue, range(20, 40))
            await anyio.sleep(60)
            assert not all(check.ok for check in daemon.app.vitals.ready())
            assert all(check.ok for check in daemon.app.vitals.live())
            before = queue.calls.total()
            await anyio.sleep(540)
            # Three kinds of calls, each with a pause of 2 to 4 s.
            assert queue.calls.total() - before <= 3 * 540 / 2
            queue.mend()
            queue.put(body("f" * 32))
            await daemon.until(lambda: done(daemon) >= 1, 15)
            await daemon.emptied()
            assert (done(daemon), done(daemon, "Slow")) == (21, 20)
            assert all(check.ok for check in daemon.app.vitals.ready())
    begins, ends = loud(lines)
    assert begins["log_level"] == "warning"
    assert 585 <= float(str(ends["outage_seconds"])) <= 620


@pytest.mark.parametrize("fault", [Fault.CREDENTIALS, Fault.MISSING])
async def test_a_fault_that_a_person_must_fix_is_retried_slowly(queue: MemoryQueue, serve: Serve, fault: Fault) -> None:
    """With wrong keys or a missing queue polls come every 5 s for two minutes, then every minute."""
    async with serve(handlers(Cover=nothing)) as daemon:
        queue.fail("receive", fault, times=math.inf)
        queue.put(body())
        await daemon.until(lambda: queue.calls["receive"] > 1)
        before = queue.calls["receive"]
        await anyio.sleep(110)
        assert 18 <= queue.calls["receive"] - before <= 26
        await anyio.sleep(60)
        before = queue.calls["receive"]
        await anyio.sleep(3600)
        assert 55 <= queue.calls["receive"] - before <= 65
        queue.mend()
        await daemon.emptied(70)


async def test_the_store_is_gone(queue: MemoryQueue, store: MemoryStore, serve: Serve) -> None:
    """While the store is down there is no poll; within 5 s of its return each message is handled once."""
    with capture_logs() as lines:
        async with serve(handlers(Cover=nothing, Slow=slow)) as daemon:
            fill(queue, range(20), "Slow")
            await daemon.until(lambda: len(daemon.app.lanes[0].deliveries) == 20)
            store.down = StoreError("gone")
            fill(queue, range(20, 40))
            await daemon.until(lambda: not all(check.ok for check in daemon.app.vitals.ready()))
            before = queue.calls["receive"]
            await anyio.sleep(1200)
            assert queue.calls["receive"] == before
            assert all(check.ok for check in daemon.app.vitals.live())
            assert len(queue.messages) == 40
            store.down = None
            await daemon.until(lambda: done(daemon) >= 1, 6)
            await daemon.emptied()
            assert (done(daemon), done(daemon, "Slow")) == (20, 20)
            assert all(check.ok for check in daemon.app.vitals.ready())
    begins, ends = loud(lines)
    assert begins["log_level"] == "warning"
    assert 1195 <= float(str(ends["outage_seconds"])) <= 1230


async def test_deletes_outlast_an_outage(queue: MemoryQueue, serve: Serve) -> None:
    """While deletes are answered by 503 few are sent; afterwards the same handles work. One outage is logged."""
    queue.visibility_s = 120
    queue.fail("delete", times=math.inf)
    fill(queue, range(60))
    with capture_logs() as lines:
        async with serve(handlers(Cover=nothing)) as daemon:
            await daemon.until(lambda: done(daemon) == 60)
            await anyio.sleep(60)
            assert queue.calls["delete"] <= 50
            queue.mend()
            await daemon.emptied(10)
            assert daemon.count("messages_received_total", queue=QUEUE) == 60
    assert [line["event"] for line in loud(lines)][:1] == [
        "deletes fail; the outcomes are persisted, so redeliveries will only be deleted"
    ]
    assert len(loud(lines)) <= 2


async def test_refused_deletes_are_logged_once(queue: MemoryQueue, serve: Serve) -> None:
    """Deletes that MNS keeps refusing are one line at the start and one, with the length, at the end."""
    queue.fail("delete", Fault.CREDENTIALS, times=math.inf, code="AccessDenied")
    with capture_logs() as lines:
        async with serve(handlers(Cover=nothing)) as daemon:
            fill(queue, range(40))
            await daemon.until(lambda: daemon.count("deletes_total", queue=QUEUE, result="failed") >= 40)
            queue.mend()
            await daemon.emptied(120)
            # It counts as over only when nothing has failed for a while.
            await anyio.sleep(10)
            queue.put(body(f"{39:032x}"))
            await daemon.emptied(120)
            assert done(daemon) == 40
    begins, ends = loud(lines)
    assert begins["log_level"] == "warning"
    assert "outage_seconds" in ends


async def test_many_that_can_not_be_deleted_hold_the_polls_back(queue: MemoryQueue, serve: Serve) -> None:
    """While many deletes wait, no message is received; afterwards all are handled once."""
    queue.visibility_s = 3600
    queue.fail("delete", times=math.inf)
    fill(queue, range(900))
    async with serve(handlers(Cover=nothing)) as daemon:
        await anyio.sleep(60)
        taken = daemon.count("messages_received_total", queue=QUEUE)
        # What was asked for already may still come: as many as there are slots, and a poll's more.
        assert 256 <= taken <= 256 + 2 * 64 + 64
        assert not all(check.ok for check in daemon.app.vitals.ready())
        assert all(check.ok for check in daemon.app.vitals.live())
        await anyio.sleep(600)
        assert daemon.count("messages_received_total", queue=QUEUE) == taken
        queue.mend()
        await daemon.emptied(60)
        assert done(daemon) == 900


async def test_a_failing_clean_up_stops_no_message(
    queue: MemoryQueue, store: MemoryStore, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If pruning fails, that is logged once, and messages are handled as usual."""
    tries = 0

    async def broken(**_: object) -> int:
        nonlocal tries
        tries += 1
        raise StoreError("no room to delete in")

    with capture_logs() as lines:
        async with serve(handlers(Cover=nothing)) as daemon:
            monkeypatch.setattr(daemon.app.lanes[0].store.ledger, "prune", broken)
            await anyio.sleep(3600)
            assert 2 <= tries <= 70
            fill(queue, range(20))
            await daemon.emptied(10)
            assert all(check.ok for check in daemon.app.vitals.ready() if "prun" not in check.name)
    assert [line["log_level"] for line in loud(lines)] == ["warning"]
