"""Stop in order and in time: poll no more, let handlers finish, flush every delete.

    receives    get half a second; one whose answer has begun is read on, up to a second before the deadline
    received    released at once
    running     may finish, up to a second before the deadline; async handlers are cancelled a grace earlier, so that
                they can clean up; what still runs then is released all the same
    hooks       of dead letters: as async handlers
    settling    goes on to the deadline
    deletes     go on to the deadline

A second request skips the waiting, never the flush.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, TypeVar

import anyio
import structlog

from consumer.engine.delivery import Delivery
from consumer.engine.lane import Lane
from consumer.engine.lease_state import Stage
from consumer.engine.outcome import Interrupted
from consumer.engine.poll import Poller

log = structlog.stdlib.get_logger(__name__)

T = TypeVar("T")

HURRY_S: Final = 1.5
"""What is left of any deadline once the stop was requested twice."""
_SETTLE_RESERVE_S: Final = 1.0
_FLUSH_RESERVE_S: Final = 0.5
_LOOK_S: Final = 0.02
_LAST_S: Final = 0.5
"""How long a task has to end once it is cancelled."""


class Stop:
    """The stop of one daemon within ``deadline_s`` seconds; its lanes are filled in while it starts."""

    def __init__(self, lanes: Sequence[Lane], deadline_s: float) -> None:
        self._lanes = lanes
        self._deadline_s = deadline_s
        self.asked = anyio.Event()
        self._hurried = anyio.Event()
        self.at = math.inf
        """When everything must have ended, on the monotonic clock."""

    @property
    def left_s(self) -> float:
        """Seconds to the deadline; at least half a second for what is tried once."""
        return max(_FLUSH_RESERVE_S, self.at - time.monotonic())

    def ask(self) -> None:
        """Begin; called again, skip the waiting for handlers."""
        if self.asked.is_set():
            self._hurried.set()
            self.at = min(self.at, time.monotonic() + HURRY_S)
            return
        self.at = time.monotonic() + self._deadline_s
        self.asked.set()

    async def end_polls(self, pollers: Sequence[Poller]) -> None:
        """Poll no more, and release what no handler has begun."""
        log.info("stopping", in_flight=len(self._in_flight()), deadline_seconds=self._deadline_s)
        for lane in self._lanes:
            lane.stopping = True
        self._interrupt(Stage.RECEIVED)
        async with anyio.create_task_group() as stops:
            for poller in pollers:
                stops.start_soon(poller.stop, self._hurried)

    async def cut_polls(self, polls: anyio.CancelScope) -> None:
        """Read an answer that has begun to its end; one that stalls must not cost the handlers their time."""
        while time.monotonic() < self.at - self._settle_reserve_s:  # noqa: ASYNC110 - the deadline may move
            await anyio.sleep(_LOOK_S)
        polls.cancel("the stop deadline comes")

    async def drain(self) -> None:
        """Let running handlers finish; before the deadline, or when hurried, interrupt and release them."""
        await self._while(self._at_work, self._settle_reserve_s + self._grace_s, unless_hurried=True)
        for delivery in self._in_flight():
            if not delivery.in_thread:
                delivery.interrupt(Interrupted.STOPPING)
        for lane in self._lanes:
            lane.letter_hooks.cut()
        # Threads can't be cancelled, so they get all the time that there is.
        await self._while(self._in_threads, self._settle_reserve_s, unless_hurried=True)
        await self._while(self._cleaning_up, self._settle_reserve_s, unless_hurried=False)
        self._interrupt(Stage.RUNNING)
        for delivery in self._in_flight():
            delivery.leave_running()
        await self._while(self._at_work, min(_FLUSH_RESERVE_S, self._deadline_s / 8), unless_hurried=False)

    async def flush(self) -> None:
        """Delete everything that is settled, up to the deadline."""
        with anyio.move_on_after(self.left_s) as scope:
            async with anyio.create_task_group() as flushes:
                for lane in self._lanes:
                    flushes.start_soon(lane.deletes.flush)
        pending = sum(lane.deletes.pending for lane in self._lanes)
        if scope.cancelled_caught:
            log.warning("stopped with deletes pending; their redeliveries will only be deleted", pending=pending)
        else:
            log.info("stopped")

    def interrupt_all(self) -> None:
        """Release everything at once; what is being persisted goes on."""
        for lane in self._lanes:
            lane.stopping = True
        self._interrupt(Stage.RUNNING)

    @property
    def _settle_reserve_s(self) -> float:
        """The part of the deadline that is kept for settling interrupted runs."""
        return min(_SETTLE_RESERVE_S, self._deadline_s / 4)

    @property
    def _grace_s(self) -> float:
        """How much earlier than the rest async handlers are cancelled."""
        wanted_s = max((lane.rules.policy.cancel_grace_s for lane in self._lanes), default=0.0)
        return min(wanted_s, self._deadline_s / 4)

    async def _while(self, any_left: Callable[[], object], reserve_s: float, *, unless_hurried: bool) -> None:
        while any_left() and time.monotonic() < self.at - reserve_s:
            if unless_hurried and self._hurried.is_set():
                return
            await anyio.sleep(_LOOK_S)

    def _in_flight(self) -> list[Delivery]:
        return [delivery for lane in self._lanes for delivery in lane.deliveries]

    def _at_work(self) -> bool:
        return any(lane.deliveries or lane.letter_hooks.busy for lane in self._lanes)

    def _in_threads(self) -> list[Delivery]:
        return [one for one in self._in_flight() if one.in_thread and one.stage is Stage.RUNNING]

    def _cleaning_up(self) -> list[Delivery]:
        return [one for one in self._in_flight() if one.cancel_handler is not None]

    def _interrupt(self, up_to: Stage) -> None:
        for delivery in self._in_flight():
            if delivery.stage <= up_to:
                delivery.interrupt(Interrupted.LEFT_RUNNING if delivery.in_thread else Interrupted.STOPPING)


class Tasks:
    """Plain asyncio tasks in great numbers, all of which end together.

    A task of a task group costs 18 us more (bench ablation "task-group"), and there is one for every message. What a
    group guarantees is here too: nothing outlives ``end``, which first gives the tasks some time, then cancels them,
    and does not wait for ever for a handler that ignores its cancellation.
    """

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[object]] = set()

    def begin(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start one; it must handle its own exceptions."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def end(self, within_s: float) -> None:
        """Return when all have ended, or have been cancelled after ``within_s`` seconds."""
        if self._tasks and within_s > 0:
            await asyncio.wait(self._tasks, timeout=within_s)
        if not self._tasks:
            return
        for task in self._tasks:
            task.cancel("the stop deadline has come")
        _, stubborn = await asyncio.wait(self._tasks, timeout=_LAST_S)
        if stubborn:
            log.warning("handlers that can't be cancelled are left behind", handlers=len(stubborn))
