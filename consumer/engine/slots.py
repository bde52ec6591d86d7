"""Free places for handlers' runs: taken before asking, given back when a run has ended.

What is received has a handler's place already, so nothing waits in memory while its visibility runs out. A message
whose run has ended, or that no handler takes, needs its place no more while its end is written down: it leaves it to
the next one. So poison costs the good no places. How many may be on their way out is limited: behind a slow store they
keep their places, and polling waits.

Elsewhere: who asks (``engine.poll``), who leaves when (``engine.process``).
"""

from __future__ import annotations

import asyncio

import anyio


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
        self._enough = asyncio.Event()
        self._wanted = 1

    @property
    def taken(self) -> int:
        """Places that are not free."""
        return self.total - self.free

    async def any_free(self) -> None:
        """Return when at least one is free."""
        await self._wait_for(1)

    async def take(self, most: int, linger_s: float) -> int:
        """Take free places, at least one. One task at a time may wait here.

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
        if self._hasty or self.free >= self._wanted:
            self._enough.set()

    async def _wait_for(self, count: int, *, unless_hasty: bool = False) -> None:
        while self.free < count and not (unless_hasty and self._hasty):
            self._wanted = count
            self._enough.clear()
            await self._enough.wait()


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
