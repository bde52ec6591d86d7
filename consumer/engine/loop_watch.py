"""Watch the event loop: notice when it is blocked, name what blocks it, and renew leases in its place.

While messages are in flight the loop beats twice a second, and a thread checks whether the next beat is late. A beat
that is more than ``LAG_LIMIT_S`` late means that something blocks the loop, such as ``time.sleep`` in an async handler.
Then there is one log line with the blocker's stack, and one with the length of the block when the loop runs again. With
nothing in flight both are silent: an idle daemon is not woken for this.

A blocked loop renews nothing, and another process would begin the same jobs. So meanwhile the thread renews what is
due, with clients of its own and by the same rules as ``lease``: the claim first, then the lease. The loop's objects are
only read there. A receipt handle is borrowed (``delivery.ReceiptLock``); the newer receipt is handed to the event loop,
which takes it over when it runs again, before anything else can use the handle.

When a block lasts, the service manager's watchdog or the liveness probe ends the process: the loop itself answers both.
The recorded start of another handler would then count as if that handler had killed the process. So these starts are
taken back, except that of the handler that blocks.

Native code that does not release the interpreter's lock blocks this thread too; of such a block only the end is seen.
"""

from __future__ import annotations

import asyncio
import linecache
import math
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from functools import partial
from types import FrameType
from typing import Any, Final

import anyio
import anyio.abc
import structlog

from consumer.cloud.messages import Receipt
from consumer.engine.delivery import Delivery, QueueCalls
from consumer.engine.lane import Lane
from consumer.engine.lease_state import LeaseEvent, LeaseState, Stage
from consumer.errors import CloudError, ConsumerError, Fault, StoreError
from consumer.ops.admin import LAG_LIMIT_S
from consumer.ops.metrics import RenewalResult
from consumer.plugin.handler import Job
from consumer.store.ledger import Ledger, Standby

log = structlog.stdlib.get_logger(__name__)

BEAT_S: Final = 0.5
LOOK_EVERY_S: Final = 0.1
TAKE_STARTS_BACK_S: Final = 5.0
"""After a block of this length the starts of the handlers that don't block are taken back; supervisors wait longer."""
ANSWER_S: Final = 5.0
"""How long an answer of MNS is awaited: the event loop may wait for it when it runs again."""
_MOST_FRAMES: Final = 20
_LATE_S: Final = 0.5
"""A thread that wakes this late was stopped together with the loop, which nothing blocks then."""
_QUIET_S: Final = 60.0
"""A function that blocks again within this time is not logged again; the metric counts it."""
_STORE_S: Final = 2.0
_STORE_AGAIN_S: Final = 3.0
_AGAIN_S: Final = 1.0
_CALLS_AT_ONCE: Final = 16
_RENEWABLE: Final = frozenset({LeaseState.HELD, LeaseState.UNCONFIRMED})


@dataclass(frozen=True, slots=True)
class Blocker:
    """What blocks the loop, as far as its frames show; a text is empty where they don't.

    Args:
        stack: The innermost frames as text, from the handler on where one was found.
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
        lanes: Whose messages are renewed; filled while the daemon starts.
        ledger: Where the claims are.
        observe: Called in the loop with the seconds of each block that has ended.
    """

    def __init__(self, lanes: Sequence[Lane], ledger: Ledger, observe: Callable[[float], None]) -> None:
        self._lanes = lanes
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
        self._starts: anyio.abc.TaskGroup | None = None

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
            async with anyio.create_task_group() as self._starts:
                await anyio.sleep_forever()
        finally:
            self._loop = None
            self._stopped.set()
            self._work.set()

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
        if any(lane.deliveries or lane.threads.left_behind for lane in self._lanes):
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
            blocker = find_blocker(frame, self._lanes)
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
        if now - self._logged.get(name, -math.inf) < _QUIET_S:
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
            self._lanes,
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
            if delivery.has_recorded_start and self._loop is not None and self._starts is not None:
                self._starts.start_soon(self._start, str(delivery.claim_key))

    async def _start(self, key: str) -> None:
        # A missing start only means that a handler that kills the process is found one restart later.
        with suppress(StoreError):
            await self._ledger.start(key)


class OwnLoop(asyncio.SelectorEventLoop):
    """The event loop of a thread that may block: resolves names in place, since no other thread may be left."""

    async def getaddrinfo(self, *args: Any, **kwargs: Any) -> Any:
        """See ``socket.getaddrinfo``."""
        return socket.getaddrinfo(*args, **kwargs)


