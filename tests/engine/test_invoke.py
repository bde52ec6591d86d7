"""Calling a handler: every way in which user code can end, within its limits."""

from __future__ import annotations

import asyncio
import sys
import time
import traceback
from collections.abc import Callable

import anyio
import pytest

from consumer.engine.complete import Completed
from consumer.engine.delivery import Delivery
from consumer.engine.invoke import CallLimits, HandlerResult, Threads, invoke
from consumer.engine.outcome import Raised, Returned, TimedOut, Unprocessable
from consumer.plugin.handler import Job, Limits, Note, build
from tests.engine.rig import delivery

JOB: Job = Job(function="Cover", job_id="1", state="Success", failed=False, code=None, message=None, user_data=None)


async def call(
    function: Callable[[Job], object],
    *,
    timeout_s: float = 5,
    max_hold_s: float = 5,
    grace_s: float = 5,
    threads: Threads | None = None,
    running: Delivery | None = None,
) -> HandlerResult:
    handler = build(function, Note("Cover", Limits()))
    running = running or delivery()
    running.begin_run(handler, Completed(JOB, None, None))
    limits = CallLimits(timeout_s, max_hold_s, grace_s)
    return await invoke(handler, JOB, limits, threads or Threads(slots=4), running)


async def exits(job: Job) -> None:
    sys.exit(3)


def exits_in_a_thread(job: Job) -> None:
    sys.exit(3)


async def cancels_itself(job: Job) -> None:
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    future.cancel()
    await future


def hands_a_coroutine_on(job: Job) -> object:
    return exits(job)


@pytest.mark.parametrize(
    ("function", "error"),
    [
        pytest.param(hands_a_coroutine_on, "make it `async def`", id="a plain function that returns a coroutine"),
        pytest.param(exits, "SystemExit: 3", id="an async function that exits"),
        pytest.param(exits_in_a_thread, "SystemExit: 3", id="a plain function that exits"),
        pytest.param(cancels_itself, "cancelled", id="one that awaits something cancelled"),
    ],
)
async def test_whatever_user_code_does_is_its_own_failure(function: Callable[[Job], object], error: str) -> None:
    """A handler that exits or cancels itself has failed; the daemon lives on."""
    end = await call(function)
    assert isinstance(end, Raised)
    assert error in str(end.error)


async def raises(job: Job) -> None:
    raise KeyError(job.job_id)


def raises_in_a_thread(job: Job) -> None:
    raise KeyError(job.job_id)


@pytest.mark.parametrize("function", [raises, raises_in_a_thread])
async def test_a_traceback_begins_in_the_users_code(function: Callable[[Job], object]) -> None:
    """The traceback of a failed handler begins with the handler, and shows no line of this program."""
    result = await call(function)
    assert isinstance(result, Raised)
    frames = traceback.extract_tb(result.error.__traceback__)
    assert [frame.name for frame in frames] == [function.__name__]


async def test_a_plain_function_that_returns_late_has_still_returned() -> None:
    """A plain function past its time limit that then returns did its work: it is done."""

    def late(job: Job) -> None:
        time.sleep(0.2)

    assert await call(late, timeout_s=0.05) == Returned()


async def test_a_plain_function_that_raises_late_timed_out() -> None:
    """A plain function past its time limit that then raises counts as timed out."""

    def late(job: Job) -> None:
        time.sleep(0.2)
        raise ValueError("late")

    assert await call(late, timeout_s=0.05) == TimedOut(0.05)


async def test_stuck_threads_are_counted_until_they_end() -> None:
    """A thread that continues after its time limit is counted until it ends."""
    threads = Threads(slots=1)
    release = False

    def stuck(job: Job) -> None:
        while not release:
            time.sleep(0.01)

    assert isinstance(await call(stuck, timeout_s=0.05, max_hold_s=0.1, threads=threads), Unprocessable)
    assert threads.left_behind == 1
    assert await call(lambda job: job.job_id, threads=threads) == Returned(), "its place is free for another thread"
    release = True
    with anyio.fail_after(5):
        while threads.left_behind:  # noqa: ASYNC110 - a thread has no event to wait for
            await anyio.sleep(0.01)


async def test_cancellation_from_outside_passes_through() -> None:
    """A run that is cancelled from outside ends as cancelled, not as a failure."""
    ended = False

    async def long(job: Job) -> None:
        await anyio.sleep(60)

    with anyio.move_on_after(0.05) as scope:
        await call(long, timeout_s=60)
        ended = True
    assert scope.cancelled_caught
    assert not ended
