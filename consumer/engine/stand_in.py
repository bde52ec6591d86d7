"""Renew leases and claims in place of an event loop that is blocked, from another thread with clients of its own.

A handler that blocks the event loop also keeps it from renewing what all the others hold. Leases and claims would run
out, and another daemon would begin the same jobs. So while the loop is blocked the thread that watches it renews what
is due, by the same rules as ``engine.lease``: the claim first, then the lease.

The loop's own objects are only read here. A receipt handle is taken on loan (``engine.receipt_lock``); the newer
receipt is handed to the event loop, which takes it over when it runs again, before anything else can use the handle.

When a block lasts, somebody may end the process for it: a service manager's watchdog, a liveness probe. A start that
was written down for another handler would then count as if that handler had taken the process down. So these starts are
taken back, all but that of the handler that blocks.
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
from consumer.engine.delivery import Delivery, Orders, Stage
from consumer.engine.lane import Lane
from consumer.errors import CloudError, Fault, StoreError
from consumer.ops.metrics import RenewalResult
from consumer.store.ledger import Ledger, Standby

log = structlog.stdlib.get_logger(__name__)

LOOK_EVERY_S: Final = 0.1
TAKE_STARTS_BACK_S: Final = 5.0
"""After so long a block the starts of the handlers that don't block are taken back; supervisors wait longer."""
ANSWER_S: Final = 5.0
"""For how long an answer of MNS is waited for: the event loop may wait for it when it runs again."""
_STORE_S: Final = 2.0
_STORE_AGAIN_S: Final = 3.0
_AGAIN_S: Final = 1.0
_CALLS_AT_ONCE: Final = 16


@dataclass(frozen=True, slots=True)
class WatchedQueue:
    """One queue whose messages are renewed.

    Args:
        lane: Its parts; belong to the event loop.
        open_orders: Opens a client for another event loop; ``None`` where there are no leases to renew.
    """

    lane: Lane
    open_orders: Callable[[], AbstractAsyncContextManager[Orders]] | None = None


