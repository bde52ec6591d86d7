"""The life of a delivery over days: retries, retention, duplicates, claims of other daemons."""

from __future__ import annotations

import base64
import io
import json
import time
from datetime import UTC, datetime

import anyio
import pytest

from consumer.engine.delivery import Delivery
from consumer.engine.lane import Lane
from consumer.errors import StoreError
from consumer.ops import logs
from consumer.plugin.handler import Job, Reject, Retry, Wait
from consumer.policy import Reason
from tests.engine.rig import body, handlers
from tests.in_memory.ledger import MemoryStore
from tests.in_memory.queue import MemoryQueue
from tests.in_memory.rig import Serve

QUEUE = "jobs"


async def test_failures_exhaust_a_message(queue: MemoryQueue, store: MemoryStore, serve: Serve) -> None:
    """A handler that always fails runs ten times, with growing delays up to the cap, and ends as a dead letter."""
    attempts: list[int] = []

    async def cover(job: Job) -> None:
        attempts.append(job.attempt)
        raise ValueError("no")

    queue.put(body())
    async with serve(handlers(Cover=cover), retry_base_s=30, retry_cap_s=600) as daemon:
        await daemon.emptied(6000)
        assert daemon.count("retries_total", queue=QUEUE, function="Cover", cause="failed") == 9
    assert attempts == list(range(1, 11))
    (letter,) = store.dead
    assert letter.reason is Reason.EXHAUSTED
    assert "ValueError: no" in (letter.traceback or "")
    assert len(letter.error_fingerprint) == 16
    assert letter.body == body()
    caps = [min(600, 30 * 2**failures) for failures in range(9)]
    assert len(queue.hidden_for) == 9
    assert all(1 <= seconds <= cap for seconds, cap in zip(queue.hidden_for, caps, strict=True))


async def test_a_traceback_is_logged_once(queue: MemoryQueue, serve: Serve) -> None:
    """The first failure of each kind is logged with its traceback, and with what MPS said of the job; no other is."""

    async def cover(job: Job) -> None:
        raise ValueError("first" if job.attempt < 3 else "second")

    stream = io.StringIO()
    logs.configure("debug", stream=stream)
    queue.put(body())
    async with serve(handlers(Cover=cover), max_failures=5) as daemon:
        await daemon.emptied(60_000)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    started = [line for line in lines if line["event"] == "handler started"]
    assert [(line["job_id"], line["attempt"]) for line in started] == [("a" * 32, number) for number in range(1, 6)]
    ends = [line for line in lines if line["event"] in {"retry scheduled", "moved to dead letters"}]
    assert {line["state"] for line in ends} == {"Success"}
    raised = [line["exception"][0]["exc_value"] if "exception" in line else None for line in ends]
    assert raised == ["first", None, "second", None, None]
    assert ends[0]["exception"][0]["frames"][-1]["name"] == "cover"


async def test_a_retry_comes_when_it_was_asked_for(queue: MemoryQueue, serve: Serve) -> None:
    """``Retry(after_s=...)`` hides the message for that long, and the next run is the second attempt."""
    runs: list[tuple[int, float]] = []

    async def cover(job: Job) -> None:
        runs.append((job.attempt, time.monotonic()))
        if job.attempt == 1:
            raise Retry("later", after_s=1000)

    queue.put(body())
    async with serve(handlers(Cover=cover)) as daemon:
        await daemon.emptied(1100)
    (first, began_s), (second, again_s) = runs
    assert (first, second) == (1, 2)
    assert 1000 <= again_s - began_s <= 1002


async def test_a_handler_may_wait_for_a_day(queue: MemoryQueue, store: MemoryStore, serve: Serve) -> None:
    """``Wait`` hides the message until its time, 12 h at most, as often as needed, and counts as no failure."""
    runs: list[tuple[int, float]] = []
    begun_s = time.time()

    async def cover(job: Job) -> None:
        runs.append((job.attempt, time.time() - begun_s))
        if time.time() < begun_s + 90_000:
            raise Wait(until=datetime.fromtimestamp(begun_s + 90_000, UTC))

    queue.put(body())
    async with serve(handlers(Cover=cover), max_failures=1) as daemon:
        await daemon.emptied(100_000)
        assert daemon.count("retries_total", queue=QUEUE, function="Cover", cause="waiting") == 3
    assert len(store.done) == 1
    assert [attempt for attempt, _ in runs] == [1] * 4
    assert [round(at_s, -2) for _, at_s in runs] == [0, 43_200, 86_400, 90_000]


