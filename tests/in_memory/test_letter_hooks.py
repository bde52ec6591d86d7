"""The hook of dead letters: called for each letter until it succeeds, whatever fails in between."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import anyio
import pytest
from structlog.testing import capture_logs

from consumer.errors import StoreError
from consumer.plugin.handler import Job, Reject
from consumer.plugin.letter_hook import Letter, build_letter_hook, on_dead_letter
from consumer.plugin.registry import Registry
from consumer.store.ledger import DeadLetterRecord, LetterState, StoredLetter
from tests.engine.rig import body, handlers
from tests.in_memory.ledger import MemoryOperators, MemoryStore
from tests.in_memory.queue import MemoryQueue
from tests.in_memory.rig import Daemon, Serve
from tests.store.records import letter, record

IDENTITY = "1/cn-hangzhou/jobs"


async def rejects(job: Job) -> None:
    """Rejects."""
    raise Reject("not this one")


def hooked(hook: Callable[[Letter], Awaitable[None]], *, timeout_s: float = 30.0) -> Registry:
    """A handler that rejects, and a hook."""
    marked = on_dead_letter(timeout_s=timeout_s)(hook)
    return replace(handlers(Cover=rejects), letter_hook=build_letter_hook(marked))


def due(store: MemoryStore) -> int:
    """The letters whose hook is due, now or later."""
    return sum(one.letter.hook_at is not None for one in store.letters.values())


def put_letters(store: MemoryStore, count: int) -> None:
    """Put in letters whose hook is due, as a daemon left them that was killed."""
    for number in range(count):
        key = f"k{number}"
        made: DeadLetterRecord = replace(letter(key), job=record(key, queue=IDENTITY), hook_at=0.0)
        _store(store, made)


def _store(store: MemoryStore, made: DeadLetterRecord) -> None:
    store.last_letter += 1
    store.letters[store.last_letter] = StoredLetter(store.last_letter, made, LetterState.SET_ASIDE, time.time())


def calls(daemon: Daemon, result: str) -> float:
    """How many calls ended so."""
    return daemon.count("letter_hooks_total", queue="jobs", result=result)


async def test_a_hook_is_called_once_for_each_letter(queue: MemoryQueue, store: MemoryStore, serve: Serve) -> None:
    """Each dead letter is given to the hook once, whole, and messages that end well are not."""
    seen: list[Letter] = []

    async def notify(letter: Letter) -> None:
        seen.append(letter)

    async with serve(hooked(notify)) as daemon:
        for number in range(6):
            queue.put(body(f"{number:032x}", UserData='{"film": 7}', State="Success"))
        queue.put(body("f" * 32, "NoSuchFunction"))
        await daemon.until(lambda: len(seen) == 7, within_s=5)
        await anyio.sleep(4000)
        assert len(seen) == 7
        assert calls(daemon, "done") == 7
    assert due(store) == 0
    by_id = {one.id: one for one in seen}
    assert sorted(by_id) == sorted(store.letters)
    first = next(one for one in seen if one.job_id == f"{0:032x}")
    stored = store.letters[first.id]
    assert (first.reason, first.error, first.function) == ("rejected", "not this one", "Cover")
    assert (first.queue, first.state, first.user_data) == ("jobs", "Success", {"film": 7})
    assert (first.attempts, first.body) == (1, stored.letter.body)
    assert first.stored_at.timestamp() == pytest.approx(stored.stored_at)
    assert {one.reason for one in seen} == {"rejected", "unrouted"}


async def test_without_a_hook_none_is_due(queue: MemoryQueue, store: MemoryStore, serve: Serve) -> None:
    """Without a hook no letter waits for one, and the store is never asked for such."""
    async with serve(handlers(Cover=rejects)) as daemon:
        queue.put(body())
        await daemon.until(lambda: store.letters)
        await anyio.sleep(600)
        assert "take_due_hooks" not in store.writes
    assert due(store) == 0


async def test_a_failing_hook_is_called_again(queue: MemoryQueue, store: MemoryStore, serve: Serve) -> None:
    """A hook that raises is logged with its traceback and called again with growing pauses until it succeeds."""
    times: list[float] = []

    async def notify(_: Letter) -> None:
        times.append(asyncio.get_running_loop().time())
        if len(times) < 6:
            raise ConnectionError("no route")

    with capture_logs() as logs:
        async with serve(hooked(notify)) as daemon:
            queue.put(body())
            await daemon.until(lambda: len(times) == 6, within_s=40_000)
            await daemon.until(lambda: not due(store))
            assert (calls(daemon, "failed"), calls(daemon, "done")) == (5, 1)
    pauses = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert 60 <= pauses[0] <= 121
    assert pauses[-1] > 4 * pauses[0]
    failed = [line for line in logs if line["event"] == "dead-letter hook failed"]
    assert len(failed) == 5
    assert {line["error"] for line in failed} == {"ConnectionError: no route"}
    assert [isinstance(line["exc_info"], ConnectionError) for line in failed] == [True, False, False, False, False]


async def test_a_late_hook_is_cancelled_and_called_again(queue: MemoryQueue, store: MemoryStore, serve: Serve) -> None:
    """A hook that exceeds its time limit is cancelled once, logged with where it waited, and called again."""
    cancelled = 0
    calls_begun = 0

    async def notify(_: Letter) -> None:
        nonlocal cancelled, calls_begun
        calls_begun += 1
        try:
            await anyio.sleep(3600 if calls_begun == 1 else 1)
        except asyncio.CancelledError:
            cancelled += 1
            raise

    with capture_logs() as logs:
        async with serve(hooked(notify, timeout_s=5)) as daemon:
            queue.put(body())
            await daemon.until(lambda: calls_begun == 2)
            await daemon.until(lambda: not due(store))
            assert (calls(daemon, "timed_out"), calls(daemon, "done")) == (1, 1)
    assert cancelled == 1
    (line,) = [line for line in logs if line["event"] == "dead-letter hook failed"]
    assert line["error"] == "TimeoutError: the hook still ran after 5 s, its time limit"
    cause = line["exc_info"].__cause__
    assert "notify" in [frame.f_code.co_name for frame in _frames(cause)]


def _frames(error: BaseException) -> list[Any]:
    trace, found = error.__traceback__, []
    while trace is not None:
        found.append(trace.tb_frame)
        trace = trace.tb_next
    return found


async def test_an_exit_of_a_hook_does_not_end_the_daemon(queue: MemoryQueue, serve: Serve) -> None:
    """A hook that raises what is no ``Exception``, or is cancelled by what it awaits, counts as failed."""
    seen: list[int] = []

    async def notify(letter: Letter) -> None:
        seen.append(letter.id)
        if letter.id == 1:
            raise SystemExit(3)
        waiting = asyncio.get_running_loop().create_future()
        waiting.cancel()
        await waiting

    async with serve(hooked(notify)) as daemon:
        queue.put(body("1" * 32))
        queue.put(body("2" * 32))
        await daemon.until(lambda: {1, 2} <= set(seen))
        await daemon.until(lambda: calls(daemon, "failed") >= 2)
        assert not daemon.ended.is_set()


async def test_letters_of_a_killed_daemon_are_given_to_the_next(store: MemoryStore, serve: Serve) -> None:
    """Letters whose hook was due when a daemon died are given to the next one's, a few at a time."""
    put_letters(store, 10)
    running = most = 0
    notified: list[int] = []

    async def notify(letter: Letter) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await anyio.sleep(1)
        running -= 1
        notified.append(letter.id)

    async with serve(hooked(notify)) as daemon:
        await daemon.until(lambda: len(notified) == 10, within_s=60)
        assert sorted(notified) == list(range(1, 11))
        assert most == 4
        assert sorted(store.letters) == sorted(notified)


