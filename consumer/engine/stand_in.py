"""Renew leases and claims in place of a blocked event loop, from another thread with clients of its own.

A handler that blocks the event loop also stops the renewals of all other messages. Their leases and claims would end,
and another process would begin the same jobs. So while the loop is blocked, the thread that watches it renews what is
due, by the same rules as ``lease``: the claim first, then the lease.

The loop's objects are only read here. A receipt handle is borrowed (``delivery.ReceiptLock``); the newer receipt is
handed to the event loop, which takes it over when it runs again, before anything else can use the handle.

When a block lasts, a service manager's watchdog or a liveness probe may end the process. The recorded start of another
handler would then count as if that handler had killed the process. So these starts are taken back, except that of
the handler that blocks.
"""

from __future__ import annotations

import asyncio
import math
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import structlog

from consumer.cloud.messages import Receipt
from consumer.engine.delivery import Delivery, QueueCalls
from consumer.engine.lane import Lane
from consumer.engine.lease_state import LeaseEvent, LeaseState, Stage
from consumer.errors import CloudError, Fault, StoreError
from consumer.ops.metrics import RenewalResult
from consumer.store.ledger import Ledger, Standby

log = structlog.stdlib.get_logger(__name__)

LOOK_EVERY_S: Final = 0.1
TAKE_STARTS_BACK_S: Final = 5.0
"""After a block of this length the starts of the handlers that don't block are taken back; supervisors wait longer."""
ANSWER_S: Final = 5.0
"""How long an answer of MNS is awaited: the event loop may wait for it when it runs again."""
_STORE_S: Final = 2.0
_STORE_AGAIN_S: Final = 3.0
_AGAIN_S: Final = 1.0
_CALLS_AT_ONCE: Final = 16
_RENEWABLE: Final = frozenset({LeaseState.HELD, LeaseState.UNCONFIRMED})


@dataclass(frozen=True, slots=True)
class WatchedQueue:
    """One queue whose messages are renewed.

    Args:
        lane: Its parts; they belong to the event loop.
        open_calls: Opens a client in another event loop; ``None`` where there are no leases to renew.
    """

    lane: Lane
    open_calls: Callable[[], AbstractAsyncContextManager[QueueCalls]] | None = None


class OwnLoop(asyncio.SelectorEventLoop):
    """The event loop of a thread that may block: resolves names in place, since no other thread may be left."""

    async def getaddrinfo(self, *args: Any, **kwargs: Any) -> Any:
        """See ``socket.getaddrinfo``."""
        return socket.getaddrinfo(*args, **kwargs)


