"""Stop asking for messages while the store is down, and try it until it is back.

With no ledger nothing can be claimed, ended or set aside, so messages are better off in their queue: whoever
meets the fault shuts the gate, polls wait in front of it, and one task knocks until the store takes writes again.

Elsewhere: who meets the fault (``engine.process``, ``engine.settle``), who waits (``engine.poll``).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

from consumer.engine.pacing import Outage
from consumer.errors import StoreError
from consumer.store.ledger import Ledger

T = TypeVar("T")


class StoreGate:
    """Open while the store works; one for all lanes.

    Args:
        ledger: The store.
        observe: Told 1 when it opens and 0 when it shuts.
    """

    def __init__(self, ledger: Ledger, observe: Callable[[int], None]) -> None:
        self._ledger = ledger
        self._observe = observe
        self._outage = Outage("store failed; polling pauses until it works", "store works again")
        self._opened = anyio.Event()
        self._opened.set()
        self._trouble = anyio.Event()
        self._pause_s = 0.0

    @property
    def is_open(self) -> bool:
        """Whether the store works, as far as is known."""
        return self._opened.is_set()

    def shut(self, error: StoreError) -> None:
        """The store failed: hold the polls back until it works again."""
        if self._opened.is_set():
            self._opened = anyio.Event()
            self._pause_s = self._outage.failed(error)
            self._observe(0)
            self._trouble.set()

    async def passed(self) -> None:
        """Return when the gate is open."""
        await self._opened.wait()

    async def persist(self, write: Callable[[], Awaitable[T]]) -> T:
        """Write until it is written; every write is idempotent. Ends otherwise only by cancellation."""
        while True:
            try:
                return await write()
            except StoreError as error:
                self.shut(error)
                await self.passed()

    async def run(self) -> None:
        """Knock while the gate is shut, until cancelled."""
        while True:
            await self._trouble.wait()
            self._trouble = anyio.Event()
            while not self._opened.is_set():
                await anyio.sleep(self._pause_s)
                try:
                    await self._ledger.ping()
                except StoreError as error:
                    self._pause_s = self._outage.failed(error)
                else:
                    self._outage.over()
                    self._observe(1)
                    self._opened.set()
