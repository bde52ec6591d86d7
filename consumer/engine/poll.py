"""Ask one queue for messages: a free slot first, then a long poll, more polls while messages flow.

One poll is always there and waits long when the queue is empty. When an answer fills all the slots that it asked for,
others join, up to a limit; each leaves at its first answer that is not full. So an idle queue costs one
request every 30 s, and a full one is emptied as fast as slots get free.

An "empty" that comes much sooner than asked means that the service sheds polls: then fewer join and the one that
stays pauses. An answer of nothing but messages that can't be read is neither empty nor shed: it pauses like a fault,
since those messages come back at once where nothing hides them. A fault is paced and told by ``engine.pacing``; nothing
here ever spins.

Elsewhere: what happens to a message (``engine.process``), the call itself (``cloud.mns``).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import anyio
import structlog

from consumer.cloud.messages import Batch
from consumer.engine.delivery import Delivery
from consumer.engine.lane import Lane
from consumer.engine.pacing import Outage, pause_s
from consumer.errors import CloudError, Fault
from consumer.ops.metrics import PollResult
from consumer.policy import MAX_BATCH
from consumer.progress import Wait

log = structlog.stdlib.get_logger(__name__)

_LINGER_S: Final = 0.025
_FIRST_HOPS_S: Final = 0.002
_LAST_CHANCE_S: Final = 0.5
_EARLY: Final = 0.5
_SHED_PAUSE_S: Final = 1.0
_SHED_CAP_S: Final = 30.0
_LOOK_S: Final = 5.0
_CROWDED_S: Final = 0.5


@dataclass(slots=True, eq=False)
class _Receive:
    """One receive under way.

    Args:
        scope: Cancels it.
        begun: Whether its answer has begun: from then on messages may be ours.
    """

    scope: anyio.CancelScope
    begun: bool = False

    def begin(self) -> None:
        self.begun = True


class Poller:
    """The polls of one queue.

    Args:
        lane: The queue's parts.
        start: Begins the life of a received message in a task of its own, which gives its slot back.
    """

    def __init__(self, lane: Lane, start: Callable[[Lane, Delivery], None]) -> None:
        self._lane = lane
        self._start = start
        self._outage = Outage("polling failed; trying on until it works", "polling works again", lane.url.queue)
        self._receives: set[_Receive] = set()
        self._joined = 0
        self._most_joined = lane.rules.policy.max_polls - 1
        self._sheds = 0
        self._unreadable = 0
        self._failed_joins = 0
        self._join_at = 0.0
        self._stopped = anyio.Event()
        self._idle = anyio.CancelScope()

    async def run(self) -> None:
        """Poll until stopped."""
        wait_s = 0  # The first poll proves at once whether the queue can be reached.
        async with anyio.create_task_group() as joiners:
            while not self._stopped.is_set():
                asked = await self._slots()
                if self._stopped.is_set():
                    # It may have come just before a slot: then nobody would wait for the poll that begins now.
                    self._lane.slots.give_back(asked)
                    break
                batch = await self._receive(asked, wait_s, lead=True)
                if batch is None:
                    continue
                if len(batch.messages) == asked:
                    if self._may_join():
                        self._joined += 1
                        joiners.start_soon(self._join)
                elif batch.messages:
                    # The queue is empty now, so there is time: asking again at once would hold up what has just come.
                    await anyio.sleep(_FIRST_HOPS_S)
                if self._was_unreadable(batch):
                    await self._pause(pause_s(self._unreadable))
                elif self._was_shed(batch, wait_s):
                    await self._pause_for_shed()
                wait_s = self._lane.rules.policy.wait_s

    async def stop(self, hurried: anyio.Event) -> None:
        """Ask no more; a receive under way gets half a second, one whose answer has begun is read to its end.

        Args:
            hurried: Set when that half second is better left to the handlers.
        """
        self._stopped.set()
        self._idle.cancel("stopping")
        if self._receives:
            with anyio.move_on_after(_LAST_CHANCE_S):
                await hurried.wait()
        for receive in self._receives:
            if not receive.begun:
                receive.scope.cancel("stopping")

    async def _slots(self) -> int:
        """Wait until the store works, has room for dead letters, and a slot is free; 0 when stopped meanwhile."""
        lane = self._lane
        with anyio.CancelScope() as self._idle:
            if self._stopped.is_set():
                return 0
            while not lane.gate.is_open:
                lane.progress.wait(Wait.STORE, 2 * _LOOK_S)
                with anyio.move_on_after(_LOOK_S):
                    await lane.gate.passed()
            while lane.letters.is_full:
                lane.progress.wait(Wait.DEAD_LETTERS, 2 * _LOOK_S)
                with anyio.move_on_after(_LOOK_S):
                    await lane.letters.room()
            while lane.deletes.crowded:
                lane.progress.wait(Wait.DELETES, 2 * _LOOK_S)
                await anyio.sleep(_CROWDED_S)
            while not lane.slots.free:
                lane.progress.wait(Wait.SLOTS_FULL, 2 * _LOOK_S)
                with anyio.move_on_after(_LOOK_S):
                    await lane.slots.any_free()
            lane.progress.resume()
            return await lane.slots.take(MAX_BATCH, _LINGER_S)
        return 0

    async def _join(self) -> None:
        """One more poll while messages flow: it leaves at its first answer that is not full."""
        slots = self._lane.slots
        try:
            while self._may_ask():
                # A joining poll that asked for less would only make the batches smaller.
                asked = min(MAX_BATCH, slots.total)
                if not await slots.take_all(asked, _LINGER_S):
                    return
                batch = await self._receive(asked, 0, lead=False)
                if batch is None or len(batch.messages) < asked:
                    return
        finally:
            self._joined -= 1

    async def _receive(self, asked: int, wait_s: int, *, lead: bool) -> Batch | None:
        """One receive; ``None`` when it failed (after its pause) or was cut short by a stop."""
        lane = self._lane
        receive = _Receive(anyio.CancelScope())
        self._receives.add(receive)
        used = 0
        try:
            with receive.scope:
                batch = await lane.queue.receive(asked, wait_s, on_answer=receive.begin)
                used = len(batch.messages)
        except CloudError as error:
            lane.metrics.polls[error.fault].inc()
            if not lead:
                # The leading poll tells of an outage; one that only joined is not missed for a while.
                self._failed_joins += 1
                self._join_at = time.monotonic() + pause_s(self._failed_joins, cap_s=_SHED_CAP_S)
                return None
            lane.progress.polled(fault=str(error))
            # Its slots stay taken during the pause only as long as nobody else could use them: nobody can.
            await self._pause(self._outage.failed(error))
            return None
        finally:
            self._receives.discard(receive)
            lane.slots.give_back(asked - used)
        if receive.scope.cancelled_caught:
            return None
        self._note(batch, wait_s, lead=lead)
        traces, count = lane.traces, len(batch.messages)
        received = traces.received(lane.url.queue, count, batch.elapsed_s) if traces is not None and count else None
        for message in batch.messages:
            self._start(lane, Delivery(message, message.receipt, batch.server_offset_s, received=received))
        return batch

    def _may_ask(self) -> bool:
        lane = self._lane
        held_up = self._stopped.is_set() or lane.letters.is_full or lane.deletes.crowded
        return lane.gate.is_open and not held_up

    def _may_join(self) -> bool:
        return self._joined < self._most_joined and time.monotonic() >= self._join_at

    def _note(self, batch: Batch, wait_s: int, *, lead: bool) -> None:
        lane = self._lane
        if lead:
            self._outage.over()
        else:
            self._failed_joins = 0
        lane.progress.polled()
        lane.mns_base_s = time.time() + batch.server_offset_s - time.monotonic()
        lane.metrics.last_poll.set_to_current_time()
        for problem in batch.problems:
            log.warning("odd message in an answer", queue=lane.url.queue, problem=problem)
        if self._was_unreadable(batch):
            self._unreadable += 1
            lane.metrics.polls[Fault.UNREADABLE].inc()
            return
        self._unreadable = 0
        if batch.messages:
            self._sheds = 0
            self._most_joined = lane.rules.policy.max_polls - 1
            lane.metrics.received.inc(len(batch.messages))
            lane.metrics.polls[PollResult.MESSAGES].inc()
        else:
            word = PollResult.SHED if self._was_shed(batch, wait_s) else PollResult.EMPTY
            lane.metrics.polls[word].inc()

    @staticmethod
    def _was_unreadable(batch: Batch) -> bool:
        return bool(batch.problems) and not batch.messages

    def _was_shed(self, batch: Batch, wait_s: int) -> bool:
        return not batch.messages and wait_s > 0 and batch.elapsed_s < wait_s * _EARLY

    async def _pause_for_shed(self) -> None:
        """The service has too many polls of ours: fewer from now on, and this one pauses."""
        self._most_joined = 0
        seconds = min(_SHED_CAP_S, _SHED_PAUSE_S * 2.0 ** min(self._sheds, 10))
        if not self._sheds:
            log.info("polls are answered empty at once; polling less", queue=self._lane.url.queue)
        self._sheds += 1
        await self._pause(seconds)

    async def _pause(self, seconds: float) -> None:
        self._lane.progress.wait(Wait.OUTAGE, seconds + 1)
        with anyio.move_on_after(seconds):
            await self._stopped.wait()