async def test_what_would_come_back_too_late_is_set_aside(queue: MemoryQueue, store: MemoryStore, serve: Serve) -> None:
    """A message whose retry would come after the queue's retention becomes a dead letter before MNS drops it."""
    queue.retention_s = 3600

    async def cover(job: Job) -> None:
        raise Retry("later", after_s=1500)

    queue.put(body())
    async with serve(handlers(Cover=cover)) as daemon:
        await daemon.until(lambda: store.dead, 3500)
        await daemon.emptied(5)
    assert [letter.reason for letter in store.dead] == [Reason.EXPIRING]


async def test_a_day_of_failures_drops_nothing(queue: MemoryQueue, store: MemoryStore, serve: Serve) -> None:
    """Fifty jobs whose handler fails for hours are all done once it works again; none is dropped or repeated."""
    is_broken = True
    done: list[str] = []

    async def cover(job: Job) -> None:
        if is_broken:
            raise Retry("its database is down", after_s=600)
        done.append(job.job_id)

    for number in range(50):
        queue.put(body(f"{number:032x}"))
    async with serve(handlers(Cover=cover), max_failures=1000) as daemon:
        await anyio.sleep(2 * 3600)
        assert len(queue.messages) == 50
        is_broken = False
        await daemon.emptied(700)
    assert len(done) == len(set(done)) == 50
    assert not store.dead


async def test_two_messages_of_a_job_are_one_run(queue: MemoryQueue, store: MemoryStore, serve: Serve) -> None:
    """A duplicate that arrives during the run waits for its end, and is then only deleted."""
    runs = 0

    async def cover(job: Job) -> None:
        nonlocal runs
        runs += 1
        await anyio.sleep(100)

    queue.put(body())
    queue.put(body())
    async with serve(handlers(Cover=cover)) as daemon:
        await daemon.emptied(400)
        assert daemon.count("jobs_total", queue=QUEUE, function="Cover", outcome="duplicate") == 1
    assert runs == 1
    assert len(store.done) == 1


async def test_a_fleet_runs_each_job_once(queue: MemoryQueue, store: MemoryStore, serve: Serve) -> None:
    """Two daemons on one queue and one store share the work; each of 200 jobs, half of them sent twice, runs once."""
    runs: list[str] = []

    async def cover(job: Job) -> None:
        await anyio.sleep(5)
        runs.append(job.job_id)

    for number in range(200):
        for _ in range(1 + number % 2):
            queue.put(body(f"{number:032x}"))
    async with serve(handlers(Cover=cover)) as one, serve(handlers(Cover=cover)) as other:
        await one.emptied(900)
        shares = [daemon.count("jobs_total", queue=QUEUE, function="Cover", outcome="done") for daemon in (one, other)]
    assert len(runs) == len(set(runs)) == 200
    assert sum(shares) == 200
    assert min(shares) > 20
    assert len(store.done) == 200


async def test_a_claim_that_was_taken_over_ends_the_run(queue: MemoryQueue, store: MemoryStore, serve: Serve) -> None:
    """When another daemon has the claim, the run is cancelled, nothing is stored, and the message stays."""
    begun = anyio.Event()
    cut: list[str] = []

    async def cover(job: Job) -> None:
        begun.set()
        try:
            await anyio.sleep(250)
        except anyio.get_cancelled_exc_class():
            cut.append(job.job_id)
            raise

    queue.put(body())
    async with serve(handlers(Cover=cover)) as daemon:
        await begun.wait()
        ((_, claim),) = store.open_keys.items()
        claim.holder, claim.held_until = store.ledger(), time.monotonic() + 10_000
        await daemon.until(lambda: cut, 100)
        await anyio.sleep(5)
        assert len(queue.messages) == 1
        assert not store.ended
        assert queue.calls["delete"] == 0
    assert len(cut) == 1


@pytest.mark.parametrize("seconds", [1, 250])
async def test_a_job_whose_claim_the_store_has_lost_runs_again(
    queue: MemoryQueue, store: MemoryStore, serve: Serve, seconds: int
) -> None:
    """After a failover that lost a claim, its run settles nothing; the message comes again and its job ends once."""
    begun: list[int] = []

    async def cover(job: Job) -> None:
        begun.append(job.attempt)
        await anyio.sleep(seconds)

    queue.put(body())
    async with serve(handlers(Cover=cover)) as daemon:
        await daemon.until(lambda: begun)
        store.open_keys.clear()
        await daemon.until(lambda: len(begun) == 2)
        assert not store.ended
        assert queue.calls["delete"] == 0
        await daemon.emptied()
    assert len(store.done) == 1
    assert begun == [1, 1]


