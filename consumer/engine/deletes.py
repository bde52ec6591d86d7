"""Delete ended messages in batches, in the background.

Whatever comes here is safe to delete: its end is written down. So a delete that fails is tried again as long as its
receipt lives, and after that costs nothing but a redelivery, which the ledger recognises. While deletes fail one batch
at a time is tried, and when many wait the polls do too: what can't be deleted had better stay in the queue. Handles are
read at the last moment, since a message may have come back meanwhile.

Elsewhere: what must be written first (``engine.settle``).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Final

import anyio
import structlog

from consumer.cloud.faults import lacks_a_right
from consumer.cloud.messages import DeleteFailure
from consumer.engine.delivery import Delivery, Orders
from consumer.engine.pacing import Outage, Probes
from consumer.engine.tasks import Tasks
from consumer.errors import CloudError, ConsumerError, Fault
from consumer.ops.metrics import DeleteResult
from consumer.ops.traces import Traces
from consumer.policy import MAX_BATCH

log = structlog.stdlib.get_logger(__name__)

_LINGER_S: Final = 0.02
_HURRY_S: Final = 0.25
_QUIET_S: Final = 5.0
_CALLS_AT_ONCE: Final = 8
_MANY: Final = 256


class Deletes:
    """The buffer of one queue's ended messages.

    Args:
        queue: The queue's client.
        name: The queue's name, for the log.
        observe: Told how many deletions ended how.
        covered: Whether an outage of the whole queue has been told of: then failing deletes are no news.
        traces: Tells OpenTelemetry, where that is wanted.
    """

    def __init__(
        self,
        *,
        queue: Orders,
        name: str,
        observe: Callable[[DeleteResult, int], None],
        covered: Callable[[], bool] = lambda: False,
        traces: Traces | None = None,
    ) -> None:
        self._queue = queue
        self._name = name
        self._observe = observe
        self._covered = covered
        self._traces = traces
        self._outage = Outage(
            "delete failed; the end is written down, so the redelivery will only be deleted",
            "deletes work again",
            name,
            quiet_s=_QUIET_S,
        )
        self._waiting: list[Delivery] = []
        self._under_way = 0
        self._news = asyncio.Event()
        self._full = asyncio.Event()
        self._room = anyio.Semaphore(_CALLS_AT_ONCE)
        self._settled = asyncio.Event()
        self._probes = Probes()
        self._quiet = False
        self._error: ConsumerError = ConsumerError("no delete has failed")
        self._hurry = asyncio.Event()

    @property
    def pending(self) -> int:
        """Messages that are not known to be deleted yet."""
        return len(self._waiting) + self._under_way

    @property
    def failing(self) -> bool:
        """Whether the last call failed."""
        return self._probes.failing

    @property
    def crowded(self) -> bool:
        """Whether so many wait for deletes to work again that more would only be handed out in vain."""
        return self.failing and self.pending >= _MANY

    def add(self, delivery: Delivery) -> None:
        """Delete this one soon; its end is written down."""
        self._waiting.append(delivery)
        self._news.set()
        if len(self._waiting) >= MAX_BATCH:
            self._full.set()

    async def run(self) -> None:
        """Delete what comes, until cancelled."""
        calls = Tasks()
        try:
            while True:
                await self._news.wait()
                if len(self._waiting) < MAX_BATCH and not self._hurry.is_set():
                    with anyio.move_on_after(_LINGER_S):
                        await self._full.wait()
                self._full.clear()
                await self._room.acquire()
                if self._probes.failing:
                    await self._pause()
                    self._drop_expired()
                batch, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
                if not self._waiting:
                    self._news.clear()
                if not batch:
                    self._room.release()
                    continue
                self._under_way += len(batch)
                calls.begin(self._delete(batch))
        finally:
            with anyio.CancelScope(shield=True):
                await calls.end(0)

    async def flush(self) -> None:
        """Return when nothing is pending; the caller sets the deadline."""
        self._hurry.set()
        self._full.set()
        while self.pending:
            self._settled.clear()
            await self._settled.wait()

    async def _pause(self) -> None:
        """Wait for the turn to try whether deletes work again."""
        if self._hurry.is_set():
            await anyio.sleep(_HURRY_S)
            return
        while (left_s := self._probes.not_before - time.monotonic()) > 0 and not self._hurry.is_set():
            with anyio.move_on_after(left_s):
                await self._hurry.wait()
        self._probes.begin()

    async def _delete(self, batch: Sequence[Delivery]) -> None:
        again: Sequence[Delivery] = ()
        try:
            again = await self._once(batch)
        finally:
            self._under_way -= len(batch)
            if again:
                self._waiting[:0] = again
                self._news.set()
            self._room.release()
            self._settled.set()

    async def _once(self, batch: Sequence[Delivery]) -> list[Delivery]:
        """One call; returns those worth another try."""
        by_handle: dict[str, Delivery] = {}
        for delivery in batch:
            # A renewal under way may be replacing the receipt at this very moment; none begins after this.
            if delivery.lock.locked():
                async with delivery.lock:
                    pass
            by_handle[delivery.receipt.handle] = delivery
        asked_at = time.monotonic()
        try:
            failures = await self._queue.delete(list(by_handle))
        except CloudError as error:
            self._trace(batch, asked_at, str(error.fault))
            if error.fault is Fault.REQUEST:
                self._give_up(list(by_handle.values()), error)
                return []
            self._probes.failed(asked_at)
            self._error, self._quiet = error, self._covered()
            # Nothing but a change of the rights helps: say so before the receipts have died.
            if lacks_a_right(error.code) and not self._quiet:
                self._outage.failed(error)
            return self._alive(list(by_handle.values()), error)
        self._trace(batch, asked_at)
        self._probes.passed()
        self._quiet = False
        return self._sort(by_handle, failures)

    def _trace(self, batch: Sequence[Delivery], asked_at: float, fault: str = "") -> None:
        if self._traces is not None:
            lives = [delivery.life for delivery in batch]
            self._traces.settled(self._name, "delete", lives, time.monotonic() - asked_at, fault)

    def _sort(self, by_handle: dict[str, Delivery], failures: Sequence[DeleteFailure]) -> list[Delivery]:
        """Count what an answer says of each handle; returns those worth another try."""
        gone = sum(failure.gone for failure in failures)
        left = [failure for failure in failures if not failure.gone]
        self._observe(DeleteResult.DELETED, len(by_handle) - len(failures))
        self._observe(DeleteResult.GONE, gone)
        if not left:
            self._outage.over()
            return []
        told = ConsumerError(f"MNS refused {len(left)} of {len(by_handle)}: {left[0].code}: {left[0].detail}")
        self._give_up([by_handle[failure.handle] for failure in left if not failure.retryable], told)
        return self._alive([by_handle[failure.handle] for failure in left if failure.retryable], told)

    def _alive(self, failed: Sequence[Delivery], error: ConsumerError) -> list[Delivery]:
        """Those whose receipts still live; the others are given up."""
        now = time.monotonic()
        self._give_up([one for one in failed if one.receipt.expires_at <= now], error)
        return [one for one in failed if one.receipt.expires_at > now]

    def _drop_expired(self) -> None:
        """After an outage there may be many whose receipts have died meanwhile: no call is worth making for them.

        The newest are tried all the same: where receipts live shorter than the pauses last, nothing else would show
        that deletes work again.
        """
        newest = self._waiting[-MAX_BATCH:]
        self._waiting = [*self._alive(self._waiting[:-MAX_BATCH], self._error), *newest]

    def _give_up(self, deliveries: Sequence[Delivery], error: ConsumerError) -> None:
        if not deliveries:
            return
        self._observe(DeleteResult.FAILED, len(deliveries))
        if not self._quiet:
            self._outage.failed(error)
        ids = [delivery.message.message_id for delivery in deliveries]
        log.debug("delete given up", queue=self._name, message_ids=ids, error=str(error))
