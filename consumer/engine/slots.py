"""Free places for handlers' runs: taken before asking, given back when a run has ended.

What is received has a handler's place already, so nothing waits in memory while its visibility runs out. A message
whose run has ended, or that no handler takes, needs its place no more while its end is written down: it leaves it to
the next one. So poison costs the good no places. How many may be on their way out is limited: behind a slow store they
keep their places, and polling waits.

Elsewhere: who asks (``engine.poll``), who leaves when (``engine.process``).
"""

from __future__ import annotations

import asyncio
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
        self.free += count
        self._hasty |= unused
        for waiter in self._waiters:
            if self.free >= waiter.count or (waiter.unless_hasty and self._hasty):
                waiter.event.set()

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

    __slots__ = ("_left", "_slots")

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self._left = False

    def leave(self, *, unused: bool = False) -> None:
        """Leave it to the next message, unless too many are on their way out already.

        Args:
            unused: Whether no handler ran in it.
        """
        slots = self._slots
        if self._left or slots.leaving >= slots.total:
            return
        self._left = True
        slots.leaving += 1
        slots.give_back(1, unused=unused)

    def close(self) -> None:
        """The message is settled."""
        if self._left:
            self._slots.leaving -= 1
        else:
            self._slots.give_back(1)
