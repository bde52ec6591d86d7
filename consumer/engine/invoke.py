"""Call one handler within its limits, and return the result of the run.

An async function runs in a task of its own. At its time limit, when its lease is lost, or at a stop that task is
cancelled once, as a handler expects it, so that its ``finally`` blocks complete. A plain function runs in a worker
thread and can't be cancelled.

What runs past its limit is awaited, its lease and claim kept, until the longest time that a message may be held. Then
it counts as stuck: its message is set aside, and the thread or the task is left behind.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import threading
import time
import traceback
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from types import FrameType
from typing import Any, Final, TypeVar

import anyio
import anyio.to_thread
import structlog

from consumer.engine.delivery import Delivery
from consumer.engine.outcome import Interrupted, Raised, Returned, TimedOut, Unavailable, Unprocessable
from consumer.errors import ExitCode, text_of
from consumer.plugin.handler import Handler, Job
from consumer.policy import Reason

log = structlog.stdlib.get_logger(__name__)

T = TypeVar("T")

_RETURNED: Final = Returned()

HandlerResult = Returned | Raised | TimedOut | Unprocessable | Unavailable | Interrupted


@dataclass(frozen=True, slots=True)
class CallLimits:
    """The limits of one handler, in seconds: its own, or the settings'.

    After ``grace_s`` a warning is logged of an async function that still runs though it was cancelled.
    """

    timeout_s: float
    max_hold_s: float
    grace_s: float = 5.0


class Threads:
    """The worker threads of plain functions, and the handlers that were left behind.

    A stuck handler gives its slot back, so it is replaced. How many are left behind is counted (``stuck_limit``).
    """

    def __init__(self, slots: int) -> None:
        self.limiter = anyio.CapacityLimiter(slots)
        self.left_behind = 0
        """Threads and tasks that still run though nothing waits for them."""


def invoke(
    handler: Handler, job: Job[Any, Any], limits: CallLimits, threads: Threads, delivery: Delivery
) -> Awaitable[HandlerResult]:
    """Call a handler with a job; interrupting its delivery cancels an async function.

    Returns:
        The result; the delivery's interruption where the handler ended because of it. Cancellation passes through; the
        thread or task then runs on by itself.
    """
    if handler.is_async:
        return _TaskRun(handler.function, job, limits, threads, delivery).wait()
    return _in_thread(handler.function, job, limits, threads)


class _TaskRun:
    """One call of an async function, in a task of its own; arguments as for ``invoke``."""

    def __init__(
        self,
        function: Callable[[Job[Any, Any]], Any],
        job: Job[Any, Any],
        limits: CallLimits,
        threads: Threads,
        delivery: Delivery,
    ) -> None:
        self._limits = limits
        self._threads = threads
        self._delivery = delivery
        self._loop = asyncio.get_running_loop()
        # Awaited in place of the task: cancelling this run must not cancel the handler a second time.
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._grace_timer: asyncio.TimerHandle | None = None
        self._hold_timer: asyncio.TimerHandle | None = None
        self._is_cancelled = self._is_logged = False
        self._task = self._loop.create_task(guarded(function, job))
        self._task.add_done_callback(self._end)

    async def wait(self) -> HandlerResult:
        """Wait for its end; see ``invoke``."""
        self._delivery.cancel_by(self._cancel)
        timer = self._loop.call_later(self._limits.timeout_s, self._time_out)
        try:
            await self._ended
        finally:
            timer.cancel()
            for later in (self._grace_timer, self._hold_timer):
                if later is not None:
                    later.cancel()
            if not self._task.done():
                self._leave_behind()
        if not self._task.done():
            return _stuck("handler", self._limits)
        interrupted = self._delivery.interruption or Interrupted.STOPPING
        if self._task.cancelled():
            if self._is_cancelled:
                return interrupted
            return Raised(RuntimeError("the handler awaited something that was cancelled, and let that pass through"))
        result = self._task.result()
        # What a cancelled handler raises while it cleans up is not a failure of its own.
        return interrupted if self._is_cancelled and isinstance(result, Raised) else result

    def _end(self, _task: asyncio.Task[Returned | Raised] | None = None) -> None:
        if not self._ended.done():
            self._ended.set_result(None)

    def _time_out(self) -> None:
        self._delivery.interrupt(TimedOut(self._limits.timeout_s))
        left_s = max(0.0, self._limits.max_hold_s - self._limits.timeout_s)
        self._hold_timer = self._loop.call_later(left_s, self._end)

    def _cancel(self, why: str) -> None:
        """Cancel it, once."""
        if not self._is_cancelled:
            self._is_cancelled = True
            self._task.cancel(why)
            self._grace_timer = self._loop.call_later(self._limits.grace_s, self._log_that_it_runs)

    def _log_that_it_runs(self) -> None:
        if self._is_logged:
            return
        self._is_logged = True
        log.warning(
            "a handler still runs though it was cancelled",
            message_id=self._delivery.message.message_id,
            why=str(self._delivery.interruption),
            grace_seconds=self._limits.grace_s,
            stack=_stack_of(self._task),
        )

    def _leave_behind(self) -> None:
        """Go on without it; cancel it if that was not done before."""
        self._threads.left_behind += 1
        self._task.add_done_callback(self._ended_late)
        if self._is_cancelled:
            self._log_that_it_runs()
        self._task.cancel()

    def _ended_late(self, _task: asyncio.Task[Returned | Raised]) -> None:
        self._threads.left_behind -= 1


def _stack_of(task: asyncio.Task[Any]) -> str:
    """Where a task waits, down to its innermost coroutine: the task's own stack ends at its first one."""
    frames: list[tuple[FrameType, int]] = []
    waiting: Any = task.get_coro()
    while (frame := getattr(waiting, "cr_frame", None)) is not None:
        frames.append((frame, frame.f_lineno))
        waiting = waiting.cr_await
    return "".join(traceback.StackSummary.extract(iter(frames)).format())


