"""Slots: how many handlers may run at once.

A slot is taken before a message is asked for, and given back after its run. So nothing received waits in memory while
its lease runs out. A message whose run has ended, or that no handler takes, leaves its slot before it is settled, so
poison costs good messages no slots. How many may be leaving is limited: behind a slow store they keep their slots, and
polling waits.

A message that waits for the turn of a handler with a ``concurrency`` limit steps aside: it lends its slot to messages
of other handlers and takes one back when its turn comes, before any new message does. How many may stand aside is
limited to the number of slots.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field

import anyio


@dataclass(slots=True, eq=False)
class _Waiter:
    """A poll that waits for ``count`` free slots, or for any slot that came back unused."""

    count: int
    or_unused: bool
    event: asyncio.Event = field(default_factory=asyncio.Event)


class Slots:
    """The slots of one queue."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.free = total
        self.leaving = 0
        """Messages that have left their slots and are not settled yet."""
        self.aside = 0
        """Messages that wait for their handler's turn without a slot."""
        self._returning: deque[asyncio.Future[None]] = deque()
        self._came_back_unused = False
        self._waiters: list[_Waiter] = []

    async def any_free(self) -> None:
        """Return when at least one is free."""
        await self._wait_for(1)

    async def take(self, most: int, linger_s: float) -> int:
        """Take free slots, and return how many: 1 to ``most``.

        Once one is free, it waits up to ``linger_s`` for ``most`` of them: fuller batches cost fewer requests, but one
        slow job must not idle the other slots. Slots that came back unused have waited already.
        """
        while True:
            await self._wait_for(1)
            with anyio.move_on_after(linger_s):
                await self._wait_for(min(most, self.total), or_unused=True)
            self._came_back_unused = False
            # Another poll may have been quicker while this one lingered.
            if taken := self.take_now(most):
                return taken

    async def take_all(self, count: int, patience_s: float) -> bool:
        """Take exactly ``count`` slots within ``patience_s`` seconds, or none; returns whether they were taken."""
        with anyio.move_on_after(patience_s):
            await self._wait_for(count)
        # Another poll may have been quicker.
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
        """Free slots; ``unused`` when no handler ran in them: then the next messages are asked for at once."""
        while count and self._returning:
            waiter = self._returning.popleft()
            if not waiter.done():
                waiter.set_result(None)
                count -= 1
        self.free += count
        self._came_back_unused |= unused
        for poll in self._waiters:
            if self.free >= poll.count or (poll.or_unused and self._came_back_unused):
                poll.event.set()

    async def reclaim(self) -> None:
        """Take one slot before any poll does."""
        if self.free:
            self.free -= 1
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._returning.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            # It may have been given a slot at this very moment.
            if waiter.done() and not waiter.cancelled():
                self.give_back(1)
            raise

    async def _wait_for(self, count: int, *, or_unused: bool = False) -> None:
        while self.free < count and not (or_unused and self._came_back_unused):
            waiter = _Waiter(count, or_unused)
            self._waiters.append(waiter)
            try:
                await waiter.event.wait()
            finally:
                self._waiters.remove(waiter)


class Slot:
    """The slot of one message, taken before the message was asked for."""

    __slots__ = ("_left", "_slots", "is_aside")

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self._left = False
        self.is_aside = False
        """Whether its message waits without it."""

    def leave(self, *, unused: bool = False) -> None:
        """Leave it to the next message, unless too many are leaving already; ``unused`` when no handler ran in it."""
        slots = self._slots
        if self._left or self.is_aside or slots.leaving >= slots.total:
            return
        self._left = True
        slots.leaving += 1
        slots.give_back(1, unused=unused)

    def step_aside(self) -> bool:
        """Lend it to another message until ``come_back``; ``False`` where too many stand aside already."""
        slots = self._slots
        if slots.aside >= slots.total:
            return False
        self.is_aside = True
        slots.aside += 1
        slots.give_back(1, unused=True)
        return True

    async def come_back(self) -> None:
        """Take a slot again, as soon as one is free."""
        await self._slots.reclaim()
        self.is_aside = False
        self._slots.aside -= 1

    def close(self) -> None:
        """Its message is settled."""
        if self.is_aside:
            self._slots.aside -= 1
        elif self._left:
            self._slots.leaving -= 1
        else:
            self._slots.give_back(1)
