"""The lock of one message's receipt handle, which can also be lent to another thread while the event loop is blocked.

Every renewal replaces the receipt handle and kills the old one, so no two orders about a message may be under way at
once. In the event loop this is a plain ``asyncio.Lock``. The thread that stands in for a blocked loop takes the handle
on loan; who wants the lock waits until the loan has come back, with the newest receipt.

The two sides never wait for each other in a circle and need no lock between them: the loop sets ``_locked`` and then
looks for loans, the thread counts a loan and then looks at ``_locked``. So at least one of them sees the other.
"""

from __future__ import annotations

import asyncio
from typing import Literal

from consumer.cloud.messages import Receipt


class ReceiptLock(asyncio.Lock):
    """An ``asyncio.Lock`` that also counts loans to one other thread."""

    # Of the class, so that making one for every message costs no more than asyncio's own.
    _loans = 0
    """Written by the other thread alone."""
    _returned = 0
    """Written by the event loop alone."""
    _newest: Receipt | None = None
    """The receipt that the other thread got last, while a loan is out; written by it alone."""
    _back: asyncio.Future[None] | None = None

    def locked(self) -> bool:
        """Whether an order is under way, in the event loop or in the other thread."""
        # Asked for every message: super() would take twice as long.
        return self._loans != self._returned or asyncio.Lock.locked(self)

    async def acquire(self) -> Literal[True]:
        """Acquire it, once the other thread has given back what it has on loan."""
        await super().acquire()
        while self._loans != self._returned:
            self._back = asyncio.get_running_loop().create_future()
            try:
                await self._back
            except BaseException:
                self.release()
                raise
        return True

    def lend(self) -> bool:
        """Take the handle on loan; called by the other thread. ``False`` where the event loop has an order under way.

        Either way ``take_back`` must run in the event loop afterwards, once for each call.
        """
        if self._loans == self._returned:
            self._newest = None
        self._loans += 1
        return not super().locked()

    def newest(self, known: Receipt) -> Receipt:
        """The receipt to use for a loan: of an earlier one that the loop has not taken back yet, else ``known``."""
        return self._newest or known

    def got(self, receipt: Receipt) -> None:
        """The other thread has got a newer receipt."""
        self._newest = receipt

    def take_back(self) -> None:
        """A loan is over; called in the event loop, after the delivery has the newest receipt."""
        self._returned += 1
        if self._back is not None and not self._back.done():
            self._back.set_result(None)