class StandIn:
    """Renews leases and claims in place of the event loop during one block, from another thread.

    Args:
        lanes: Whose messages; they belong to the event loop.
        ledger: Where the claims are.
        loop: The event loop that is blocked.
        is_over: Whether it runs again.
        blocking: The delivery whose handler blocks, if it is known: its recorded start stays.
    """

    def __init__(
        self,
        lanes: Sequence[Lane],
        ledger: Ledger,
        loop: asyncio.AbstractEventLoop,
        is_over: Callable[[], bool],
        blocking: Delivery | None,
    ) -> None:
        self._lanes = lanes
        self._ledger = ledger
        self._loop = loop
        self._is_over = is_over
        self._blocking = blocking
        self._standby: Standby | None = None
        self._calls: dict[str, QueueCalls] = {}
        """The client of each queue, by the queue's identity."""
        self._due_at: dict[Delivery, float] = {}
        self._without_lease: set[Delivery] = set()
        self._store_at = 0.0
        self._room = asyncio.Semaphore(_CALLS_AT_ONCE)
        self.unstarted: Sequence[Delivery] = ()
        """The deliveries whose starts were taken back."""

    async def run(self) -> None:
        """Renew until the event loop runs again."""
        began_at = time.monotonic()
        calls: set[asyncio.Task[None]] = set()
        async with AsyncExitStack() as stack:
            while not self._is_over():
                due = self._due(time.monotonic())
                for lane, delivery in await self._claimed(due, stack):
                    client = await self._client(lane, stack)
                    if client is not None:
                        calls.add(asyncio.create_task(self._renew(lane, delivery, client)))
                if self._blocking is not None and time.monotonic() - began_at >= TAKE_STARTS_BACK_S:
                    await self._take_starts_back(stack)
                await asyncio.sleep(LOOK_EVERY_S)
            # Never cancelled: the answer holds the only handle that still works.
            for end in await asyncio.gather(*calls, return_exceptions=True):
                if isinstance(end, Exception):
                    log.error("internal error; a lease was not renewed", error=repr(end))

    def _due(self, now: float) -> list[tuple[Lane, Delivery]]:
        """What is to be renewed now; not due again before its try has ended."""
        due = []
        for lane in self._lanes:
            policy = lane.leases.policy
            for delivery in lane.leases.kept():
                is_overdue = delivery.stage is Stage.RECEIVED and now - delivery.received_at >= policy.max_hold_s
                # Infinite where the event loop has begun a renewal.
                planned_at = 0.0 if delivery.renew_at == math.inf else delivery.renew_at
                is_due = self._due_at.get(delivery, planned_at) <= now
                if is_due and not is_overdue and delivery.stage is not Stage.CLOSED:
                    self._due_at[delivery] = now + policy.lease_step_s / 2
                    due.append((lane, delivery))
        return due

    async def _claimed(
        self, due: Sequence[tuple[Lane, Delivery]], stack: AsyncExitStack
    ) -> list[tuple[Lane, Delivery]]:
        """Renew claims; returns those whose lease is ours to renew too."""
        held = {one.claim_key: (lane, one) for lane, one in due if one.claim_key is not None and one.is_claimed}
        gone: Sequence[str] = ()
        if held and time.monotonic() >= self._store_at:
            lease_s = max(lane.leases.claim_s(one) for lane, one in held.values())
            try:
                async with asyncio.timeout(_STORE_S):
                    gone = await self._store(stack).renew(list(held), lease_s)
            except (StoreError, TimeoutError):
                self._store_at = time.monotonic() + _STORE_AGAIN_S
                # Leases matter more than claims that no other process can take now.
        for key in gone:
            # Another process has it now: a call of ours could only take the message away from it.
            self._due_at[held[key][1]] = math.inf
            self._without_lease.add(held[key][1])
        return [(lane, one) for lane, one in due if one not in self._without_lease]

    async def _renew(self, lane: Lane, delivery: Delivery, client: QueueCalls) -> None:
        receipt: Receipt | None = None
        is_unconfirmed = False
        is_borrowed = delivery.lock.try_borrow()
        try:
            # Checked after the loan: whatever the event loop does from now on waits for its end.
            if not is_borrowed or delivery.stage is Stage.CLOSED or delivery.lease not in _RENEWABLE:
                return
            known = delivery.lock.newest(delivery.receipt)
            is_unconfirmed = True
            async with self._room:
                receipt = await client.hide(known.handle, lane.leases.policy.lease_step_s)
            delivery.lock.note_renewal(receipt)
        except CloudError as error:
            is_unconfirmed = error.fault is not Fault.GONE
            if is_unconfirmed:
                self._due_at[delivery] = time.monotonic() + _AGAIN_S
            else:
                # The event loop decides what a refused handle means.
                self._without_lease.add(delivery)
            lane.metrics.renewals[RenewalResult.FAILED].inc()
        else:
            now = time.monotonic()
            self._due_at[delivery] = now + max(0.0, receipt.expires_at - now) / 2
            lane.metrics.renewals[RenewalResult.RENEWED].inc()
        finally:
            # The loop is closed: the process ends.
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(partial(_give_back, delivery, receipt, is_unconfirmed=is_unconfirmed))

    async def _take_starts_back(self, stack: AsyncExitStack) -> None:
        if self.unstarted or time.monotonic() < self._store_at:
            return
        others = [
            delivery
            for lane in self._lanes
            for delivery in tuple(lane.deliveries)
            if delivery is not self._blocking and delivery.has_recorded_start
        ]
        if not others:
            return
        try:
            async with asyncio.timeout(_STORE_S):
                await self._store(stack).take_back_starts([str(delivery.claim_key) for delivery in others])
        except (StoreError, TimeoutError):
            self._store_at = time.monotonic() + _STORE_AGAIN_S
        else:
            self.unstarted = others

    def _store(self, stack: AsyncExitStack) -> Standby:
        if self._standby is None:
            self._standby = self._ledger.standby()
            stack.push_async_callback(self._standby.close)
        return self._standby

    async def _client(self, lane: Lane, stack: AsyncExitStack) -> QueueCalls | None:
        """A client of the queue in this thread's loop; ``None`` where there are no leases to renew."""
        if lane.open_calls is not None and lane.identity not in self._calls:
            self._calls[lane.identity] = await stack.enter_async_context(lane.open_calls())
        return self._calls.get(lane.identity)


def _give_back(delivery: Delivery, receipt: Receipt | None, *, is_unconfirmed: bool) -> None:
    """Return the loan; runs in the event loop, as soon as that runs again."""
    if receipt is not None:
        delivery.renewed(receipt)
    elif is_unconfirmed:
        delivery.lease_event(LeaseEvent.ANSWER_LOST)
    delivery.lock.take_back()
