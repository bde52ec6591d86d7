"""Delete ended messages in batches, in the background.

Whatever comes here is safe to delete: its end is written down. So a delete that fails costs nothing but a
redelivery, which the ledger recognises. Handles are read at the last moment, since
a message may have come back meanwhile.

Elsewhere: what must be written first (``engine.settle``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import anyio
import structlog

from consumer.engine.delivery import Delivery, Orders
from consumer.errors import CloudError
from consumer.ops.words import DeleteResult
from consumer.policy import MAX_BATCH

log = structlog.stdlib.get_logger(__name__)

_LINGER_S: Final = 0.02
_TRIES: Final = 6
_PAUSE_S: Final = 0.5
_CALLS_AT_ONCE: Final = 8


class Deletes:
    """The buffer of one queue's ended messages.

    Args:
        queue: The queue's client.
        name: The queue's name, for the log.
        observe: Told how many deletions ended how.
    """

    def __init__(self, *, queue: Orders, name: str, observe: Callable[[DeleteResult, int], None]) -> None:
        self._queue = queue
        self._name = name
        self._observe = observe
        self._waiting: list[Delivery] = []
        self._under_way = 0
        self._news = anyio.Event()
        self._full = anyio.Event()
        self._room = anyio.Semaphore(_CALLS_AT_ONCE)
        self._settled = anyio.Event()
        self._hurry = False

    @property
    def pending(self) -> int:
        """Messages that are not known to be deleted yet."""
        return len(self._waiting) + self._under_way

    def add(self, delivery: Delivery) -> None:
        """Delete this one soon; its end is written down."""
        self._waiting.append(delivery)
        self._news.set()
        if len(self._waiting) >= MAX_BATCH:
            self._full.set()

    async def run(self) -> None:
        """Delete what comes, until cancelled."""
        async with anyio.create_task_group() as calls:
            while True:
                await self._news.wait()
                if len(self._waiting) < MAX_BATCH and not self._hurry:
                    with anyio.move_on_after(_LINGER_S):
                        await self._full.wait()
                self._full = anyio.Event()
                await self._room.acquire()
                batch, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
                if not self._waiting:
                    self._news = anyio.Event()
                self._under_way += len(batch)
                calls.start_soon(self._delete, batch)

    async def flush(self) -> None:
        """Return when nothing is pending; the caller sets the deadline."""
        self._hurry = True
        self._full.set()
        while self.pending:
            self._settled = anyio.Event()
            await self._settled.wait()

    async def _delete(self, batch: Sequence[Delivery]) -> None:
        left = list(batch)
        try:
            for tries in range(_TRIES):
                left = await self._once(left)
                if not left:
                    return
                await anyio.sleep(_PAUSE_S * (tries + 1) if not self._hurry else _PAUSE_S / 2)
            self._give_up(left, f"tried {_TRIES} times")
        finally:
            self._under_way -= len(batch)
            self._room.release()
            self._settled.set()

    async def _once(self, batch: Sequence[Delivery]) -> list[Delivery]:
        """One call; returns those worth another try."""
        by_handle = {}
        for delivery in batch:
            # A renewal under way may be replacing the receipt at this very moment; none begins after this.
            async with delivery.lock:
                by_handle[delivery.receipt.handle] = delivery
        try:
            failures = await self._queue.delete(list(by_handle))
        except CloudError as error:
            if error.retryable:
                return list(by_handle.values())
            self._give_up(list(by_handle.values()), str(error))
            return []
        gone = [failure for failure in failures if failure.gone]
        again = [failure for failure in failures if failure.retryable and not failure.gone]
        refused = [failure for failure in failures if not failure.retryable and not failure.gone]
        self._observe(DeleteResult.DELETED, len(by_handle) - len(failures))
        self._observe(DeleteResult.GONE, len(gone))
        if refused:
            self._give_up([by_handle[failure.handle] for failure in refused], refused[0].detail)
        return [by_handle[failure.handle] for failure in again]

    def _give_up(self, batch: Sequence[Delivery], why: str) -> None:
        self._observe(DeleteResult.FAILED, len(batch))
        log.warning(
            "delete failed; the end is written down, so the redelivery will only be deleted",
            queue=self._name,
            message_ids=[delivery.message.message_id for delivery in batch],
            why=why,
        )
