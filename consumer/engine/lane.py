"""One queue's parts, put together: everything that the life of a message needs at hand.

Elsewhere: making the parts (``app``), the loop that feeds it (``engine.poll``), the life itself (``engine.process``).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import anyio

from consumer.cloud.clients import Clients
from consumer.cloud.credentials import CredentialsSource
from consumer.cloud.mns import MnsQueue
from consumer.cloud.mps import Mps
from consumer.config import QueueSettings
from consumer.engine.deletes import Deletes
from consumer.engine.delivery import Delivery, Orders, Stage
from consumer.engine.hides import Hides
from consumer.engine.invoke import Threads
from consumer.engine.lease import LeaseKeeper
from consumer.engine.letter_limit import LetterLimit
from consumer.engine.results import Results
from consumer.engine.rules import Rules
from consumer.engine.settle import Settler
from consumer.engine.slots import Slots
from consumer.engine.store_gate import StoreGate
from consumer.notify_url import NotifyUrl
from consumer.ops.metrics import Children, Metrics, QueryResult, QueueMetrics
from consumer.ops.traces import Traces
from consumer.progress import LaneProgress
from consumer.store.ledger import Ledger

_POLL_MARGIN_S: Final = 30.0


@dataclass(slots=True, eq=False)
class Lane:
    """One queue's parts.

    Args:
        url: Which queue.
        rules: By what messages are handled; replaced by a reload.
        queue: MNS's client.
        mps: MPS's client.
        credentials: Whose keys both use.
        results: Asks it for results, patiently.
        ledger: The store, shared by all lanes.
        gate: Its gate, shared by all lanes.
        letters: Its limit of dead letters, shared by all lanes.
        leases: Keeps what is held.
        hides: Hides messages, for all who do.
        deletes: Deletes what has ended.
        settler: Ends messages.
        slots: Free places.
        threads: Where plain functions run.
        alone: Held by the one message that may be what kills the process, shared by all lanes.
        metrics: What is counted for this queue.
        queries: The counter of result queries by their answer.
        progress: What is told of its polls.
        held: The delivery that stands for each ledger key that is here.
        traces: Tells OpenTelemetry, where that is wanted.
        live: Every delivery whose life has not ended.
        stopping: Whether nothing new may be started.
        retention_s: After how long the queue drops a message; MNS's default until it has been read.
        mns_base_s: UNIX seconds of MNS's clock minus those of the monotonic one, by the last answer; ``None`` before.
        identity: The queue's, as ledger keys begin.
    """

    url: NotifyUrl
    rules: Rules
    queue: MnsQueue
    mps: Mps
    credentials: CredentialsSource
    results: Results
    ledger: Ledger
    gate: StoreGate
    letters: LetterLimit
    leases: LeaseKeeper
    hides: Hides
    deletes: Deletes
    settler: Settler
    slots: Slots
    threads: Threads
    alone: anyio.Lock
    metrics: QueueMetrics
    queries: Children
    progress: LaneProgress
    traces: Traces | None = None
    held: dict[str, Delivery] = field(default_factory=dict)
    live: set[Delivery] = field(default_factory=set)
    stopping: bool = False
    retention_s: float = 345_600.0
    mns_base_s: float | None = None
    identity: str = field(init=False)

    def __post_init__(self) -> None:
        """Put together once what each message asks for."""
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
        rules: By what messages are handled.
        ledger: The store.
        gate: Its gate.
        letters: Its limit of dead letters.
        metrics: What is counted.
        traces: Tells OpenTelemetry, where that is wanted.
        alone: Held by the one message that may be what kills the process.
    """

    rules: Rules
    ledger: Ledger
    gate: StoreGate
    letters: LetterLimit
    metrics: Metrics
    traces: Traces | None = None
    alone: anyio.Lock = field(default_factory=anyio.Lock)


def make_lane(queue: QueueSettings, clients: Clients, shared: Shared, *, orders: Orders | None = None) -> Lane:
    """Put one queue's parts together.

    Args:
        queue: Which queue.
        clients: What reaches it.
        shared: What all lanes have in common.
        orders: Who takes orders about messages in place of the queue's client.
    """
    orders = orders or clients.queue
    ledger, gate, letters = shared.ledger, shared.gate, shared.letters
    name, policy, metrics = queue.url.queue, shared.rules.policy, shared.metrics.queue(queue.url.queue)
    progress = LaneProgress(name, poll_limit_s=policy.wait_s + _POLL_MARGIN_S)
    deletes = Deletes(
        queue=orders,
        name=name,
        observe=lambda word, count: metrics.deletes[word].inc(count),
        covered=lambda: progress.fault is not None,
        traces=shared.traces,
    )
    hides = Hides(orders, name, suppress_log=lambda: progress.fault is not None)
    leases = LeaseKeeper(
        queue=hides,
        name=name,
        ledger=ledger,
        gate=gate,
        policy=policy.lease,
        observe=lambda word: metrics.renewals[word].inc(),
    )
    slots = Slots(queue.slots)
    metrics.slots.set(slots.total)
    threads = Threads(slots=queue.slots)
    metrics.stuck.set_function(lambda: threads.left_behind)
    lane = Lane(
        url=queue.url,
        rules=shared.rules,
        queue=clients.queue,
        mps=clients.mps,
        credentials=clients.credentials,
        results=Results(clients.mps.query, name, failed=shared.metrics.result_queries[QueryResult.FAILED].inc),
        ledger=ledger,
        gate=gate,
        letters=letters,
        leases=leases,
        hides=hides,
        deletes=deletes,
        settler=Settler(
            queue=hides, name=name, ledger=ledger, gate=gate, letters=letters, deletes=deletes, traces=shared.traces
        ),
        slots=slots,
        threads=threads,
        alone=shared.alone,
        metrics=metrics,
        queries=shared.metrics.result_queries,
        progress=progress,
        traces=shared.traces,
    )
    metrics.in_flight.set_function(lambda: len(lane.live))
    return lane
