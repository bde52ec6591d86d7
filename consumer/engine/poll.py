"""Poll one queue: take free slots, then a long poll, and more polls while messages flow.

One poll is always there and waits long when the queue is empty. When an answer fills all the slots that it asked for,
more polls join, up to a limit; each leaves at its first answer that is not full. So an idle queue costs one request
every 30 s, and a full one is emptied as fast as slots get free.

An empty answer that comes much sooner than asked means that the service sheds load: then fewer polls join and the one
that stays pauses. An answer of only unreadable messages pauses like a fault, since they come back at once. Faults are
paced and logged by the queue's circuit breaker.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final

import anyio
import structlog

from consumer.cloud.messages import Batch
from consumer.engine.breaker import Breaker, backoff_s
from consumer.engine.delivery import Delivery
from consumer.engine.lane import Lane
from consumer.engine.vitals import Pause
from consumer.errors import CloudError, Fault
from consumer.ops.metrics import PollResult
from consumer.policy import MAX_BATCH

log = structlog.stdlib.get_logger(__name__)

_LINGER_S: Final = 0.025
_START_FIRST_S: Final = 0.002
_LAST_CHANCE_S: Final = 0.5
_EARLY: Final = 0.5
_SHED_PAUSE_S: Final = 1.0
_SHED_CAP_S: Final = 30.0
_JOIN_AGAIN_S: Final = 4.0
_LOOK_S: Final = 5.0
_CROWDED_S: Final = 0.5


class _Receive:
    """One receive under way, which ``scope`` cancels."""

    def __init__(self) -> None:
        self.scope = anyio.CancelScope()
        self.has_begun = False
        """Whether its answer has begun: from then on messages may be ours."""

    def begin(self) -> None:
        self.has_begun = True


class Poller:
    """The polls of one queue; ``start`` processes each delivery in a task of its own, which gives its slot back."""

    def __init__(self, lane: Lane, start: Callable[[Lane, Sequence[Delivery]], None]) -> None:
        self.lane = lane
        self._start = start
        self.breaker = Breaker("polling failed; retrying until it works", "polling works again", queue=lane.name)
        self._receives: set[_Receive] = set()
        self._joined = 0
        self._most_joined = lane.rules.policy.max_polls - 1
        self._sheds = 0
        self._unreadable = 0
        self._join_at = 0.0
        self._stopped = anyio.Event()
        self._waiting = anyio.CancelScope()

    async def run(self) -> None:
        """Poll until stopped."""
        wait_s = 0  # The first poll shows at once whether the queue can be reached.
        async with anyio.create_task_group() as joiners:
            while not self._stopped.is_set():
                asked = await self._take_slots()
                if self._stopped.is_set():
                    self.lane.slots.give_back(asked)
                    break
                batch = await self._receive(asked, wait_s, is_leading=True)
                if batch is None:
                    continue
                if len(batch.messages) == asked:
                    if self._joined < self._most_joined and time.monotonic() >= self._join_at:
                        self._joined += 1
                        joiners.start_soon(self._join)
                elif batch.messages:
                    # The queue is empty now, so there is time: polling at once would delay what has just come.
                    await anyio.sleep(_START_FIRST_S)
                if _is_unreadable(batch):
                    await self._pause(backoff_s(self._unreadable))
                elif _is_shed(batch, wait_s):
                    await self._pause_for_shed()
                wait_s = self.lane.rules.policy.wait_s

    async def stop(self, hurried: anyio.Event) -> None:
        """Poll no more; a receive under way gets half a second, one whose answer has begun is read to its end.

        When ``hurried`` is set, that half second is better left to the handlers.
        """
        self._stopped.set()
        self._waiting.cancel("stopping")
        if self._receives:
            with anyio.move_on_after(_LAST_CHANCE_S):
                await hurried.wait()
        for receive in self._receives:
            if not receive.has_begun:
                receive.scope.cancel("stopping")

    async def _take_slots(self) -> int:
        """Wait until the store works and has room for dead letters, and take free slots; 0 when stopped meanwhile."""
        lane = self.lane
        with anyio.CancelScope() as self._waiting:
            if self._stopped.is_set():
                return 0
            while not lane.store.is_up:
                lane.progress.wait(Pause.STORE, 2 * _LOOK_S)
                with anyio.move_on_after(_LOOK_S):
                    await lane.store.breaker.wait_closed()
            while lane.letters.is_full:
                lane.progress.wait(Pause.DEAD_LETTERS, 2 * _LOOK_S)
                with anyio.move_on_after(_LOOK_S):
                    await lane.letters.wait_for_room()
            while lane.deletes.crowded:
                lane.progress.wait(Pause.DELETES, 2 * _LOOK_S)
                await anyio.sleep(_CROWDED_S)
            while not lane.slots.free:
                lane.progress.wait(Pause.SLOTS_FULL, 2 * _LOOK_S)
                with anyio.move_on_after(_LOOK_S):
                    await lane.slots.any_free()
            lane.progress.resume()
            return await lane.slots.take(MAX_BATCH, _LINGER_S)
        return 0

    async def _join(self) -> None:
        """One more poll while messages flow: it leaves at its first answer that is not full."""
        lane, slots = self.lane, self.lane.slots
        try:
            while lane.store.is_up and not (self._stopped.is_set() or lane.letters.is_full or lane.deletes.crowded):
                # A joining poll that asked for less would only make the batches smaller.
                asked = min(MAX_BATCH, slots.total)
                if not await slots.take_all(asked, _LINGER_S):
                    return
                batch = await self._receive(asked, 0, is_leading=False)
                if batch is None or len(batch.messages) < asked:
                    return
        finally:
            self._joined -= 1

    async def _receive(self, asked: int, wait_s: int, *, is_leading: bool) -> Batch | None:
        """One receive; ``None`` when it failed (after its pause) or was cancelled by a stop."""
        lane = self.lane
        receive = _Receive()
        self._receives.add(receive)
        used = 0
        try:
            with receive.scope:
                batch = await lane.queue.receive(asked, wait_s, on_answer=receive.begin)
                used = len(batch.messages)
        except CloudError as error:
            lane.metrics.polls[error.fault].inc()
            if is_leading:
                lane.progress.polled(fault=str(error))
                # Its slots stay taken during the pause: nothing else could use them.
                await self._pause(self.breaker.failed(error))
            else:
                # The leading poll logs an outage; a joining one is not missed for a while.
                self._join_at = time.monotonic() + _JOIN_AGAIN_S
            return None
        finally:
            self._receives.discard(receive)
            lane.slots.give_back(asked - used)
        if receive.scope.cancelled_caught:
            return None
        self._note(batch, wait_s, is_leading=is_leading)
        traces, count = lane.traces, len(batch.messages)
        span = traces.received(lane.name, count, batch.elapsed_s) if traces is not None and count else None
        received = [lane.receive(message, batch.server_offset_s, span) for message in batch.messages]
        for delivery in received:
            # Later receipts would count the pauses between attempts.
            if delivery.message.dequeue_count == 1:
                lane.metrics.wait_seconds.observe(delivery.age_s())
        self._start(lane, received)
        return batch

    def _note(self, batch: Batch, wait_s: int, *, is_leading: bool) -> None:
        lane = self.lane
        if is_leading:
            self.breaker.succeeded()
        lane.progress.polled()
        lane.mns_base_s = time.time() + batch.server_offset_s - time.monotonic()
        lane.metrics.last_poll.set_to_current_time()
        for problem in batch.problems:
            log.warning("invalid message in an answer", queue=lane.name, problem=problem)
        if _is_unreadable(batch):
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
            lane.metrics.polls[PollResult.SHED if _is_shed(batch, wait_s) else PollResult.EMPTY].inc()

    async def _pause_for_shed(self) -> None:
        """The service has too many polls of ours: fewer from now on, and this one pauses."""
        self._most_joined = 0
        seconds = min(_SHED_CAP_S, _SHED_PAUSE_S * 2.0 ** min(self._sheds, 10))
        if not self._sheds:
            log.info("polls are answered empty at once; polling less", queue=self.lane.name)
        self._sheds += 1
        await self._pause(seconds)

    async def _pause(self, seconds: float) -> None:
        self.lane.progress.wait(Pause.OUTAGE, seconds + 1)
        with anyio.move_on_after(seconds):
            await self._stopped.wait()


def _is_unreadable(batch: Batch) -> bool:
    return bool(batch.problems) and not batch.messages


def _is_shed(batch: Batch, wait_s: int) -> bool:
    return not batch.messages and wait_s > 0 and batch.elapsed_s < wait_s * _EARLY
