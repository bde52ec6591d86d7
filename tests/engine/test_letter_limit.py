"""The limit of dead letters: polling pauses, nothing is deleted, and polling continues when there is room."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import cast

import anyio
import pytest
from structlog.testing import capture_logs

from consumer.config import Policy
from consumer.engine import store_access
from consumer.engine.store_access import LetterLimit, StoreAccess
from consumer.errors import StoreError
from consumer.ops.metrics import Metrics
from consumer.plugin.handler import Job, Reject
from consumer.policy import Reason
from consumer.sandbox import Sandbox
from consumer.store.ledger import Claimed, Filter, Ledger, LettersHeld, WaitingLetters
from consumer.store.open import make_operators
from tests.engine.rig import QUEUE, Daemon, Serve, body, handlers
from tests.postgres import ADDRESS, store_at

FULL = "dead letters reached their limit; polling pauses until there is room"
ROOM = "there is room for dead letters again; polling resumes"


class Counted:
    """A store that only counts."""

    def __init__(self, letters: int = 0, size_bytes: int = 0) -> None:
        self.held = LettersHeld(letters, size_bytes)
        self.asked = 0
        self.broken = False

    async def ping(self) -> None:
        """It works."""

    async def waiting(self) -> Sequence[WaitingLetters]:
        self.asked += 1
        if self.broken:
            raise StoreError("gone")
        letters, size_bytes = self.held.letters, self.held.size_bytes
        return [WaitingLetters("1/r/jobs", Reason.REJECTED, letters, size_bytes, 1.0)] if letters or size_bytes else []


def limits(letters: int, size_bytes: int) -> Policy:
    """A policy with limits smaller than the settings allow."""
    return Policy().model_copy(update={"dead_letters_max": letters, "dead_letters_max_bytes": size_bytes})


def limit_of(store: Counted, letters: int = 10, size_bytes: int = 1000) -> LetterLimit:
    access = StoreAccess(cast("Ledger", store))
    return LetterLimit(access, limits(letters, size_bytes), Metrics())


def store_one(limit: LetterLimit, size_bytes: int = 0) -> bool:
    if taken := limit.take(size_bytes):
        limit.settled(size_bytes)
    return taken


def unready(daemon: Daemon) -> Mapping[str, str]:
    return {check.name: check.detail for check in daemon.app.vitals.ready() if not check.ok}


async def purge(daemon: Daemon) -> None:
    """Purge the dead letters, as an operator does from another process."""
    operators = make_operators(daemon.app.settings.store_address())
    await operators.purge(Filter())
    await operators.close()


async def test_polling_pauses_at_the_limit(
    sandbox: Sandbox, serve: Serve, store: Mapping[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the limit messages stay in the queue, good ones too; once letters are purged all are handled, each once."""
    monkeypatch.setattr(store_access, "_COUNT_AT_LIMIT_EVERY_S", 0.1)
    runs: list[str] = []

    async def cover(job: Job) -> None:
        runs.append(job.job_id)
        if job.job_id.startswith("b"):
            raise Reject("bad")

    with capture_logs() as lines:
        async with serve(handlers(Cover=cover), dead_letters_max=3, wait_s=1, **store) as daemon:
            for number in range(3):
                sandbox.put(QUEUE, body(f"b{number:031x}").decode())
            await daemon.until(lambda: daemon.app.vitals._letters.is_full)
            await daemon.emptied()
            await anyio.sleep(1.2)
            before = sandbox.log.by_operation["BatchReceiveMessage"]
            for number in range(6):
                sandbox.put(QUEUE, body(f"{number:032x}").decode())
            await anyio.sleep(0.5)
            assert sandbox.log.by_operation["BatchReceiveMessage"] == before
            assert len(sandbox.messages(QUEUE)) == 6
            assert list(unready(daemon)) == ["dead letters"]
            assert "polling pauses until some are replayed or purged" in unready(daemon)["dead letters"]
            assert all(check.ok for check in daemon.app.vitals.live())
            assert (daemon.count("dead_letters_full"), daemon.count("dead_letters_stored")) == (1, 3)
            assert daemon.count("dead_letters_stored_bytes") > 100
            assert daemon.count("dead_letters_limit_ratio") == 1
            await daemon.until(lambda: daemon.count("dead_letters_waiting", queue=QUEUE, reason="rejected") == 3)
            assert 0 < time.time() - daemon.count("dead_letters_oldest_timestamp_seconds", queue=QUEUE) < 60
            await purge(daemon)
            await daemon.emptied()
            assert unready(daemon) == {}
            assert (daemon.count("dead_letters_full"), daemon.count("dead_letters_stored")) == (0, 0)
            assert daemon.count("dead_letters_waiting", queue=QUEUE, reason="rejected") == 0
    assert sorted(runs) == sorted([f"b{n:031x}" for n in range(3)] + [f"{n:032x}" for n in range(6)])
    assert [line["event"] for line in lines if line["event"] in {FULL, ROOM}] == [FULL, ROOM]


