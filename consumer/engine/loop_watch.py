"""Watch the event loop: notice when it is blocked, and name what blocks it.

While messages are in flight the loop beats twice a second, and a thread checks whether the next beat is late. A beat
that is more than ``LAG_LIMIT_S`` late means that something blocks the loop, such as ``time.sleep`` in an async handler.
Then there is one log line with the blocker's stack, the thread renews leases in place of the loop (``stand_in``), and
there is one line with the length of the block when the loop runs again. With nothing in flight both are silent: an idle
daemon is not woken for this.

The service manager's watchdog and ``/livez`` are answered by the loop itself: to them a block is silence, and they
restart the daemon if it lasts. Native code that does not release the interpreter's lock blocks this thread too; of such
a block only the end is seen.
"""

from __future__ import annotations

import asyncio
import linecache
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import FrameType
from typing import Final

import anyio
import anyio.abc
import structlog

from consumer.engine.delivery import Delivery
from consumer.engine.lane import Lane
from consumer.engine.stand_in import LOOK_EVERY_S, OwnLoop, StandIn, WatchedQueue
from consumer.engine.tasks import Tasks
from consumer.errors import ConsumerError, StoreError
from consumer.ops.admin import LAG_LIMIT_S
from consumer.plugin.handler import Job
from consumer.store.ledger import Ledger

log = structlog.stdlib.get_logger(__name__)

BEAT_S: Final = 0.5
_MOST_FRAMES: Final = 20
_LATE_S: Final = 0.5
"""A thread that wakes this late was stopped together with the loop, which nothing blocks then."""
_QUIET_S: Final = 60.0
"""A function that blocks again within this time is not logged again; the metric counts it."""


@dataclass(frozen=True, slots=True)
class Blocker:
    """What blocks the loop, as far as its frames show.

    Args:
        stack: The innermost frames as text, from the handler on where one was found.
        function: The job's FunctionName; empty where no job was found.
        delivery: The delivery of ``message_id``.
    """

    stack: str
    function: str = ""
    job_id: str = ""
    message_id: str = ""
    delivery: Delivery | None = None


def find_blocker(innermost: FrameType, lanes: Sequence[Lane]) -> Blocker:
    """Search the frames of a blocked thread, from ``innermost`` out; called from another thread."""
    frames = [frame for frame, _ in traceback.walk_stack(innermost)][::-1]
    in_flight = {one.message.message_id: one for lane in lanes for one in tuple(lane.deliveries)}
    found: tuple[str, str, str] | None = None
    first = max(0, len(frames) - _MOST_FRAMES)
    for number, frame in enumerate(frames):
        # The innermost run counts: the frames around it are those of the loop and of this program.
        if (run := _run_in(frame.f_locals.values())) and found != run:
            found, first = run, max(first, number + 1)
    if found is None:
        # A handler may block in a task of its own making; where only one runs, it is that one.
        running = [one for one in in_flight.values() if one.cancel_handler is not None]
        message_id = running[0].message.message_id if len(running) == 1 else ""
        return Blocker(_text(frames[first:]), message_id=message_id, delivery=in_flight.get(message_id))
    return Blocker(_text(frames[first:] or frames[-1:]), *found, delivery=in_flight.get(found[2]))


def _run_in(values: Iterable[object]) -> tuple[str, str, str] | None:
    """FunctionName, job id and message id of a run, if one of a frame's variables shows it."""
    for value in values:
        # Not isinstance(): it may run code of the user's.
        if type(value) is Job:
            return value.function, value.job_id, value.message_id
        if type(value) is Delivery:
            return value.notification.route, value.notification.job_id or "", value.message.message_id
    return None


def _text(frames: Sequence[FrameType]) -> str:
    """As a traceback prints them, without asking the file system twice for the same file."""
    lines = []
    for frame in frames:
        code, number = frame.f_code, frame.f_lineno
        lines.append(f'  File "{code.co_filename}", line {number}, in {code.co_name}')
        if source := linecache.getline(code.co_filename, number or 0, frame.f_globals).strip():
            lines.append(f"    {source}")
    return "\n".join(lines)


