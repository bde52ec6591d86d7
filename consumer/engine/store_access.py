"""How the engine uses the store: writes are retried until they succeed, and polling pauses while the store is down.

Without the ledger nothing can be claimed or settled, so messages are better off in their queue. A failed write first
probes the store. If the store is down its breaker opens: polls wait, and the write is retried once the store works. If
the store works, the fault is of this write alone, as when another session locks its row: that write is retried by
itself, with growing pauses, while its message's lease is renewed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable
from typing import Final, ParamSpec, TypeVar

import anyio
import structlog

from consumer.engine.breaker import Breaker, backoff_s
from consumer.errors import StoreError
from consumer.store.ledger import Ledger

P = ParamSpec("P")
T = TypeVar("T")

log = structlog.stdlib.get_logger(__name__)

STALL_S: Final = 5.5
"""A call that takes longer hangs in the disk: SQLite itself waits at most 5 s, for another process's lock."""
_ONE_WRITE_CAP_S: Final = 30.0
_MOST_TRIES: Final = 4
_LOOK_S: Final = 0.5


class StoreAccess:
    """The ledger and its circuit breaker; one for all queues.

    Args:
        ledger: The store.
        observe: Called with whether the store works, when that changes.
    """

    def __init__(self, ledger: Ledger, observe: Callable[[bool], None]) -> None:
        self.ledger = ledger
        self._observe = observe
        self.breaker = Breaker(
            "store failed; polling pauses until it works", "store works again", probe=ledger.ping, on_change=observe
        )
        self._one_write = Breaker(
            "a write fails though the store works; it is retried while its message is held",
            "all writes succeed again",
        )
        self._failing_writes = 0

    @property
    def is_up(self) -> bool:
        """Whether the store works, as far as is known."""
        return self.breaker.is_closed

    @property
    def stalled_s(self) -> float:
        """For how many seconds the disk has been at one call, from ``STALL_S`` on; 0 before."""
        seconds = self.ledger.busy_s()
        return seconds if seconds >= STALL_S else 0.0

    async def persist(self, write: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """Write until it succeeds or is cancelled; every write is idempotent."""
        asked_at = time.monotonic()
        try:
            return await write(*args, **kwargs)
        except StoreError as error:
            return await self._retry(write, error, asked_at, math.inf, *args, **kwargs)

    async def try_write(self, write: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """As ``persist``, but give up after a few tries that fail while the store works.

        Raises:
            StoreError: The last try's.
        """
        asked_at = time.monotonic()
        try:
            return await write(*args, **kwargs)
        except StoreError as error:
            return await self._retry(write, error, asked_at, _MOST_TRIES, *args, **kwargs)

    async def _retry(
        self,
        write: Callable[P, Awaitable[T]],
        error: StoreError,
        asked_at: float,
        most_tries: float,
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Retry a write that failed with ``error``."""
        faults = 0
        try:
            while True:
                if await self.breaker.confirm(error, asked_at):
                    faults += 1
                    if faults >= most_tries:
                        raise error
                    if faults == 1:
                        # The store failed at that moment and works now: most likely the write does too.
                        self._failing_writes += 1
                    else:
                        self._one_write.failed(error)
                        await anyio.sleep(backoff_s(faults - 1, cap_s=_ONE_WRITE_CAP_S))
                else:
                    await self.breaker.wait_closed()
                asked_at = time.monotonic()
                try:
                    answer = await write(*args, **kwargs)
                except StoreError as again:
                    error = again
                    continue
                if faults and self._failing_writes == 1:
                    self._one_write.succeeded()
                return answer
        finally:
            if faults:
                self._failing_writes -= 1

    async def watch_disk(self) -> None:
        """Log when a call begins to hang in the disk and when it returns, until cancelled."""
        began_at: float | None = None
        while True:
            await anyio.sleep(_LOOK_S)
            stalled_s = self.stalled_s
            if stalled_s and began_at is None:
                began_at = time.monotonic() - stalled_s
                self._observe(False)  # noqa: FBT003 - the callback's only argument
                log.warning("the disk hangs under the store; messages wait for it", seconds=round(stalled_s, 1))
            elif began_at is not None and not stalled_s:
                log.info("the disk answers the store again", seconds=round(time.monotonic() - began_at, 1))
                began_at = None
                if self.breaker.fault is None:
                    self._observe(True)  # noqa: FBT003 - the callback's only argument
