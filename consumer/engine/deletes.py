"""Delete settled messages in batches, in the background.

Whatever comes here is safe to delete: its outcome is persisted. So a delete that fails is retried as long as its
receipt handle is good, and after that costs only a redelivery, which the ledger recognises. While deletes fail one
batch at a time is tried, and when many wait polling pauses: what can't be deleted should stay in the queue. Handles
are read at the last moment, since a message may be redelivered meanwhile.
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
from consumer.engine.breaker import Breaker
from consumer.engine.delivery import Delivery, QueueCalls
from consumer.errors import CloudError, ConsumerError, Fault
from consumer.ops.metrics import DeleteResult, QueueMetrics
from consumer.ops.traces import Traces
from consumer.policy import MAX_BATCH

log = structlog.stdlib.get_logger(__name__)

_LINGER_S: Final = 0.02
_FLUSH_PAUSE_S: Final = 0.25
_QUIET_S: Final = 5.0
_CALLS_AT_ONCE: Final = 8
_MANY: Final = 256


class Deletes:
    """The deletes of one queue; ``suppress_log`` says whether the queue's own outage is already logged."""

    def __init__(
        self,
        queue: QueueCalls,
        metrics: QueueMetrics,
        *,
        suppress_log: Callable[[], bool] | None = None,
        traces: Traces | None = None,
    ) -> None:
        self._queue = queue
        self._name = metrics.name
        self._results = metrics.deletes
        self._traces = traces
        self.breaker = Breaker(
            "deletes fail; the outcomes are persisted, so redeliveries will only be deleted",
            "deletes work again",
            queue=self._name,
            log_after=2,
            quiet_s=_QUIET_S,
            always_fast=True,
            suppress_log=suppress_log,
        )
        self.refusals = Breaker(
            "MNS refuses to delete messages; their outcomes are persisted, so redeliveries will only be deleted",
            "MNS deletes all messages again",
            queue=self._name,
            quiet_s=_QUIET_S,
        )
        self._waiting: list[Delivery] = []
        self._in_calls = 0
        self._added = asyncio.Event()
        self._full = asyncio.Event()
        self._room = anyio.Semaphore(_CALLS_AT_ONCE)
        self._progressed = asyncio.Event()
        self._flushing = asyncio.Event()

    @property
    def pending(self) -> int:
        """Messages that are not known to be deleted yet."""
        return len(self._waiting) + self._in_calls

    @property
    def failing(self) -> bool:
        """Whether the last call failed."""
        return not self.breaker.is_closed

    @property
    def crowded(self) -> bool:
        """Whether enough wait for deletes to work again that polling should pause."""
        return self.failing and self.pending >= _MANY

    def add(self, delivery: Delivery) -> None:
        """Close this one, whose outcome is persisted, and delete its message soon."""
        delivery.close()
        self._waiting.append(delivery)
        self._added.set()
        if len(self._waiting) >= MAX_BATCH:
            self._full.set()

    async def run(self) -> None:
        """Delete what comes, until cancelled."""
        async with anyio.create_task_group() as calls:
            while True:
                await self._added.wait()
                if len(self._waiting) < MAX_BATCH and not self._flushing.is_set():
                    with anyio.move_on_after(_LINGER_S):
                        await self._full.wait()
                self._full.clear()
                await self._room.acquire()
                if self.failing:
                    await self._wait_for_probe()
                    self._drop_expired()
                batch, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
                if not self._waiting:
                    self._added.clear()
                if not batch:
                    self._room.release()
                    continue
                self._in_calls += len(batch)
                calls.start_soon(self._delete, batch)

    async def flush(self) -> None:
        """Return when nothing is pending; the caller sets the deadline."""
        self._flushing.set()
        self._full.set()
        while self.pending:
            self._progressed.clear()
            await self._progressed.wait()

    async def _wait_for_probe(self) -> None:
        """Wait for the turn to try whether deletes work again; a stop tries more often."""
        while not self.breaker.try_probe():
            if self._flushing.is_set():
                await anyio.sleep(_FLUSH_PAUSE_S)
                return
            with anyio.move_on_after(self.breaker.wait_s()):
                await self._flushing.wait()

    async def _delete(self, batch: Sequence[Delivery]) -> None:
        again: Sequence[Delivery] = ()
        try:
            again = await self._call(batch)
        finally:
            self._in_calls -= len(batch)
            if again:
                self._waiting[:0] = again
                self._added.set()
            self._room.release()
            self._progressed.set()

    async def _call(self, batch: Sequence[Delivery]) -> list[Delivery]:
        """One call; returns those worth another try."""
        by_handle: dict[str, Delivery] = {}
        for delivery in batch:
            # A renewal under way may be replacing the receipt handle at this moment; none begins after this.
            if delivery.lock.locked():
                async with delivery.lock:
                    pass
            by_handle[delivery.receipt.handle] = delivery
        asked_at = time.monotonic()
        try:
            failures = await self._queue.delete(list(by_handle))
        except CloudError as error:
            self._trace(batch, asked_at, str(error.fault))
            deliveries = list(by_handle.values())
            if error.fault is Fault.REQUEST:
                self.refusals.failed(error)
                self._give_up(deliveries, error)
                return []
            # Only a change of the rights helps: log it before the receipt handles have expired.
            self.breaker.failed(error, asked_at, urgent=lacks_a_right(error.code))
            return self._unexpired(deliveries, error)
        self._trace(batch, asked_at)
        self.breaker.succeeded()
        return self._sort(by_handle, failures)

    def _trace(self, batch: Sequence[Delivery], asked_at: float, fault: str = "") -> None:
        if self._traces is not None:
            spans = [delivery.span for delivery in batch]
            self._traces.settled(self._name, "delete", spans, time.monotonic() - asked_at, fault)

    def _sort(self, by_handle: dict[str, Delivery], failures: Sequence[DeleteFailure]) -> list[Delivery]:
        """Count what an answer says of each handle; returns those worth another try."""
        gone = sum(failure.gone for failure in failures)
        refused = [failure for failure in failures if not failure.gone]
        self._results[DeleteResult.DELETED].inc(len(by_handle) - len(failures))
        self._results[DeleteResult.GONE].inc(gone)
        if not refused:
            self.refusals.succeeded()
            return []
        first = refused[0]
        error = ConsumerError(f"MNS refused {len(refused)} of {len(by_handle)}: {first.code}: {first.detail}")
        self.refusals.failed(error)
        self._give_up([by_handle[failure.handle] for failure in refused if not failure.retryable], error)
        return self._unexpired([by_handle[failure.handle] for failure in refused if failure.retryable], error)

    def _unexpired(self, failed: Sequence[Delivery], error: ConsumerError) -> list[Delivery]:
        """Those whose receipt handles are still good; the others are given up."""
        now = time.monotonic()
        self._give_up([one for one in failed if one.receipt.expires_at <= now], error)
        return [one for one in failed if one.receipt.expires_at > now]

    def _drop_expired(self) -> None:
        """After an outage the handles of many may have expired meanwhile: no call is made for them.

        The newest are tried all the same: where handles expire sooner than the pauses end, only they show that deletes
        work again.
        """
        newest = self._waiting[-MAX_BATCH:]
        error = self.breaker.fault or ConsumerError("deletes failed")
        self._waiting = [*self._unexpired(self._waiting[:-MAX_BATCH], error), *newest]

    def _give_up(self, deliveries: Sequence[Delivery], error: ConsumerError) -> None:
        if deliveries:
            self._results[DeleteResult.FAILED].inc(len(deliveries))
            ids = [delivery.message.message_id for delivery in deliveries]
            log.debug("delete given up", queue=self._name, message_ids=ids, error=str(error))