async def test_what_is_in_flight_at_the_limit_is_given_back(
    sandbox: Sandbox, serve: Serve, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of ten messages to set aside at once, as many are as there is room; the others stay in the queue."""
    monkeypatch.setattr(store_access, "_HIDE_S", (1, 1))
    monkeypatch.setattr(store_access, "_COUNT_AT_LIMIT_EVERY_S", 0.1)
    begun, refuse = 0, anyio.Event()

    async def cover(job: Job) -> None:
        nonlocal begun
        begun += 1
        await refuse.wait()
        raise Reject("bad")

    for number in range(10):
        sandbox.put(QUEUE, body(f"{number:032x}").decode())
    async with serve(handlers(Cover=cover), dead_letters_max=6, wait_s=1, store=store_at(ADDRESS, schema)) as daemon:
        await daemon.until(lambda: begun == 10)
        refuse.set()
        labels = {"queue": QUEUE, "function": "Cover"}
        await daemon.until(lambda: daemon.count("retries_total", **labels, cause="no_room") == 4)
        await daemon.until(lambda: daemon.count("dead_letters_total", **labels, reason="rejected") == 6)
        await daemon.until(lambda: len(sandbox.messages(QUEUE)) == 4)
        ledger = daemon.app.lanes[0].store.ledger
        kept = [key for key in keys(daemon) if isinstance(await ledger.claim(key, 60), Claimed)]
        assert len(kept) == 4
        for key in kept:
            await ledger.release(key)
        held = LettersHeld.of(await ledger.waiting())
        await daemon.until(lambda: daemon.app.vitals._letters.held == held)
        await purge(daemon)
        await daemon.emptied()
        assert LettersHeld.of(await ledger.waiting()).letters == 4


def keys(daemon: Daemon) -> list[str]:
    identity = daemon.app.lanes[0].identity
    return [f"{identity}|IProduction|{number:032x}" for number in range(10)]


async def test_a_store_that_is_full_at_the_start(sandbox: Sandbox, serve: Serve) -> None:
    """A daemon that starts on a full store does not poll and logs why, until a reload raises the limit."""

    async def cover(job: Job) -> None:
        raise Reject("bad")

    sandbox.put(QUEUE, body().decode())
    async with serve(handlers(Cover=cover), dead_letters_max=1) as daemon:
        await daemon.emptied()
    sandbox.put(QUEUE, body("1" * 32).decode())
    async with serve(handlers(Cover=cover), dead_letters_max=1) as daemon:
        before = sandbox.log.by_operation["BatchReceiveMessage"]
        await anyio.sleep(0.3)
        assert sandbox.log.by_operation["BatchReceiveMessage"] == before
        assert "dead letters" in unready(daemon)
        raised = daemon.app.settings.model_copy(update={"dead_letters_max": 5})
        daemon.app.adopt(raised, daemon.app.registry)
        await daemon.emptied()
        assert unready(daemon) == {}


def test_own_letters_count_at_once() -> None:
    """No letter is taken beyond the number, and none once the bytes are there."""
    limit = limit_of(Counted())
    assert [store_one(limit, 1) for _ in range(12)] == [True] * 10 + [False] * 2
    limit = limit_of(Counted())
    assert [limit.take(400) for _ in range(4)] == [True, True, True, False]
    assert limit.held == LettersHeld(3, 1200)


async def test_what_is_being_stored_counts() -> None:
    """Reserved room stays reserved while the store's count lacks it, and is counted once when it is stored."""
    store = Counted()
    limit = limit_of(store, letters=2)
    assert limit.take(5)
    assert limit.take(5)
    await limit.count()
    assert limit.is_full
    assert limit.held == LettersHeld(2, 10)
    limit.settled(5)
    limit.settled(5)
    store.held = LettersHeld(2, 10)
    await limit.count()
    assert limit.held == LettersHeld(2, 10)


async def test_what_others_store_is_seen_at_the_next_count() -> None:
    """Other daemons' letters fill the store, too; operators' purges empty it, below 95 % of the limit."""
    store = Counted(letters=4)
    limit = limit_of(store, letters=100)
    await limit.count()
    assert store_one(limit)
    assert limit.held.letters == 5
    for letters, full in ((99, False), (100, True), (96, True), (95, False), (150, True), (0, False)):
        store.held = LettersHeld(letters, 0)
        await limit.count()
        assert limit.is_full == full
    store.held = LettersHeld(0, 1000)
    await limit.count()
    assert limit.is_full
    limit.adopt(limits(100, 2000))
    assert not limit.is_full


async def test_when_it_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is counted at times, sooner once a hundredth of the limit was stored here, and a fault is logged once."""
    store = Counted()
    limit = limit_of(store, letters=1000)
    with capture_logs() as lines:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(limit.run)
            for _ in range(9):
                store_one(limit)
            await anyio.sleep(0.02)
            assert store.asked == 0
            store_one(limit)
            await anyio.sleep(0.02)
            assert store.asked == 1
            assert limit.held == LettersHeld(0, 0)
            store.broken = True
            monkeypatch.setattr(store_access, "_COUNT_EVERY_S", 0.01)
            for _ in range(10):
                store_one(limit)
            await anyio.sleep(0.02)
            assert store.asked == 2
            assert limit.held == LettersHeld(10, 0)
            store.broken = False
            with anyio.fail_after(3):
                while store.asked < 4:  # noqa: ASYNC110 - the store has no event
                    await anyio.sleep(0.01)
            tasks.cancel_scope.cancel()
    assert [line["event"] for line in lines] == [
        "dead letters can't be counted; the last count stands",
        "dead letters are counted again",
    ]
