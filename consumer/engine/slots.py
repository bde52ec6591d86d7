"""Free places for handlers' runs: taken before asking, given back when a run has ended.

What is received has a handler's place already, so nothing waits in memory while its visibility runs out. A message
whose run has ended, or that no handler takes, needs its place no more while its end is written down: it leaves it to
the next one. So poison costs the good no places. How many may be on their way out is limited: behind a slow store they
keep their places, and polling waits.

A message that waits for the turn of a handler with a limit of its own (``concurrency``) steps aside: it gives its place
to the messages of other handlers and takes one again when its turn has come, before any new message does. How many may
stand aside is limited to the number of places.

Elsewhere: who asks (``engine.poll``), who leaves when (``engine.process``).
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field

import anyio


@dataclass(slots=True, eq=False)
class _Waiter:
    """A poll that waits.

    Args:
        count: For so many free places.
        unless_hasty: Or for any that came back unused.
        event: Set when they may be there.
    """

    count: int
    unless_hasty: bool
    event: asyncio.Event = field(default_factory=asyncio.Event)


class Slots:
    """A count of places with a patient way to take several.

    Args:
        total: How many there are.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.free = total
        self.leaving = 0
        """Messages that have left their places and are not settled yet."""
        self.aside = 0
        """Messages that wait for their handler's turn without a place."""
        self._returning: deque[asyncio.Future[None]] = deque()
        self._hasty = False
        self._waiters: list[_Waiter] = []

    @property
    def taken(self) -> int:
        """Places that are not free."""
        return self.total - self.free

    async def any_free(self) -> None:
        """Return when at least one is free."""
        await self._wait_for(1)

    async def take(self, most: int, linger_s: float) -> int:
        """Take free places, at least one.

        Args:
            most: How many are of use.
            linger_s: How long to wait, once one is free, for ``most`` of them: fuller batches cost fewer requests,
                but one slow job must not idle the other places. Places that came back without a run have waited
                already.

        Returns:
            How many were taken, 1 to ``most``.
        """
        while True:
            await self._wait_for(1)
            with anyio.move_on_after(linger_s):
                await self._wait_for(min(most, self.total), unless_hasty=True)
            self._hasty = False
            # Another poll may have been quicker while this one lingered.
            if taken := self.take_now(most):
                return taken

    async def take_all(self, count: int, patience_s: float) -> bool:
        """Take so many places or none.

        Args:
            count: How many.
            patience_s: How long to wait for them.

        Returns:
            Whether they were taken.
        """
        with anyio.move_on_after(patience_s):
            await self._wait_for(count)
        # Just now another poll may have been quicker.
        if self.free < count:
            return False
        self.free -= count
        return True

    def take_now(self, most: int) -> int:
        """Take what is free at this moment, possibly nothing."""
        taken = min(self.free, most)
        self.free -= taken
        return taken

    def give_back(self, count: int, *, unused: bool = False) -> None:
        """Places are free again.

        Args:
            count: How many.
            unused: Whether they come back without a run: then the next messages had better be asked for at once.
        """
        while count and self._returning:
            waiter = self._returning.popleft()
            if not waiter.done():
                waiter.set_result(None)
                count -= 1
        self.free += count
        self._hasty |= unused
        for poll in self._waiters:
            if self.free >= poll.count or (poll.unless_hasty and self._hasty):
                poll.event.set()

    async def reclaim(self) -> None:
        """Take one place before any poll does."""
        if self.free:
            self.free -= 1
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._returning.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            # It may have been handed over at the very moment.
            if waiter.done() and not waiter.cancelled():
                self.give_back(1)
            raise

    async def _wait_for(self, count: int, *, unless_hasty: bool = False) -> None:
        while self.free < count and not (unless_hasty and self._hasty):
            waiter = _Waiter(count, unless_hasty)
            self._waiters.append(waiter)
            try:
                await waiter.event.wait()
            finally:
                self._waiters.remove(waiter)


class Place:
    """The place of one message, taken before it was asked for.

    Args:
        slots: Where.
    """

    __slots__ = ("_left", "_slots", "is_aside")

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self._left = False
        self.is_aside = False
        """Whether its message waits without it."""

    def leave(self, *, unused: bool = False) -> None:
        """Leave it to the next message, unless too many are on their way out already.

        Args:
            unused: Whether no handler ran in it.
        """
        slots = self._slots
        if self._left or self.is_aside or slots.leaving >= slots.total:
            return
        self._left = True
        slots.leaving += 1
        slots.give_back(1, unused=unused)

    def step_aside(self) -> bool:
        """Give it to another message until ``come_back``; ``False`` where too many stand aside already."""
        slots = self._slots
        if slots.aside >= slots.total:
            return False
        self.is_aside = True
        slots.aside += 1
        slots.give_back(1, unused=True)
        return True

    async def come_back(self) -> None:
        """Take a place again, as soon as one is free."""
        await self._slots.reclaim()
        self.is_aside = False
        self._slots.aside -= 1

    def close(self) -> None:
        """The message is settled."""
        if self.is_aside:
            self._slots.aside -= 1
        elif self._left:
            self._slots.leaving -= 1
        else:
            self._slots.give_back(1)
