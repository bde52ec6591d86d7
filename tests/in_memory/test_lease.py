"""Leases: kept from receipt to settle, handed over, distinguished when lost."""

from __future__ import annotations

import asyncio
import math
import time

import anyio
import pytest

from consumer.cloud.messages import Receipt
from consumer.engine.outcome import Returned
from consumer.errors import Fault
from consumer.plugin.handler import Job, Limits, Note, Retry, build
from consumer.plugin.registry import Registry
from consumer.store.ledger import Claimed
from tests.engine.rig import Runs, body, handlers, message
from tests.in_memory.clock import Clock
from tests.in_memory.queue import MemoryQueue
from tests.in_memory.rig import Daemon, Serve

QUEUE = "jobs"
VISIBILITY_S = 30
STEP_S = 60


def registry(runs: Runs, **limits: int) -> Registry:
    async def cover(job: Job) -> None:
        await runs.once()

    return Registry({"Cover": build(cover, Note("Cover", Limits(timeout_s=7200, **limits)))})


def renewals(daemon: Daemon, result: str) -> float:
    return daemon.count("lease_renewals_total", queue=QUEUE, result=result)


async def test_a_handler_longer_than_the_visibility_runs_once(queue: MemoryQueue, serve: Serve) -> None:
    """A handler that runs longer than the queue's visibility timeout keeps its message and runs once."""
    runs = Runs(1200)
    queue.put(body())
    async with serve(registry(runs)) as daemon:
        await daemon.emptied(1300)
        # The first one at half of the visibility, the others at half of their own step.
        assert 30 <= renewals(daemon, "renewed") <= 50
    assert (runs.begun, runs.ended) == (1, 1)
    assert set(queue.hidden_for) == {STEP_S}


async def test_a_message_that_waits_for_a_busy_handler_is_kept(queue: MemoryQueue, serve: Serve) -> None:
    """Messages that wait longer than the visibility timeout for a busy handler run once each."""
    runs = Runs(2 * VISIBILITY_S)
    for number in range(5):
        queue.put(body(f"{number:032x}"))
    async with serve(registry(runs, concurrency=1)) as daemon:
        await daemon.emptied(400)
    assert (runs.begun, runs.ended) == (5, 5)


async def test_a_renewal_whose_answer_got_lost_is_tried_again(queue: MemoryQueue, serve: Serve) -> None:
    """A renewal whose answer got lost costs no second run: the redelivery is joined to the delivery."""
    runs = Runs(300)
    queue.put(body())
    queue.fail("hide", Fault.NETWORK, after=True)
    async with serve(registry(runs)) as daemon:
        await daemon.emptied(400)
        assert renewals(daemon, "lost") == 0
    assert (runs.begun, runs.ended, runs.cut) == (1, 1, 0)


async def test_renewals_that_fail_for_a_while_lose_nothing(queue: MemoryQueue, serve: Serve) -> None:
    """Renewals answered by 503 are tried until one succeeds."""
    runs = Runs(100)
    queue.put(body())
    queue.fail("hide", times=3)
    async with serve(registry(runs)) as daemon:
        await daemon.emptied(200)
        assert renewals(daemon, "failed") == 3
        assert renewals(daemon, "renewed") >= 1
    assert (runs.begun, runs.ended) == (1, 1)


async def test_a_lease_known_lost_cancels_and_the_redelivery_runs(queue: MemoryQueue, serve: Serve) -> None:
    """If a valid receipt handle is refused, the run is cancelled, nothing is deleted, and the handler runs again."""
    runs = Runs(20)
    queue.put(body())
    queue.fail("hide", Fault.GONE)
    async with serve(registry(runs)) as daemon:
        await daemon.until(lambda: runs.cut == 1)
        assert len(queue.messages) == 1
        queue.mend()
        await daemon.emptied(200)
        assert daemon.count("jobs_total", queue=QUEUE, function="Cover", outcome="lease_lost") == 1
        assert daemon.count("jobs_total", queue=QUEUE, function="Cover", outcome="done") == 1
    assert (runs.begun, runs.cut, runs.ended) == (2, 1, 1)


@pytest.mark.parametrize("fails", [False, True], ids=["it ends well", "it raises"])
async def test_a_plain_function_keeps_its_claim_when_its_lease_is_lost(
    queue: MemoryQueue, serve: Serve, clock: Clock, *, fails: bool
) -> None:
    """A thread can't be cancelled: its job stays claimed until it ends, and its redelivery is joined to it."""
    begun: list[int] = []
    at_once = most_at_once = 0
    loop = asyncio.get_running_loop()

    def cover(job: Job) -> None:
        nonlocal at_once, most_at_once
        begun.append(job.attempt)
        at_once += 1
        most_at_once = max(most_at_once, at_once)
        clock.sleep(200 if len(begun) == 1 else 1, loop)
        at_once -= 1
        if fails and len(begun) == 1:
            raise Retry("as wanted", after_s=1)

    queue.put(body())
    queue.fail("hide", Fault.GONE)
    plain = Registry({"Cover": build(cover, Note("Cover", Limits()))})
    async with serve(plain) as daemon:
        await daemon.until(lambda: renewals(daemon, "lost") == 1)
        await daemon.emptied(600)
        assert daemon.count("jobs_total", queue=QUEUE, function="Cover", outcome="lease_lost") == 0
        assert daemon.count("jobs_total", queue=QUEUE, function="Cover", outcome="done") == 1
    assert begun == ([1, 2] if fails else [1])
    assert most_at_once == 1