class StandIn:
    """Stands in for the event loop during one block.

    Args:
        queues: Whose messages.
        ledger: Where the claims are.
        loop: The event loop that is blocked.
        is_over: Whether it runs again.
        blocking: The delivery whose handler blocks, if it is known: its recorded start stays.
    """

    def __init__(
        self,
        queues: Sequence[WatchedQueue],
        ledger: Ledger,
        loop: asyncio.AbstractEventLoop,
        is_over: Callable[[], bool],
        blocking: Delivery | None,
    ) -> None:
        self._queues = queues
        self._ledger = ledger
        self._loop = loop
        self._is_over = is_over
        self._blocking = blocking
        self._standby: Standby | None = None
        self._calls: dict[int, QueueCalls] = {}
        self._due_at: dict[Delivery, float] = {}
        self._without_lease: set[Delivery] = set()
        self._store_at = 0.0
        self._room = asyncio.Semaphore(_CALLS_AT_ONCE)
        self.renewed = 0
        """Leases that were renewed."""
        self.unstarted: Sequence[Delivery] = ()
        """The deliveries whose starts were taken back."""

    async def run(self) -> None:
        """Renew until the event loop runs again."""
        began_at = time.monotonic()
        calls: set[asyncio.Task[None]] = set()
        async with AsyncExitStack() as stack:
            while not self._is_over():
                due = self._due(time.monotonic())
                for queue, delivery in await self._claimed(due, stack):
                    client = await self._client(queue, stack)
                    if client is not None:
                        calls.add(asyncio.create_task(self._renew(queue.lane, delivery, client)))
                if self._blocking is not None and time.monotonic() - began_at >= TAKE_STARTS_BACK_S:
                    await self._take_starts_back(stack)
                await asyncio.sleep(LOOK_EVERY_S)
            # Never cancelled: the answer holds the only handle that still works.
            for end in await asyncio.gather(*calls, return_exceptions=True):
                if isinstance(end, Exception):
                    log.error("internal error; a lease was not renewed", error=repr(end))

    def _due(self, now: float) -> list[tuple[WatchedQueue, Delivery]]:
        """What is to be renewed now; not due again before its try has ended."""
        due = []
        for queue in self._queues:
            leases = queue.lane.leases
            for delivery in leases.kept():
                is_overdue = delivery.stage is Stage.RECEIVED and now - delivery.received_at >= leases.policy.max_hold_s
                # Infinite where the event loop has begun a renewal.
                planned_at = 0.0 if delivery.renew_at == math.inf else delivery.renew_at
                is_due = self._due_at.get(delivery, planned_at) <= now
                if is_due and not is_overdue and delivery.stage is not Stage.CLOSED:
                    self._due_at[delivery] = now + leases.policy.lease_step_s / 2
                    due.append((queue, delivery))
        return due

    async def _claimed(
        self, due: Sequence[tuple[WatchedQueue, Delivery]], stack: AsyncExitStack
    ) -> list[tuple[WatchedQueue, Delivery]]:
        """Renew claims; returns those whose lease is ours to renew too."""
        held = {one.key: (queue, one) for queue, one in due if one.key is not None and one.is_claimed}
        gone: Sequence[str] = ()
        if held and time.monotonic() >= self._store_at:
            lease_s = max(queue.lane.leases.claim_s(one) for queue, one in held.values())
            try:
                async with asyncio.timeout(_STORE_S):
                    gone = await self._store(stack).renew(list(held), lease_s)
            except (StoreError, TimeoutError):
                self._store_at = time.monotonic() + _STORE_AGAIN_S
                # Leases matter more than claims that no other process can take now.
        for key in gone:
            # Another process has it now: a call of ours could only take the message away from it.
            self._due_at[held[key][1]] = math.inf
            self._without_lease.add(held[key][1])
        return [(queue, one) for queue, one in due if one not in self._without_lease]

    async def _renew(self, lane: Lane, delivery: Delivery, client: QueueCalls) -> None:
        receipt: Receipt | None = None
        is_unconfirmed = False
        lent = delivery.lock.lend()
        try:
            # Checked after the loan: whatever the event loop does from now on waits for its end.
            if not lent or delivery.stage is Stage.CLOSED or delivery.lease not in _RENEWABLE:
                return
            known = delivery.lock.newest(delivery.receipt)
            is_unconfirmed = True
            async with self._room:
                receipt = await client.hide(known.handle, lane.leases.policy.lease_step_s)
            delivery.lock.lent_renewal(receipt)
        except CloudError as error:
            is_unconfirmed = error.fault is not Fault.GONE
            if is_unconfirmed:
                self._due_at[delivery] = time.monotonic() + _AGAIN_S
            else:
                # The event loop decides what a refused handle means.
                self._without_lease.add(delivery)
            lane.metrics.renewals[RenewalResult.FAILED].inc()
        else:
            now = time.monotonic()
            self._due_at[delivery] = now + max(0.0, receipt.expires_at - now) / 2
            self.renewed += 1
            lane.metrics.renewals[RenewalResult.RENEWED].inc()
        finally:
            # The loop is closed: the process ends.
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(partial(_give_back, delivery, receipt, is_unconfirmed=is_unconfirmed))

    async def _take_starts_back(self, stack: AsyncExitStack) -> None:
        if self.unstarted or time.monotonic() < self._store_at:
            return
        others = [
            delivery
            for queue in self._queues
            for delivery in tuple(queue.lane.deliveries)
            if delivery is not self._blocking and delivery.has_recorded_start
        ]
        if not others:
            return
        try:
            async with asyncio.timeout(_STORE_S):
                await self._store(stack).take_back_starts([str(delivery.key) for delivery in others])
        except (StoreError, TimeoutError):
            self._store_at = time.monotonic() + _STORE_AGAIN_S
        else:
            self.unstarted = others

    def _store(self, stack: AsyncExitStack) -> Standby:
        if self._standby is None:
            self._standby = self._ledger.standby()
            stack.push_async_callback(self._standby.close)
        return self._standby

    async def _client(self, queue: WatchedQueue, stack: AsyncExitStack) -> QueueCalls | None:
        if queue.open_calls is None:
            return None
        found = self._calls.get(id(queue))
        if found is None:
            found = self._calls[id(queue)] = await stack.enter_async_context(queue.open_calls())
        return found


def _give_back(delivery: Delivery, receipt: Receipt | None, *, is_unconfirmed: bool) -> None:
    """Return the loan; runs in the event loop, as soon as that runs again."""
    if receipt is not None:
        delivery.renewed(receipt)
    elif is_unconfirmed:
        delivery.lease_event(LeaseEvent.ANSWER_LOST)
    delivery.lock.take_back()