async def test_letters_of_other_queues_are_left_alone(store: MemoryStore, serve: Serve) -> None:
    """On a shared store a daemon's hook gets only the letters of its own queues."""
    _store(store, replace(letter("k"), hook_at=0.0))
    notified: list[int] = []

    async def notify(letter: Letter) -> None:
        notified.append(letter.id)

    async with serve(hooked(notify)):
        await anyio.sleep(200)
    assert (notified, due(store)) == ([], 1)


async def test_a_hook_whose_service_is_down_tries_few_letters(store: MemoryStore, serve: Serve) -> None:
    """While no call succeeds, four letters a minute are tried; afterwards all get theirs at once."""
    put_letters(store, 40)
    is_down = True
    tried: list[int] = []

    async def notify(letter: Letter) -> None:
        tried.append(letter.id)
        if is_down:
            raise ConnectionError("down")

    async with serve(hooked(notify)) as daemon:
        await anyio.sleep(130)
        assert len(tried) == 12
        is_down = False
        await daemon.until(lambda: len(tried) > 12 and not due(store), within_s=4000)


async def test_a_replayed_letter_is_given_to_no_hook(store: MemoryStore, serve: Serve) -> None:
    """A letter that is replayed while its hook fails is not given to the hook again."""
    put_letters(store, 1)
    tried: list[int] = []

    async def notify(letter: Letter) -> None:
        tried.append(letter.id)
        raise ConnectionError("down")

    async with serve(hooked(notify)) as daemon:
        await daemon.until(lambda: tried)
        await MemoryOperators(store).begin_replay(1)
        await anyio.sleep(4 * 3600)
    assert tried == [1]