async def guarded(function: Callable[[T], Any], argument: T, what: str = "handler") -> Returned | Raised:
    """Call an async function of a user: whatever it raises but its cancellation is its result."""
    process = os.getpid()
    try:
        returned = await function(argument)
    except asyncio.CancelledError:
        raise
    except BaseException as error:  # noqa: BLE001 - user code: whatever it raises is the result of this run
        return Raised(_ordinary(error, what))
    finally:
        _end_a_fork_of(process)
    if returned is None:
        return _RETURNED
    return _unless_awaitable(returned, "it returned a coroutine: await it there", what)


def _end_a_fork_of(process: int) -> None:
    """End the process when it is a child that the handler forked and that returned from the handler.

    It would go on as a second daemon with the first one's connections and without its threads.
    """
    if os.getpid() != process:
        os._exit(ExitCode.FAILURE)


async def _in_thread(
    function: Callable[[Job[Any, Any]], object], job: Job[Any, Any], limits: CallLimits, threads: Threads
) -> HandlerResult:
    call = _ThreadCall(function, job, threads)
    with anyio.move_on_after(limits.max_hold_s):
        try:
            await anyio.to_thread.run_sync(call, abandon_on_cancel=True, limiter=threads.limiter)
        except RuntimeError as error:
            # The machine has no thread for it: not the handler's failure.
            return Unavailable(RuntimeError(f"no thread could be started for the handler: {error}"))
        finally:
            call.leave()
    if call.result is None:
        return _stuck("plain function", limits)
    if call.seconds > limits.timeout_s and not isinstance(call.result, Returned):
        # It raised, but late: the limit explains more.
        return TimedOut(limits.timeout_s)
    return call.result


def _stuck(what: str, limits: CallLimits) -> Unprocessable:
    return Unprocessable(Reason.STUCK, f"the {what} still runs after {limits.max_hold_s:g} s, the most for one run")


def _unless_awaitable(returned: object, why: str, what: str = "handler") -> Returned | Raised:
    """The result of a function that returned something: an awaitable was never awaited, so nothing was done."""
    if not inspect.isawaitable(returned):
        return _RETURNED
    if inspect.iscoroutine(returned):
        returned.close()
    return Raised(TypeError(f"the {what} did nothing: {why}"))


def _ordinary(error: BaseException, what: str = "handler") -> Exception:
    """Wrap what is no ``Exception`` (an exit, an interrupt, a panic of compiled code): it is a failure like others."""
    _begin_in_the_users_code(error)
    if isinstance(error, Exception):
        return error
    instead = "; raise Reject or Retry instead" if what == "handler" else ""
    failure = RuntimeError(f"the {what} raised {type(error).__name__}: {text_of(error)}{instead}")
    failure.__cause__ = error
    return failure


def _begin_in_the_users_code(error: BaseException) -> None:
    """Take the frames of this module from the start of a traceback: the user's code is what its readers look for."""
    # An error of the user may answer no question at all; then its traceback stays whole.
    with suppress(BaseException):
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None and trace.tb_frame.f_code.co_filename == __file__:
            trace = trace.tb_next
        error.with_traceback(trace)


class _ThreadCall:
    """One call in a worker thread; it outlives its caller when that is cancelled. Arguments as for ``invoke``."""

    def __init__(self, function: Callable[[Job[Any, Any]], object], job: Job[Any, Any], threads: Threads) -> None:
        self._function = function
        self._job = job
        self._threads = threads
        self._lock = threading.Lock()
        self._is_left = False
        self._begun_at: float | None = None
        self.result: Returned | Raised | None = None
        self.seconds = 0.0

    def __call__(self) -> None:
        """Call it; runs in the worker thread."""
        self._begun_at = time.monotonic()
        process = os.getpid()
        try:
            returned = self._function(self._job)
            result = _unless_awaitable(
                returned, "it is a plain function that returned a coroutine; make it `async def`"
            )
        except BaseException as error:  # noqa: BLE001 - user code: whatever it raises is the result of this run
            result = Raised(_ordinary(error))
        finally:
            _end_a_fork_of(process)
        with self._lock:
            self.seconds = time.monotonic() - self._begun_at
            self.result = result
            if self._is_left:
                self._threads.left_behind -= 1

    def leave(self) -> None:
        """Go on without the call, if it has not ended; its thread can't be stopped."""
        with self._lock:
            if self._begun_at is not None and self.result is None:
                self._is_left = True
                self._threads.left_behind += 1
