"""Stop asking for messages while the store is down, and try it until it is back.

With no ledger nothing can be claimed, ended or set aside, so messages are better off in their queue: whoever
meets a fault shuts the gate, polls wait in front of it, and one task knocks until the store takes writes again.

A fault may be of one write alone, as when another session keeps its row locked: then the store answers the knock at
once and the gate opens again untold. That write is tried on by itself, with growing pauses, its message held meanwhile.

Elsewhere: who meets the fault (``engine.process``, ``engine.settle``), who waits (``engine.poll``).
"""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import anyio
import structlog

from consumer.engine.pacing import Outage, pause_s
from consumer.errors import StoreError
from consumer.store.ledger import Ledger

T = TypeVar("T")

log = structlog.stdlib.get_logger(__name__)

STALL_S: Final = 5.5
"""A call that takes longer hangs in the disk: SQLite itself waits at most 5 s, for another process's lock."""
_STUBBORN_CAP_S: Final = 30.0
_LOOK_S: Final = 0.5


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
        self._stubborn = Outage(
            "an end can't be written though the store works; its message is held and it is tried on",
            "all ends are written again",
        )
        self._stubborn_writes = 0
        self._opened = anyio.Event()
        self._opened.set()
        self._trouble = anyio.Event()
        self._error = StoreError("")

    @property
    def is_open(self) -> bool:
        """Whether the store works, as far as is known."""
        return self._opened.is_set()

    @property
    def stalled_s(self) -> float:
        """For how many seconds the disk has been at one call, from ``STALL_S`` on; 0 before."""
        seconds = self._ledger.busy_s()
        return seconds if seconds >= STALL_S else 0.0

    def shut(self, error: StoreError) -> None:
        """A call to the store failed: hold the polls back until it is known to work."""
        if self._opened.is_set():
            self._opened = anyio.Event()
            self._error = error
            self._trouble.set()

    async def passed(self) -> None:
        """Return when the gate is open."""
        await self._opened.wait()

    async def persist(self, write: Callable[[], Awaitable[T]], *, most_tries: float = math.inf) -> T:
        """Write until it is written; every write is idempotent.

        Args:
            write: The call to the store.
            most_tries: How often it is tried while the store works and it fails all the same.

        Raises:
            StoreError: It failed so often. Ends otherwise only by cancellation.
        """
        try:
            return await write()
        except StoreError as error:
            self.shut(error)
        await self.passed()
        try:
            return await write()
        except StoreError as error:
            self.shut(error)
            return await self._persist_alone(write, error, most_tries)

    async def _persist_alone(self, write: Callable[[], Awaitable[T]], error: StoreError, most_tries: float) -> T:
        """The store was tried and worked, and this write failed all the same: on with it, without the others."""
        tries = 1
        self._stubborn_writes += 1
        try:
            while True:
                await self.passed()
                self._stubborn.failed(error)
                await anyio.sleep(pause_s(tries, cap_s=_STUBBORN_CAP_S))
                try:
                    return await write()
                except StoreError as again:
                    error = again
                    tries += 1
                    self.shut(error)
                    if tries >= most_tries:
                        raise
        finally:
            self._stubborn_writes -= 1
            if not self._stubborn_writes:
                self._stubborn.over()

    async def run(self) -> None:
        """Knock while the gate is shut, until cancelled."""
        while True:
            await self._trouble.wait()
            self._trouble = anyio.Event()
            while not self._opened.is_set():
                try:
                    await self._ledger.ping()
                except StoreError as error:
                    # What was met first says more than the knock that failed after it.
                    seconds = self._outage.failed(error if self._outage.on else self._error)
                    self._observe(0)
                    await anyio.sleep(seconds)
                else:
                    self._outage.over()
                    self._observe(1)
                    self._opened.set()

    async def watch_disk(self) -> None:
        """Log when a call begins to hang in the disk and when it returns, until cancelled."""
        began_at: float | None = None
        while True:
            await anyio.sleep(_LOOK_S)
            stalled_s = self.stalled_s
            if stalled_s and began_at is None:
                began_at = time.monotonic() - stalled_s
                self._observe(0)
                log.warning("the disk hangs under the store; messages wait for it", seconds=round(stalled_s, 1))
            elif began_at is not None and not stalled_s:
                log.info("the disk answers the store again", seconds=round(time.monotonic() - began_at, 1))
                began_at = None
                if self.is_open:
                    self._observe(1)
