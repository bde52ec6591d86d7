"""One queue's parts, put together: everything that the life of a message needs at hand.

Elsewhere: making the parts (``app``), the loop that feeds it (``engine.poll``), the life itself (``engine.process``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import anyio

from consumer.cloud.clients import Clients
from consumer.cloud.mns import MnsQueue
from consumer.cloud.mps import Mps
from consumer.config import Lane as LaneSettings
from consumer.config import Settings
from consumer.engine.deletes import Deletes
from consumer.engine.delivery import Delivery, Orders, Stage
from consumer.engine.invoke import CallLimits, Threads
from consumer.engine.lease import LeaseKeeper
from consumer.engine.results import Results
from consumer.engine.settle import Settler
from consumer.engine.slots import Slots
from consumer.engine.store_gate import StoreGate
from consumer.notify_url import NotifyUrl
from consumer.ops.metrics import Metrics, QueueMetrics, Words
from consumer.ops.words import QueryResult
from consumer.plugin.registry import Registry
from consumer.policy import RetryPolicy
from consumer.progress import LaneProgress
from consumer.store.ledger import Ledger

_POLL_MARGIN_S: Final = 30.0


@dataclass(slots=True, eq=False)
class Lane:
    """One queue's parts.

    Args:
        url: Which queue.
        settings: The daemon's.
        registry: The handlers.
        queue: MNS's client.
        mps: MPS's client.
        results: Asks it for results, patiently.
        ledger: The store, shared by all lanes.
        gate: Its gate, shared by all lanes.
        leases: Keeps what is held.
        deletes: Deletes what has ended.
        settler: Ends messages.
        slots: Free places.
        threads: Where plain functions run.
        turns: The handlers that limit how many run at once, shared by all lanes.
        alone: Held by the one message that may be what kills the process, shared by all lanes.
        metrics: What is counted for this queue.
        queries: The counter of result queries by their answer.
        progress: What is told of its polls.
        held: The delivery that stands for each ledger key that is here.
        live: Every delivery whose life has not ended.
        stopping: Whether nothing new may be started.
        retention_s: After how long the queue drops a message; MNS's default until it has been read.
        limits: What holds for each handler that was called, by its name.
        retry: The settings' rules for failures.
        identity: The queue's, as ledger keys begin.
    """

    url: NotifyUrl
    settings: Settings
    registry: Registry
    queue: MnsQueue
    mps: Mps
    results: Results
    ledger: Ledger
    gate: StoreGate
    leases: LeaseKeeper
    deletes: Deletes
    settler: Settler
    slots: Slots
    threads: Threads
    turns: Mapping[str, anyio.CapacityLimiter]
    alone: anyio.Lock
    metrics: QueueMetrics
    queries: Words
    progress: LaneProgress
    held: dict[str, Delivery] = field(default_factory=dict)
    live: set[Delivery] = field(default_factory=set)
    stopping: bool = False
    retention_s: float = 345_600.0
    limits: dict[str, CallLimits] = field(default_factory=dict)
    retry: RetryPolicy = field(init=False)
    identity: str = field(init=False)

    def __post_init__(self) -> None:
        """Put together once what each message asks for."""
        self.retry = self.settings.retry
        self.identity = self.url.identity

    async def hand_over(self, key: str, delivery: Delivery) -> bool:
        """Give a message's new receipt to the delivery of the same message that is here already.

        MNS hands a message out again when its lease ran out, as after an outage; the new receipt has killed the old.

        Returns:
            Whether it was handed over; then this delivery is none of its own.
        """
        running = self.held.get(key)
        if running is None or running.message.message_id != delivery.message.message_id:
            return False
        async with running.lock:
            if running.stage is Stage.CLOSED or running.lost:
                # It has ended, or is about to: this delivery lives a life of its own.
                return False
            running.hold(delivery.receipt)
        self.leases.keep(running)
        return True


@dataclass(frozen=True, slots=True)
class Shared:
    """What all lanes of one daemon have in common.

    Args:
        settings: The daemon's.
        registry: The handlers.
        ledger: The store.
        gate: Its gate.
        turns: The handlers that limit how many run at once.
        metrics: What is counted.
        alone: Held by the one message that may be what kills the process.
    """

    settings: Settings
    registry: Registry
    ledger: Ledger
    gate: StoreGate
    turns: Mapping[str, anyio.CapacityLimiter]
    metrics: Metrics
    alone: anyio.Lock = field(default_factory=anyio.Lock)


def make_lane(queue: LaneSettings, clients: Clients, shared: Shared, *, orders: Orders | None = None) -> Lane:
    """Put one queue's parts together.

    Args:
        queue: Which queue.
        clients: What reaches it.
        shared: What all lanes have in common.
        orders: Who takes orders about messages in place of the queue's client.
    """
    orders = orders or clients.queue
    name, settings, metrics = queue.url.queue, shared.settings, shared.metrics.queue(queue.url.queue)
    progress = LaneProgress(name, poll_limit_s=settings.wait_s + _POLL_MARGIN_S)
    deletes = Deletes(
        queue=orders,
        name=name,
        observe=lambda word, count: metrics.deletes[word].inc(count),
        covered=lambda: progress.fault is not None,
    )
    leases = LeaseKeeper(
        queue=orders,
        name=name,
        ledger=shared.ledger,
        gate=shared.gate,
        policy=settings.lease,
        observe=lambda word: metrics.renewals[word].inc(),
    )
    slots = Slots(queue.slots)
    metrics.slots.set(slots.total)
    threads = Threads(slots=queue.slots, stuck_limit=settings.stuck_limit)
    metrics.stuck.set_function(lambda: threads.left_behind)
    lane = Lane(
        url=queue.url,
        settings=settings,
        registry=shared.registry,
        queue=clients.queue,
        mps=clients.mps,
        results=Results(clients.mps.query, name, failed=shared.metrics.result_queries[QueryResult.FAILED].inc),
        ledger=shared.ledger,
        gate=shared.gate,
        leases=leases,
        deletes=deletes,
        settler=Settler(queue=orders, ledger=shared.ledger, gate=shared.gate, deletes=deletes),
        slots=slots,
        threads=threads,
        turns=shared.turns,
        alone=shared.alone,
        metrics=metrics,
        queries=shared.metrics.result_queries,
        progress=progress,
    )
    metrics.in_flight.set_function(lambda: len(lane.live))
    return lane
