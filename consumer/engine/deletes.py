"""Delete ended messages in batches, in the background.

Whatever comes here is safe to delete: its end is written down. So a delete that fails is tried again as long as its
receipt lives, and after that costs nothing but a redelivery, which the ledger recognises. Handles are read at the last
moment, since a message may have come back meanwhile.

Elsewhere: what must be written first (``engine.settle``).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from typing import Final

import anyio
import structlog

from consumer.engine.delivery import Delivery, Orders
from consumer.engine.pacing import Outage, pause_s
from consumer.errors import CloudError, ConsumerError
from consumer.ops.words import DeleteResult
from consumer.policy import MAX_BATCH

log = structlog.stdlib.get_logger(__name__)

_LINGER_S: Final = 0.02
_HURRY_S: Final = 0.25
_QUIET_S: Final = 5.0
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
        self._outage = Outage(
            "delete failed; the end is written down, so the redelivery will only be deleted",
            "deletes work again",
            name,
            quiet_s=_QUIET_S,
        )
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
        left, tries = list(batch), 0
        try:
            while left := await self._once(left):
                tries += 1
                await anyio.sleep(_HURRY_S if self._hurry else pause_s(tries))
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
            return self._again(list(by_handle.values()) if error.retryable else [], by_handle.values(), error)
        gone = [failure for failure in failures if failure.gone]
        left = [failure for failure in failures if not failure.gone]
        self._observe(DeleteResult.DELETED, len(by_handle) - len(failures))
        self._observe(DeleteResult.GONE, len(gone))
        if len(left) < len(by_handle):
            self._outage.over()
        if not left:
            return []
        again = [by_handle[failure.handle] for failure in left if failure.retryable]
        told = ConsumerError(f"MNS refused {len(left)} of {len(by_handle)}: {left[0].code}: {left[0].detail}")
        return self._again(again, [by_handle[failure.handle] for failure in left], told)

    def _again(
        self, retryable: Sequence[Delivery], failed: Collection[Delivery], error: ConsumerError
    ) -> list[Delivery]:
        """Those whose receipts still live; the others are given up."""
        now = time.monotonic()
        again = [delivery for delivery in retryable if delivery.receipt.expires_at > now]
        given_up = [delivery.message.message_id for delivery in failed if delivery not in again]
        if given_up:
            self._observe(DeleteResult.FAILED, len(given_up))
            self._outage.failed(error)
            log.debug("delete given up", queue=self._name, message_ids=given_up, error=str(error))
        return again