async def test_an_end_is_left_to_the_daemon_that_took_over(
    queue: MemoryQueue, store: MemoryStore, serve: Serve
) -> None:
    """A handler that ends after another daemon took the claim over settles nothing: the message is that daemon's."""
    begun = anyio.Event()

    async def cover(job: Job) -> None:
        begun.set()
        await anyio.sleep(1)
        raise Reject("never")

    queue.put(body())
    async with serve(handlers(Cover=cover)) as daemon:
        await begun.wait()
        ((_, claim),) = store.open_keys.items()
        claim.holder, claim.held_until = store.ledger(), time.monotonic() + 10_000
        await anyio.sleep(5)
        assert len(queue.messages) == 1
        assert not store.dead
        assert daemon.count("jobs_total", queue=QUEUE, function="Cover", outcome="lease_lost") == 1


@pytest.mark.parametrize("seconds", [1, 60, 300])
async def test_the_store_comes_and_goes(queue: MemoryQueue, store: MemoryStore, serve: Serve, seconds: int) -> None:
    """With repeated short outages of the store each job still runs once and ends as done."""
    runs: list[str] = []

    async def cover(job: Job) -> None:
        await anyio.sleep(2)
        runs.append(job.job_id)

    async with serve(handlers(Cover=cover)) as daemon:
        for number in range(40):
            queue.put(body(f"{number:032x}"))
            store.down = StoreError("gone") if number % 10 in {3, 4, 5} else None
            await anyio.sleep(seconds)
        await daemon.emptied(600)
    assert len(runs) == len(set(runs)) == 40
    assert len(store.done) == 40


async def test_the_true_message_after_a_forged_one_counts_its_failures(
    queue: MemoryQueue, store: MemoryStore, serve: Serve
) -> None:
    """A job that a forged message has ended runs again for the true one: with its own attempts, to its own end."""
    attempts: list[int] = []

    async def cover(job: Job) -> None:
        if job.user_data == "true":
            attempts.append(job.attempt)
            raise ValueError("no")

    async with serve(handlers(Cover=cover), max_failures=3) as daemon:
        daemon.mps.add("a" * 32, user_data="true")
        queue.put(body(UserData="forged"))
        await daemon.emptied()
        queue.put(body(UserData="true"))
        await daemon.emptied(1000)
    assert attempts == [1, 2, 3]
    (letter,) = store.dead
    assert letter.reason is Reason.EXHAUSTED


async def test_a_job_that_mps_fails_for_is_given_up_also_after_a_forged_end(
    queue: MemoryQueue, store: MemoryStore, serve: Serve
) -> None:
    """A true message whose job a forged one has ended counts the failures of MPS, and is set aside in the end."""

    async def cover(job: Job) -> None:
        """Does nothing."""

    async with serve(handlers(Cover=cover), max_failures=3) as daemon:
        daemon.mps.bad.add("a" * 32)
        queue.put(body(UserData="forged"))
        await daemon.emptied()
        queue.put(body(UserData="true"))
        await daemon.emptied(1000)
    (letter,) = store.dead
    assert letter.reason is Reason.UNANSWERED


async def test_a_bug_before_the_claim_is_given_up_too(
    queue: MemoryQueue, store: MemoryStore, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An internal error that comes before the job is claimed is counted for its message, which is set aside."""

    async def cover(job: Job) -> None:
        """Does nothing."""

    async with serve(handlers(Cover=cover), max_failures=3) as daemon:

        def broken(_lane: Lane, _delivery: Delivery) -> object:
            raise RuntimeError("a bug")

        monkeypatch.setattr(Lane, "route", broken)
        queue.put(body())
        await daemon.emptied(1000)
    (letter,) = store.dead
    assert letter.reason is Reason.EXHAUSTED
    assert "a bug" in (letter.traceback or "")


async def test_the_type_of_an_unknown_message_is_no_function_name(
    queue: MemoryQueue, store: MemoryStore, serve: Serve
) -> None:
    """A message of an unknown Type that has a function's name is not counted for that function."""

    async def cover(job: Job) -> None:
        raise AssertionError

    queue.put(base64.b64encode(b'{"Type": "Cover", "Id": 1}'))
    async with serve(handlers(Cover=cover)) as daemon:
        await daemon.emptied()
        assert daemon.count("dead_letters_total", queue=QUEUE, function="Cover", reason="unrouted") == 0
    assert len(store.dead) == 1
