"""Call one handler within its limits, and say how that ended.

An async function is cancelled at its time limit. A plain function runs in a worker thread and can't be cancelled:
past its limit it is waited for, its lease and claim kept, until the most that a message may be held; then it counts as
stuck, its message is set aside and its thread is left alone.

Elsewhere: what the end leads to (``engine.outcome``), who may cut a run short (``engine.lease``, ``app``).
"""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final, cast

import anyio
import anyio.to_thread

from consumer.engine.outcome import Raised, Returned, TimedOut, Unfit
from consumer.plugin.handler import Handler
from consumer.plugin.job import Job
from consumer.policy import Reason

_RETURNED: Final = Returned()

HandlerEnd = Returned | Raised | TimedOut | Unfit


@dataclass(frozen=True, slots=True)
class CallLimits:
    """What holds for one handler, its own wishes and the settings' defaults put together.

    Args:
        timeout_s: Time for one run.
        max_hold_s: The most that its message is held.
        timed_out: The end of a run that takes longer.
    """

    timeout_s: float
    max_hold_s: float
    timed_out: TimedOut = field(init=False)

    def __post_init__(self) -> None:
        """Make that end once: each run takes it along."""
        object.__setattr__(self, "timed_out", TimedOut(self.timeout_s))


@dataclass(slots=True, eq=False)
class Threads:
    """The worker threads of plain functions.

    A stuck one gives its place back, so it is replaced by a new thread; how many are left behind is counted, and at the
    limit the daemon is no longer alive.

    Args:
        slots: Plain functions at once.
        stuck_limit: Stuck ones at which the daemon wants its own restart.
        left_behind: Threads that still run though nobody waits for them.
    """

    slots: int
    stuck_limit: int
    left_behind: int = 0
    limiter: anyio.CapacityLimiter = field(init=False)

    def __post_init__(self) -> None:
        """Open as many places as there are slots."""
        self.limiter = anyio.CapacityLimiter(self.slots)

    @property
    def exhausted(self) -> bool:
        """Whether so many are stuck that only a restart helps."""
        return self.left_behind >= self.stuck_limit


async def invoke(
    handler: Handler, job: Job[Any, Any], limits: CallLimits, threads: Threads, cut_short: Callable[[TimedOut], None]
) -> HandlerEnd:
    """Call a handler with a job.

    Args:
        handler: Which one.
        job: What it gets.
        limits: Its time.
        threads: Where plain functions run.
        cut_short: Cancels this call, as an async function's time is over: whoever calls has a scope for that already.

    Returns:
        How it ended. Cancellation passes through; a plain function's thread then runs on by itself.
    """
    if handler.is_async:
        function = cast("Callable[[Job[Any, Any]], Awaitable[object]]", handler.function)
        timer = asyncio.get_running_loop().call_later(limits.timeout_s, cut_short, limits.timed_out)
        try:
            return await _await(function, job)
        finally:
            timer.cancel()
    return await _in_thread(handler.function, job, limits, threads)


async def _await(function: Callable[[Job[Any, Any]], Awaitable[object]], job: Job[Any, Any]) -> HandlerEnd:
    try:
        await function(job)
    except anyio.get_cancelled_exc_class():
        if anyio.get_current_task().has_pending_cancellation():
            raise
        # Nobody cancelled this run: the handler awaited something of its own that was cancelled.
        return Raised(RuntimeError("the handler awaited something that was cancelled, and let that pass through"))
    except (Exception, SystemExit) as error:  # noqa: BLE001 - as said below
        # The user's code runs here: whatever it raises is an end, decided on by its type.
        return Raised(_ordinary(error))
    return _RETURNED


async def _in_thread(
    function: Callable[[Job[Any, Any]], object], job: Job[Any, Any], limits: CallLimits, threads: Threads
) -> HandlerEnd:
    call = _ThreadCall(function, job, threads)
    with anyio.move_on_after(limits.max_hold_s):
        try:
            await anyio.to_thread.run_sync(call, abandon_on_cancel=True, limiter=threads.limiter)
        finally:
            call.leave()
    if call.end is None:
        return Unfit(Reason.STUCK, f"the plain function still runs after {limits.max_hold_s:g} s, the most for one run")
    if call.seconds > limits.timeout_s and not isinstance(call.end, Returned):
        # It raised, but late: the limit is the better explanation of why.
        return limits.timed_out
    return call.end


def _ordinary(error: Exception | SystemExit) -> Exception:
    """An exit called by a handler is its failure; it must not take the daemon and all other jobs with it."""
    if isinstance(error, Exception):
        return error
    return RuntimeError(f"the handler called sys.exit({error.code!r}); raise Reject or Retry instead")


class _ThreadCall:
    """One call in a worker thread; it outlives its caller when that is cancelled.

    Args:
        function: The user's function.
        job: What it gets.
        threads: Told when the call is left behind, and when it ends after all.
    """

    def __init__(self, function: Callable[[Job[Any, Any]], object], job: Job[Any, Any], threads: Threads) -> None:
        self._function = function
        self._job = job
        self._threads = threads
        self._lock = threading.Lock()
        self._left = False
        self._begun_at: float | None = None
        self.end: Returned | Raised | None = None
        self.seconds = 0.0

    def __call__(self) -> None:
        """Runs in the worker thread."""
        self._begun_at = time.monotonic()
        end: Returned | Raised = Returned()
        try:
            returned = self._function(self._job)
            if inspect.isawaitable(returned):
                # Nobody awaits it in a thread: the job would count as done without having run.
                if inspect.iscoroutine(returned):
                    returned.close()
                end = Raised(
                    TypeError("the handler is a plain function that returned a coroutine; make it `async def`")
                )
        except (Exception, SystemExit) as error:  # noqa: BLE001 - as said below
            # The user's code runs here: whatever it raises is an end, decided on by its type.
            end = Raised(_ordinary(error))
        with self._lock:
            self.seconds = time.monotonic() - self._begun_at
            self.end = end
            if self._left:
                self._threads.left_behind -= 1

    def leave(self) -> None:
        """The caller goes on without the call, if it has not ended; its thread can't be stopped."""
        with self._lock:
            if self._begun_at is not None and self.end is None:
                self._left = True
                self._threads.left_behind += 1
