"""Call one handler within its limits, and say how that ended.

An async function runs in a task of its own. At its time limit, when its lease is lost, or at a stop that task is
cancelled once, as a handler expects it: what stands in its ``finally`` completes. A plain function runs in a worker
thread and can't be cancelled.

Whatever goes on past its limit is waited for, its lease and claim kept, until the most that a message may be held. Then
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
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, Final, cast

import anyio
import anyio.to_thread
import structlog

from consumer.engine.delivery import Delivery
from consumer.engine.outcome import Raised, Returned, TimedOut, Unfit, Unreachable
from consumer.errors import ExitCode, text_of
from consumer.plugin.handler import Handler
from consumer.plugin.job import Job
from consumer.policy import Reason

log = structlog.stdlib.get_logger(__name__)

_RETURNED: Final = Returned()

HandlerEnd = Returned | Raised | TimedOut | Unfit | Unreachable


@dataclass(frozen=True, slots=True)
class CallLimits:
    """What holds for one handler, its own wishes and the settings' defaults put together. All in seconds.

    Args:
        timeout_s: Time for one run.
        max_hold_s: The most that its message is held.
        grace_s: Time for an async function to end once it is cancelled, before its going on is logged.
        timed_out: The end of a run that takes longer.
    """

    timeout_s: float
    max_hold_s: float
    grace_s: float = 5.0
    timed_out: TimedOut = field(init=False)

    def __post_init__(self) -> None:
        """Make that end once: each run takes it along."""
        object.__setattr__(self, "timed_out", TimedOut(self.timeout_s))


@dataclass(slots=True, eq=False)
class Threads:
    """The worker threads of plain functions, and the handlers that were left behind.

    A stuck one gives its place back, so it is replaced; how many are left behind is counted (``stuck_limit``).

    Args:
        slots: Plain functions at once.
        left_behind: Threads and tasks that still run though nobody waits for them.
    """

    slots: int
    left_behind: int = 0
    limiter: anyio.CapacityLimiter = field(init=False)

    def __post_init__(self) -> None:
        """Open as many places as there are slots."""
        self.limiter = anyio.CapacityLimiter(self.slots)


async def invoke(
    handler: Handler, job: Job[Any, Any], limits: CallLimits, threads: Threads, delivery: Delivery
) -> HandlerEnd | None:
    """Call a handler with a job.

    Args:
        handler: Which one.
        job: What it gets.
        limits: Its time.
        threads: Where plain functions run, and where stuck handlers are counted.
        delivery: Whose run it is: what cuts that short cancels the handler.

    Returns:
        How it ended; ``None`` where it was cut short and did as it was asked. Cancellation passes through; the thread
        or task then runs on by itself.
    """
    if handler.is_async:
        function = cast("Callable[[Job[Any, Any]], Awaitable[object]]", handler.function)
        return await _TaskRun(function, job, limits, threads, delivery).end()
    return await _in_thread(handler.function, job, limits, threads)


class _TaskRun:
    """One call of an async function, in a task of its own.

    Args:
        function: The user's function.
        job: What it gets.
        limits: Its time.
        threads: Told when the task is left behind, and when it ends after all.
        delivery: Whose run it is.
    """

    __slots__ = ("_asked", "_delivery", "_grace", "_is_told", "_limits", "_loop", "_over", "_task", "_threads")

    def __init__(
        self,
        function: Callable[[Job[Any, Any]], Awaitable[object]],
        job: Job[Any, Any],
        limits: CallLimits,
        threads: Threads,
        delivery: Delivery,
    ) -> None:
        self._limits = limits
        self._threads = threads
        self._delivery = delivery
        self._loop = asyncio.get_running_loop()
        # Waited for in place of the task: cancelling who waits must not cancel the handler a second time.
        self._over: asyncio.Future[None] = self._loop.create_future()
        self._grace: asyncio.TimerHandle | None = None
        self._asked = self._is_told = False
        self._task = self._loop.create_task(_guarded(function, job))
        self._task.add_done_callback(self._ended)

    async def end(self) -> HandlerEnd | None:
        """Wait for its end; see ``invoke``."""
        self._delivery.cancel_handler = self._cancel
        timer = self._loop.call_later(self._limits.timeout_s, self._time_is_over)
        try:
            await self._over
        finally:
            timer.cancel()
            if self._grace is not None:
                self._grace.cancel()
            self._delivery.cancel_handler = None
            if not self._task.done():
                self._leave_behind()
        if not self._task.done():
            return _stuck("handler", self._limits)
        if self._task.cancelled():
            if self._asked:
                return None
            return Raised(RuntimeError("the handler awaited something that was cancelled, and let that pass through"))
        end = self._task.result()
        # What a cancelled handler raises on its way out is no failure of its own.
        return None if self._asked and isinstance(end, Raised) else end

    def _ended(self, _task: asyncio.Task[Returned | Raised]) -> None:
        if not self._over.done():
            self._over.set_result(None)

    def _time_is_over(self) -> None:
        self._delivery.cut_short(self._limits.timed_out)
        left_s = max(0.0, self._limits.max_hold_s - self._limits.timeout_s)
        self._loop.call_later(left_s, self._ended, self._task)

    def _cancel(self, why: str) -> None:
        """Cancel it, once."""
        if not self._asked:
            self._asked = True
            self._task.cancel(why)
            self._grace = self._loop.call_later(self._limits.grace_s, self._goes_on)

    def _goes_on(self) -> None:
        """Say so, once."""
        if self._is_told:
            return
        self._is_told = True
        log.warning(
            "a handler goes on though it was cancelled",
            message_id=self._delivery.message.message_id,
            why=str(self._delivery.cut),
            grace_seconds=self._limits.grace_s,
            stack=_stack_of(self._task),
        )

    def _leave_behind(self) -> None:
        """Go on without it; where it was never cancelled it is now."""
        self._threads.left_behind += 1
        self._task.add_done_callback(self._left_after_all)
        if self._asked:
            self._goes_on()
        self._task.cancel()

    def _left_after_all(self, _task: asyncio.Task[Returned | Raised]) -> None:
        self._threads.left_behind -= 1


def _stack_of(task: asyncio.Task[Any]) -> str:
    """Where a task waits, down to its innermost coroutine: the task's own stack ends at its first one."""
    frames: list[tuple[FrameType, int]] = []
    waiting: Any = task.get_coro()
    while (frame := getattr(waiting, "cr_frame", None)) is not None:
        frames.append((frame, frame.f_lineno))
        waiting = waiting.cr_await
    return "".join(traceback.StackSummary.extract(iter(frames)).format())