class LoopWatch:
    """Watches the event loop in which ``run`` runs.

    Args:
        ledger: Where the claims are.
        observe: Called in the loop with the seconds of each block that has ended.
    """

    def __init__(self, ledger: Ledger, observe: Callable[[float], None]) -> None:
        self.queues: list[WatchedQueue] = []
        """Whose messages are renewed; filled while the daemon starts."""
        self._ledger = ledger
        self._observe = observe
        self._loop: asyncio.AbstractEventLoop | None = None
        self._loop_thread = 0
        self._beat_at = 0.0
        self._seen_at = 0.0
        """The last beat before the block that the thread noticed last."""
        self._logged_at = 0.0
        """The same, of the block that it logged last."""
        self._logged: dict[str, float] = {}
        self._beating = False
        self._work = threading.Event()
        self._stopped = threading.Event()
        self._tasks = Tasks()

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Watch until cancelled.

        Args:
            task_status: Started once it watches.

        Raises:
            ConsumerError: No thread can be started.
        """
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        try:
            threading.Thread(target=self._watch, name="mns-consumer-loop-watch", daemon=True).start()
        except RuntimeError as error:
            raise ConsumerError(f"no thread could be started ({error}); raise the limit of threads") from error
        task_status.started()
        try:
            await anyio.sleep_forever()
        finally:
            self._loop = None
            self._stopped.set()
            self._work.set()
            with anyio.CancelScope(shield=True):
                await self._tasks.end(0)

    def wake(self) -> None:
        """A message is in flight: beat from now on, until none is."""
        if not self._beating and self._loop is not None:
            self._beating = True
            self._beat_at = time.monotonic()
            self._loop.call_later(BEAT_S, self._beat)
            self._work.set()

    def _beat(self) -> None:
        if self._loop is None:
            return
        before, self._beat_at = self._beat_at, time.monotonic()
        lag_s = self._beat_at - before - BEAT_S
        if lag_s > LAG_LIMIT_S:
            self._runs_again(before, lag_s)
        if any(queue.lane.deliveries or queue.lane.threads.left_behind for queue in self.queues):
            self._loop.call_later(BEAT_S, self._beat)
        else:
            self._beating = False
            self._work.clear()

    def _runs_again(self, before: float, lag_s: float) -> None:
        self._observe(lag_s)
        if self._logged_at == before:
            log.warning("event loop runs again", blocked_seconds=round(lag_s, 1))
        elif self._seen_at != before:
            # No thread ran meanwhile: native code kept the interpreter's lock, or the process itself was stopped.
            log.warning(
                "event loop runs again; no thread of this process ran meanwhile", blocked_seconds=round(lag_s, 1)
            )

    def _watch(self) -> None:
        """Check the beats; runs in the thread."""
        not_before = 0.0
        while True:
            self._work.wait()
            if self._stopped.is_set():
                return
            beat_at = self._beat_at
            late_at = max(beat_at, not_before) + BEAT_S + LAG_LIMIT_S
            left_s = late_at - time.monotonic()
            if left_s > 0:
                self._stopped.wait(left_s)
                if time.monotonic() - late_at > _LATE_S:
                    not_before = time.monotonic()
                continue
            if self._beating:
                self._blocked(beat_at)

    def _blocked(self, beat_at: float) -> None:
        loop = self._loop
        frame = sys._current_frames().get(self._loop_thread)  # noqa: SLF001 - documented for debuggers, which this is
        if loop is None or frame is None or self._beat_at != beat_at:
            return
        self._seen_at = beat_at
        try:
            blocker = find_blocker(frame, [queue.lane for queue in self.queues])
            del frame
            self._log(blocker, beat_at)
            self._stand_in(loop, beat_at, blocker.delivery)
        except Exception:
            log.exception("internal error while the event loop is blocked")
        while self._beat_at == beat_at and not self._stopped.wait(LOOK_EVERY_S):
            pass

    def _log(self, blocker: Blocker, beat_at: float) -> None:
        now = time.monotonic()
        # A block outside any job is identified by its stack.
        name = blocker.function or blocker.stack
        if now - self._logged.get(name, float("-inf")) < _QUIET_S:
            return
        if len(self._logged) > 100:  # noqa: PLR2004 - an arbitrary bound
            self._logged.clear()
        self._logged[name] = now
        self._logged_at = beat_at
        log.warning(
            "event loop blocked; leases and claims are renewed from another thread",
            function=blocker.function or None,
            job_id=blocker.job_id or None,
            message_id=blocker.message_id or None,
            seconds=round(now - beat_at, 1),
            stack=blocker.stack,
        )

    def _stand_in(self, loop: asyncio.AbstractEventLoop, beat_at: float, blocking: Delivery | None) -> None:
        stand_in = StandIn(
            self.queues,
            self._ledger,
            loop,
            is_over=lambda: self._beat_at != beat_at or self._stopped.is_set(),
            blocking=blocking,
        )
        with asyncio.Runner(loop_factory=OwnLoop) as runner:
            runner.run(stand_in.run())
        if stand_in.unstarted:
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(self._start_again, stand_in.unstarted)

    def _start_again(self, deliveries: Sequence[Delivery]) -> None:
        """Record the starts that were taken back again, of those that still run."""
        for delivery in deliveries:
            if delivery.has_recorded_start and delivery.key is not None:
                self._tasks.begin(self._start(delivery.key))

    async def _start(self, key: str) -> None:
        # A missing start only means that a handler that kills the process is found one restart later.
        with suppress(StoreError):
            await self._ledger.start(key)