async def test_nothing_waits_longer_than_it_may_be_held(queue: MemoryQueue, serve: Serve) -> None:
    """A message that waits for its turn for ``max_hold_s`` is released, without a failure."""
    runs = Runs(150)
    async with serve(registry(runs, concurrency=1), max_hold_s=200, handler_timeout_s=200) as daemon:
        for number in range(3):
            queue.put(body(f"{number:032x}"))
        await daemon.until(lambda: daemon.count("jobs_total", queue=QUEUE, function="Cover", outcome="released") == 1)
        assert (runs.begun, runs.ended) == (2, 1)
        await daemon.emptied()
        assert daemon.count("retries_total", queue=QUEUE, function="Cover", cause="failed") == 0
    assert (runs.begun, runs.ended, runs.cut) == (3, 3, 0)


async def test_renewals_ask_one_by_one_while_they_fail(queue: MemoryQueue, serve: Serve) -> None:
    """While renewals are answered by 503 many messages in flight cause few calls; afterwards all leases are kept."""
    runs = Runs(60)
    for number in range(48):
        queue.put(body(f"{number:032x}"))
    async with serve(registry(runs)) as daemon:
        await daemon.until(lambda: runs.begun == 48)
        queue.fail("hide", times=math.inf)
        await daemon.until(lambda: renewals(daemon, "failed") > 0)
        await anyio.sleep(0.2)
        before = queue.calls["hide"]
        await anyio.sleep(5)
        # The pause between probes grows to a few seconds.
        assert queue.calls["hide"] - before <= 8
        queue.mend()
        await daemon.emptied()
    assert (runs.begun, runs.ended) == (48, 48)


async def test_a_message_that_comes_back_while_it_runs_is_not_run_again(queue: MemoryQueue, serve: Serve) -> None:
    """A redelivery during the run hands its receipt handle over and causes no second run."""
    runs = Runs(50)
    kept = queue.put(body())
    async with serve(registry(runs)) as daemon:
        await daemon.until(lambda: runs.begun == 1)
        # As when MNS hands it out twice.
        kept.visible_at = time.monotonic()
        queue.put(b"wakes the poll")
        await daemon.until(lambda: daemon.count("messages_received_total", queue=QUEUE) == 3)
        await daemon.until(lambda: runs.ended == 1)
        await daemon.emptied()
        assert renewals(daemon, "lost") == 0
    assert runs.begun == 1
    assert len(daemon.store.done) == 1


async def test_full_slots_of_long_handlers_repeat_nothing(queue: MemoryQueue, serve: Serve) -> None:
    """200 messages whose handlers take ten times the visibility timeout, in as many slots: each runs once."""
    runs = Runs(10 * VISIBILITY_S)
    for number in range(200):
        queue.put(body(f"{number:032x}"))
    async with serve(registry(runs), slots=200) as daemon:
        await daemon.emptied()
    assert (runs.begun, runs.ended) == (200, 200)


async def test_a_lost_lease_keeps_the_claim_until_the_handler_has_cleaned_up(queue: MemoryQueue, serve: Serve) -> None:
    """While a cancelled handler cleans up, another message of its job is not handled; afterwards it is."""
    events: list[str] = []

    async def cover(job: Job) -> None:
        is_first = not events
        events.append("begun")
        try:
            await anyio.sleep(250 if is_first else 1)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(100 if is_first else 0)
            events.append("cleaned up")

    kept = queue.put(body())
    async with serve(handlers(Cover=cover)) as daemon:
        await daemon.until(lambda: events)
        # Another consumer hides the message: our receipt is dead, the next renewal is refused.
        assert kept.handle is not None
        await queue.hide(kept.handle, 20)
        await daemon.emptied()
    assert events == ["begun", "cleaned up", "begun", "cleaned up"]


async def test_each_redelivery_joins_the_delivery_that_goes_on(queue: MemoryQueue, serve: Serve) -> None:
    """A redelivery that could not join a settled delivery is a delivery of its own, and the next one joins it."""
    async with serve(registry(Runs(1))) as daemon:
        lane = daemon.app.lanes[0]
        first, second, third = (lane.receive(message(handle)) for handle in ("1", "2", "3"))
        assert not await lane.rejoin(first)
        first.close()
        assert not await lane.rejoin(second)
        assert await lane.rejoin(third)
        assert second.receipt.handle == "3"
        for delivery in (first, second, third):
            lane.leases.drop(delivery)


async def test_a_claim_that_settling_has_ended_is_not_lost(
    queue: MemoryQueue, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A renewal that meets a delivery whose claim its own end has just removed reports no loss."""

    async def hide(handle: str, seconds: int) -> Receipt:
        return Receipt(f"{handle}+", time.monotonic() + seconds)

    monkeypatch.setattr(queue, "hide", hide)
    async with serve(registry(Runs(1))) as daemon:
        lane = daemon.app.lanes[0]
        delivery = lane.receive(message("1"))
        delivery.asks_for("no such claim")
        delivery.claim_granted(Claimed())
        lane.leases.keep(delivery)
        delivery.finish(Returned())
        await lane.leases._renew(delivery)
        lane.leases.drop(delivery)
        assert renewals(daemon, "lost") == 0
