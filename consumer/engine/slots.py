"""Free places for messages: taken before asking, given back when a message is settled.

What is received has a handler's place already, so nothing waits in memory while its visibility runs out.

Elsewhere: who asks (``engine.poll``), who gives back (``engine.process``).
"""

from __future__ import annotations

import anyio


class Slots:
    """A count of places with a patient way to take several.

    Args:
        total: How many there are.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.free = total
        self._enough = anyio.Event()
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
                but one slow job must not idle the other places.

        Returns:
            How many were taken, 1 to ``most``.
        """
        while True:
            await self._wait_for(1)
            if self.free < min(most, self.total):
                with anyio.move_on_after(linger_s):
                    await self._wait_for(min(most, self.total))
            # Another poll may have been quicker while this one lingered.
            if taken := self.take_now(most):
                return taken

    def take_now(self, most: int) -> int:
        """Take what is free at this moment, possibly nothing."""
        taken = min(self.free, most)
        self.free -= taken
        return taken

    def give_back(self, count: int) -> None:
        """Places are free again."""
        self.free += count
        if self.free >= self._wanted:
            self._enough.set()

    async def _wait_for(self, count: int) -> None:
        while self.free < count:
            self._wanted = count
            self._enough = anyio.Event()
            await self._enough.wait()