async def _guarded(function: Callable[[Job[Any, Any]], Awaitable[object]], job: Job[Any, Any]) -> Returned | Raised:
    process = os.getpid()
    try:
        returned = await function(job)
    except asyncio.CancelledError:
        raise
    except BaseException as error:  # noqa: BLE001 - user code runs here: whatever it raises is an end of this run
        return Raised(_ordinary(error))
    finally:
        _end_a_fork_of(process)
    return _RETURNED if returned is None else _unless_awaitable(returned, "it returned a coroutine: await it there")


def _end_a_fork_of(process: int) -> None:
    """End the process here when it is a child that the handler forked and that came back from the handler.

    It would go on as a second daemon with the first one's connections, and without its threads.
    """
    if os.getpid() != process:
        os._exit(ExitCode.FAILURE)


async def _in_thread(
    function: Callable[[Job[Any, Any]], object], job: Job[Any, Any], limits: CallLimits, threads: Threads
) -> HandlerEnd:
    call = _ThreadCall(function, job, threads)
    with anyio.move_on_after(limits.max_hold_s):
        try:
            await anyio.to_thread.run_sync(call, abandon_on_cancel=True, limiter=threads.limiter)
        except RuntimeError as error:
            # The machine has no thread for it: nobody's failure, and another time will do.
            return Unreachable(RuntimeError(f"no thread could be started for the handler: {error}"))
        finally:
            call.leave()
    if call.end is None:
        return _stuck("plain function", limits)
    if call.seconds > limits.timeout_s and not isinstance(call.end, Returned):
        # It raised, but late: the limit is the better explanation of why.
        return limits.timed_out
    return call.end


def _stuck(what: str, limits: CallLimits) -> Unfit:
    return Unfit(Reason.STUCK, f"the {what} still runs after {limits.max_hold_s:g} s, the most for one run")


def _unless_awaitable(returned: object, told: str) -> Returned | Raised:
    """The end of a function that returned something: what nobody awaits was not done."""
    if not inspect.isawaitable(returned):
        return _RETURNED
    if inspect.iscoroutine(returned):
        returned.close()
    return Raised(TypeError(f"the handler did nothing: {told}"))


def _ordinary(error: BaseException) -> Exception:
    """What is no ordinary exception (an exit, an interrupt, a panic of compiled code) is the handler's failure too."""
    if isinstance(error, Exception):
        return error
    failure = RuntimeError(
        f"the handler raised {type(error).__name__}: {text_of(error)}; raise Reject or Retry instead"
    )
    failure.__cause__ = error
    return failure


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
        process = os.getpid()
        try:
            end = _unless_awaitable(
                self._function(self._job), "it is a plain function that returned a coroutine; make it `async def`"
            )
        except BaseException as error:  # noqa: BLE001 - user code runs here: whatever it raises is an end of this run
            end = Raised(_ordinary(error))
        finally:
            _end_a_fork_of(process)
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
