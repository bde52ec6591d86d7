"""Wait for messages: long polls on one queue, woken within a millisecond or two.

A waiter that is woken looks at its own socket and takes its messages in the same step, so that nothing is
ever dequeued for a client that has gone; a wake-up it can't use goes on to the next waiter.

Elsewhere: who gets which message (``queue``), how a closed socket is known (``sockets``).
"""

import asyncio
from collections.abc import Callable

from consumer.sandbox.clock import Clock
from consumer.sandbox.message import Message, State
from consumer.sandbox.queue import Queue
from consumer.sandbox.refusal import queue_not_exist


class Polls:
    """The long polls on one queue."""

    def __init__(self, queue: Queue, clock: Clock) -> None:
        self._queue = queue
        self._clock = clock
        self._waiters: dict[asyncio.Future[bool], None] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._is_settling = False
        self._is_closed = False

    def __len__(self) -> int:
        return len(self._waiters)

    async def receive(self, limit: int, wait_s: float, is_gone: Callable[[], bool]) -> list[Message]:
        """Take up to ``limit`` messages, waiting up to ``wait_s`` for the first.

        Args:
            limit: 1 to 16.
            wait_s: 0 asks once.
            is_gone: Whether the client has left; asked right before anything is taken.

        Returns:
            None to ``limit`` messages; none when the client has gone.

        Raises:
            MnsError: QueueNotExist when the queue is deleted meanwhile.
        """
        taken = [] if is_gone() else self._queue.receive(limit, self._clock.now_ms())
        if taken or wait_s <= 0:
            return taken
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait_s
        while not taken and loop.time() < deadline:
            if not await self._woken(loop, deadline):
                break
            if self._is_closed:
                raise queue_not_exist()
            if is_gone():
                self.changed()
                break
            taken = self._queue.receive(limit, self._clock.now_ms())
        return taken

    def close(self) -> None:
        """Send every waiter away: the queue is deleted."""
        self._is_closed = True
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(True)

    def changed(self) -> None:
        """Look at the queue again, soon and once, however many changes there were."""
        if self._waiters and not self._is_settling:
            self._is_settling = True
            asyncio.get_running_loop().call_soon(self._settle)

    async def _woken(self, loop: asyncio.AbstractEventLoop, deadline: float) -> bool:
        waiter: asyncio.Future[bool] = loop.create_future()
        end = loop.call_at(deadline, _give_up, waiter)
        self._waiters[waiter] = None
        self._queue.on_change = self.changed
        self.changed()
        is_used = False
        try:
            is_used = await waiter
        finally:
            end.cancel()
            del self._waiters[waiter]
            if not self._waiters:
                self._queue.on_change = None
                self._disarm()
            elif not is_used and waiter.done() and not waiter.cancelled() and waiter.result():
                # Cancelled after it was woken: the client left in that moment, the wake-up must not be lost.
                self.changed()
        return is_used

    def _settle(self) -> None:
        self._is_settling = False
        self._queue.promote(self._clock.now_ms())
        to_wake = self._queue.counts[State.READY]
        for waiter in self._waiters:
            if to_wake <= 0:
                break
            if not waiter.done():
                waiter.set_result(True)
            to_wake -= 1
        self._disarm()
        due_ms = self._queue.next_due_ms()
        if self._waiters and due_ms is not None:
            wait_s = max(due_ms - self._clock.now_ms(), 1) / 1000
            self._timer = asyncio.get_running_loop().call_later(wait_s, self.changed)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _give_up(waiter: asyncio.Future[bool]) -> None:
    if not waiter.done():
        waiter.set_result(False)