async def test_a_hook_waits_while_the_store_is_down(store: MemoryStore, serve: Serve) -> None:
    """While the store is down a hook that has succeeded is not called again, and the log has the outage alone."""
    put_letters(store, 1)
    notified: list[int] = []

    async def notify(letter: Letter) -> None:
        notified.append(letter.id)
        store.down = StoreError("gone")

    with capture_logs() as logs:
        async with serve(hooked(notify)) as daemon:
            await daemon.until(lambda: notified)
            await anyio.sleep(1800)
            store.down = None
            await daemon.until(lambda: not due(store))
    assert notified == [1]
    events = [line["event"] for line in logs if line["log_level"] == "warning"]
    assert events == ["store failed; polling pauses until it works"]


async def test_a_reload_brings_and_removes_a_hook(queue: MemoryQueue, store: MemoryStore, serve: Serve) -> None:
    """A hook that a reload brings is called for letters stored since, until another reload removes it."""
    notified: list[str] = []

    async def notify(letter: Letter) -> None:
        notified.append(letter.job_id)

    async with serve(handlers(Cover=rejects)) as daemon:
        for number, registry in enumerate([handlers(Cover=rejects), hooked(notify), handlers(Cover=rejects)], start=1):
            daemon.app.adopt(daemon.app.settings, registry)
            queue.put(body(str(number) * 32))
            await daemon.until(lambda wanted=number: len(store.letters) == wanted)  # type: ignore[misc]
            await anyio.sleep(100)
    assert notified == ["2" * 32]
    assert due(store) == 0


async def test_a_reload_with_a_hook_calls_it_for_what_is_due(store: MemoryStore, serve: Serve) -> None:
    """Letters that still wait for a hook are given to the one that a reload brings, at once."""
    put_letters(store, 1)
    notified: list[int] = []

    async def notify(letter: Letter) -> None:
        notified.append(letter.id)

    async with serve(handlers(Cover=rejects)) as daemon:
        await anyio.sleep(200)
        daemon.app.adopt(daemon.app.settings, hooked(notify))
        await daemon.until(lambda: notified, within_s=1)


async def test_a_stop_lets_a_hook_finish(store: MemoryStore, serve: Serve) -> None:
    """A stop waits for the calls under way and begins no other; the rest is still due."""
    put_letters(store, 6)
    begun, notified = 0, 0

    async def notify(_: Letter) -> None:
        nonlocal begun, notified
        begun += 1
        await anyio.sleep(10)
        notified += 1

    async with serve(hooked(notify)) as daemon:
        await daemon.until(lambda: begun == 4)
        assert 8 <= await daemon.stop() <= 11
    assert (begun, notified, due(store)) == (4, 4, 2)


async def test_a_stop_cuts_a_hook_at_its_deadline(store: MemoryStore, serve: Serve) -> None:
    """A hook that outlasts the stop deadline is cancelled in time to clean up, counts no failure, and stays due."""
    put_letters(store, 1)
    cleaned_up = False
    begun = anyio.Event()

    async def notify(_: Letter) -> None:
        nonlocal cleaned_up
        begun.set()
        try:
            await anyio.sleep(300)
        finally:
            await anyio.sleep(0.5)
            cleaned_up = True

    async with serve(hooked(notify, timeout_s=600), stop_deadline_s=20) as daemon:
        await begun.wait()
        assert await daemon.stop() <= 20
        assert calls(daemon, "failed") == 0
    assert cleaned_up
    assert due(store) == 1


async def test_a_hook_that_can_t_be_cancelled_is_left_behind(store: MemoryStore, serve: Serve) -> None:
    """A hook that ignores its cancellation holds up no other letter; it counts as stuck while it runs."""
    put_letters(store, 5)
    notified: list[int] = []
    released = asyncio.Event()

    async def notify(letter: Letter) -> None:
        while letter.id == 1 and not released.is_set():
            try:
                await released.wait()
            except asyncio.CancelledError:
                continue
        notified.append(letter.id)

    async with serve(hooked(notify, timeout_s=1)) as daemon:
        await daemon.until(lambda: len(notified) == 4, within_s=60)
        assert daemon.count("stuck_handlers", queue="jobs") == 1
        released.set()
        await daemon.until(lambda: daemon.count("stuck_handlers", queue="jobs") == 0)