class OwnLoop(asyncio.SelectorEventLoop):
    """The event loop of a thread that may block: looks names up in place, since no further thread may be left."""

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
        spare: The delivery whose handler blocks, as far as it is known: its start stays written down.
    """

    def __init__(
        self,
        queues: Sequence[WatchedQueue],
        ledger: Ledger,
        loop: asyncio.AbstractEventLoop,
        is_over: Callable[[], bool],
        spare: Delivery | None,
    ) -> None:
        self._queues = queues
        self._ledger = ledger
        self._loop = loop
        self._is_over = is_over
        self._spare = spare
        self._standby: Standby | None = None
        self._orders: dict[int, Orders] = {}
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
                    orders = await self._orders_of(queue, stack)
                    if orders is not None:
                        calls.add(asyncio.create_task(self._renew(queue.lane, delivery, orders)))
                if self._spare is not None and time.monotonic() - began_at >= TAKE_STARTS_BACK_S:
                    await self._take_starts_back(stack)
                await asyncio.sleep(LOOK_EVERY_S)
            # Never cut short: the answer holds the only handle that still works.
            for end in await asyncio.gather(*calls, return_exceptions=True):
                if isinstance(end, Exception):
                    log.error("internal fault; a lease was not renewed", error=repr(end))

    def _due(self, now: float) -> list[tuple[WatchedQueue, Delivery]]:
        """What is to be renewed now; not due again before its try has ended."""
        due = []
        for queue in self._queues:
            leases = queue.lane.leases
            for held in leases.held():
                is_over_age = now - held.received_at >= leases.policy.max_s
                # The event loop was about to renew those that it has no time for.
                planned_at = 0.0 if held.renew_at == math.inf else held.renew_at
                if held.stage is not Stage.CLOSED and not is_over_age and self._due_at.get(held, planned_at) <= now:
                    self._due_at[held] = now + leases.policy.step_s / 2
                    due.append((queue, held))
        return due

    async def _claimed(
        self, due: Sequence[tuple[WatchedQueue, Delivery]], stack: AsyncExitStack
    ) -> list[tuple[WatchedQueue, Delivery]]:
        """Renew claims; returns those whose lease is ours to renew too."""
        held = {one.key: (queue, one) for queue, one in due if one.key is not None and one.claimed}
        gone: Sequence[str] = ()
        if held and time.monotonic() >= self._store_at:
            lease_s = max(queue.lane.leases.claim_s(one) for queue, one in held.values())
            try:
                async with asyncio.timeout(_STORE_S):
                    gone = await self._store(stack).renew(list(held), lease_s)
            except (StoreError, TimeoutError):
                self._store_at = time.monotonic() + _STORE_AGAIN_S
                # Their leases are worth more than claims that nobody else can take just now.
        for key in gone:
            # Another daemon's now: an order of ours could only take the message out of its hands.
            self._due_at[held[key][1]] = math.inf
            self._without_lease.add(held[key][1])
        return [(queue, one) for queue, one in due if one not in self._without_lease]

    async def _renew(self, lane: Lane, delivery: Delivery, orders: Orders) -> None:
        receipt: Receipt | None = None
        doubtful = False
        lent = delivery.lock.lend()
        try:
            # Looked at after the loan: whatever the event loop does from now on waits for its end.
            if not lent or delivery.stage is Stage.CLOSED or delivery.adrift or delivery.grace_until:
                return
            known = delivery.lock.newest(delivery.receipt)
            doubtful = True
            async with self._room:
                receipt = await orders.hide(known.handle, lane.leases.policy.step_s)
            delivery.lock.got(receipt)
        except CloudError as error:
            doubtful = error.fault is not Fault.GONE
            if doubtful:
                self._due_at[delivery] = time.monotonic() + _AGAIN_S
            else:
                # What to make of a dead receipt is for the event loop to find out.
                self._without_lease.add(delivery)
            lane.metrics.renewals[RenewalResult.FAILED].inc()
        else:
            now = time.monotonic()
            self._due_at[delivery] = now + max(0.0, receipt.expires_at - now) / 2
            self.renewed += 1
            lane.metrics.renewals[RenewalResult.RENEWED].inc()
        finally:
            # Closed: the process ends.
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(partial(_give_back, delivery, receipt, doubtful=doubtful))

    async def _take_starts_back(self, stack: AsyncExitStack) -> None:
        if self.unstarted or time.monotonic() < self._store_at:
            return
        others = [
            held
            for queue in self._queues
            for held in tuple(queue.lane.live)
            if held is not self._spare and has_start(held)
        ]
        if not others:
            return
        try:
            async with asyncio.timeout(_STORE_S):
                await self._store(stack).take_back_starts([str(held.key) for held in others])
        except (StoreError, TimeoutError):
            self._store_at = time.monotonic() + _STORE_AGAIN_S
        else:
            self.unstarted = others

    def _store(self, stack: AsyncExitStack) -> Standby:
        if self._standby is None:
            self._standby = self._ledger.standby()
            stack.push_async_callback(self._standby.close)
        return self._standby

    async def _orders_of(self, queue: WatchedQueue, stack: AsyncExitStack) -> Orders | None:
        if queue.open_orders is None:
            return None
        found = self._orders.get(id(queue))
        if found is None:
            found = self._orders[id(queue)] = await stack.enter_async_context(queue.open_orders())
        return found


def has_start(delivery: Delivery) -> bool:
    """Whether a start may be written down for a run that has not ended."""
    return delivery.stage is Stage.RUNNING and delivery.claimed and delivery.message.dequeue_count > 1


def _give_back(delivery: Delivery, receipt: Receipt | None, *, doubtful: bool) -> None:
    """Runs in the event loop, as soon as it runs again."""
    if receipt is not None:
        delivery.hold(receipt)
    elif doubtful:
        # The call may have had its effect: from here on a dead receipt proves nothing.
        delivery.doubtful = True
    delivery.lock.take_back()
