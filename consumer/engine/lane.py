"""One queue's parts, put together, and what a delivery asks of them: its slot, its handler, its claim, its turn."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import anyio
import structlog

from consumer.cloud.clients import Clients
from consumer.cloud.credentials import CredentialsSource
from consumer.cloud.messages import Message
from consumer.cloud.mns import MnsQueue
from consumer.cloud.mps import Mps
from consumer.config import QueueSettings
from consumer.engine.complete import JobQueries
from consumer.engine.deletes import Deletes
from consumer.engine.delivery import Delivery, QueueCalls
from consumer.engine.invoke import Threads
from consumer.engine.lease import LeaseKeeper, Visibility
from consumer.engine.lease_state import Stage
from consumer.engine.letter_limit import LetterLimit
from consumer.engine.outcome import ClaimedElsewhere, Interrupted, Skipped, Unavailable, Unprocessable
from consumer.engine.rules import Rules
from consumer.engine.settle import Settler
from consumer.engine.slots import Slot, Slots
from consumer.engine.store_access import StoreAccess
from consumer.engine.vitals import LaneProgress
from consumer.errors import StoreError
from consumer.message.notification import Kind, Phase
from consumer.notify_url import NotifyUrl
from consumer.ops.metrics import DeleteResult, Metrics, QueryResult, QueueMetrics, RenewalResult
from consumer.ops.traces import Traces
from consumer.plugin.handler import ANY_NAME, Handler
from consumer.policy import SUSPECT_STARTS, Reason, UnroutedPolicy
from consumer.store.ledger import Claimed, Ended

if TYPE_CHECKING:
    from opentelemetry.trace import SpanContext

log = structlog.stdlib.get_logger(__name__)

_POLL_MARGIN_S: Final = 30.0
_ITS_TURN: Final = contextlib.nullcontext(enter_result=True)
_NO_LIMIT: Final = contextlib.nullcontext()


@dataclass(slots=True, eq=False)
class Lane:
    """One queue's parts.

    Args:
        url: Which queue.
        rules: The settings and handlers for new messages; replaced by a reload.
        credentials: Whose keys both clients use.
        store: Shared by all lanes.
        letters: The limit of dead letters, shared by all lanes.
        threads: Where plain functions run.
        suspect_lock: Held by the one message that may be killing the process, shared by all lanes.
        retention_s: The age at which the queue drops a message; MNS's default until it has been read.
        mns_base_s: UNIX seconds of MNS's clock minus our monotonic clock, by the last answer; ``None`` before.
        deliveries: Every delivery in flight.
        stopping: Whether no handler may be called any more.
    """

    url: NotifyUrl
    rules: Rules
    queue: MnsQueue
    mps: Mps
    credentials: CredentialsSource
    queries: JobQueries
    store: StoreAccess
    letters: LetterLimit
    visibility: Visibility
    leases: LeaseKeeper
    deletes: Deletes
    slots: Slots
    threads: Threads
    suspect_lock: anyio.Lock
    metrics: QueueMetrics
    progress: LaneProgress
    traces: Traces | None = None
    retention_s: float = 345_600.0
    mns_base_s: float | None = None
    deliveries: set[Delivery] = field(default_factory=set)
    stopping: bool = False
    name: str = field(init=False)
    identity: str = field(init=False)
    settler: Settler = field(init=False)
    _by_message: dict[str, Delivery] = field(default_factory=dict)
    """The newest delivery in flight of each message id."""
    _by_key: dict[str, Delivery] = field(default_factory=dict)
    """The delivery in flight that has asked for each job's key."""

    def __post_init__(self) -> None:
        """Compute once what every message asks for."""
        self.name = self.url.queue
        self.identity = self.url.identity
        self.settler = Settler(
            name=self.name,
            identity=self.identity,
            store=self.store,
            visibility=self.visibility,
            deletes=self.deletes,
            leases=self.leases,
            letters=self.letters,
            traces=self.traces,
        )

    def receive(
        self, message: Message, server_offset_s: float = 0.0, received_span: SpanContext | None = None
    ) -> Delivery:
        """A delivery of a message that came just now; its slot has been taken already."""
        return Delivery(message, self.rules, Slot(self.slots), self.retention_s, server_offset_s, received_span)

    @contextmanager
    def in_flight(self, delivery: Delivery) -> Iterator[None]:
        """Register a delivery and trace it; at the end release its slot.

        An exception that reaches this is a bug of this program. It is logged and costs this message some time, not the
        daemon its life: the claim and the lease end by themselves, so the message is neither lost nor deleted.
        """
        self.deliveries.add(delivery)
        try:
            if self.traces is None:
                yield
            else:
                message = delivery.message
                carried = {**message.user_properties, **message.system_properties}
                with self.traces.processing(self.name, message.message_id, carried, delivery.received_span) as span:
                    delivery.traced_by(span)
                    yield
        except Exception:
            log.exception(
                "internal error; the message is redelivered when its lease ends",
                queue=self.name,
                message_id=delivery.message.message_id,
            )
        finally:
            self.forget(delivery)

    async def rejoin(self, delivery: Delivery) -> bool:
        """Give the new receipt to the earlier delivery of the same message, if one is in flight here.

        MNS redelivers a message when its lease has ended, as after an outage; the new receipt handle has replaced the
        old one.

        Returns:
            Whether it was given; then this delivery is over.
        """
        message_id = delivery.message.message_id
        if (earlier := self._by_message.get(message_id)) is not None:
            async with earlier.lock:
                if earlier.is_rejoinable:
                    earlier.redelivered(delivery.receipt)
                    self.leases.keep(earlier)
                    return True
        self._by_message[message_id] = delivery
        self.leases.keep(delivery)
        return False

    def route(self, delivery: Delivery) -> Handler | Skipped | Unprocessable | Interrupted:
        """The handler that takes a delivery, or why there is none."""
        notification, registry = delivery.notification, delivery.rules.registry
        if notification.phase is Phase.INTERMEDIATE:
            return Skipped.INTERMEDIATE
        if notification.kind is Kind.UNKNOWN:
            # Its name is arbitrary text: it must not pass for a FunctionName.
            handler = registry.handlers.get(ANY_NAME)
        else:
            handler = registry.find(notification.route)
        if handler is None:
            if delivery.rules.policy.unrouted is UnroutedPolicy.DROP:
                return Skipped.DROPPED
            what = "FunctionName" if notification.kind is Kind.IPRODUCTION else "message kind"
            name = notification.route[:80]
            return Unprocessable(
                Reason.UNROUTED,
                f"no handler for {what} {name!r} (registered: {', '.join(registry.handlers)}). Add a file with "
                f"@handler({name!r}) to the handlers' folder, or a fallback @handler({ANY_NAME!r}), then replay",
            )
        if self.stopping:
            return Interrupted.STOPPING
        delivery.routed_to(handler)
        return handler

    async def claim(self, delivery: Delivery, key: str) -> Claimed | Ended | ClaimedElsewhere | Unavailable:
        """Claim a job for a delivery; while the store is down the message waits here."""
        if delivery.job_key is None and self._by_key.setdefault(key, delivery) is not delivery:
            # Another message of the same job is in flight, as when MPS sent its notification twice.
            return ClaimedElsewhere(delivery.rules.policy.lease_step_s / 4)
        delivery.asks_for(key)
        try:
            claim = await self.store.try_write(self.store.ledger.claim, key, self.leases.claim_s(delivery))
        except StoreError as error:
            return Unavailable(error)
        if isinstance(claim, Claimed):
            delivery.claim_granted(claim)
            return claim
        delivery.claim_refused()
        return claim if isinstance(claim, Ended) else ClaimedElsewhere(claim.remaining_s)

    def turn(self, handler: Handler, delivery: Delivery) -> AbstractAsyncContextManager[bool]:
        """Wait until the handler may be called: within its ``concurrency``, and suspects one at a time.

        Yields:
            Whether it is the delivery's turn; ``False`` when enough messages wait for the handler already.
        """
        suspect = self.suspect_lock if delivery.claim.starts >= SUSPECT_STARTS else None
        limit = delivery.rules.turns.get(handler.name)
        if suspect is None and limit is None:
            return _ITS_TURN
        return self._wait_for_turn(delivery, suspect, limit)

    @asynccontextmanager
    async def _wait_for_turn(
        self, delivery: Delivery, suspect: anyio.Lock | None, limit: anyio.CapacityLimiter | None
    ) -> AsyncIterator[bool]:
        is_free = not (suspect and suspect.locked()) and (limit is None or limit.available_tokens >= 1)
        if not is_free and not delivery.slot.step_aside():
            yield False
            return
        # The limit comes last: while one suspect runs, the others must not keep it from good messages.
        async with suspect or _NO_LIMIT, limit or _NO_LIMIT:
            if delivery.slot.is_aside:
                await delivery.slot.come_back()
            yield True

    def forget(self, delivery: Delivery) -> None:
        """It is settled: release everything that it holds here."""
        if delivery.stage is not Stage.CLOSED:
            delivery.close()
        self.leases.drop(delivery)
        if self._by_message.get(delivery.message.message_id) is delivery:
            del self._by_message[delivery.message.message_id]
        if delivery.job_key is not None:
            del self._by_key[delivery.job_key]
        self.deliveries.discard(delivery)
        delivery.slot.close()


@dataclass(frozen=True, slots=True)
class Shared:
    """What all lanes of one daemon share."""

    rules: Rules
    store: StoreAccess
    letters: LetterLimit
    metrics: Metrics
    traces: Traces | None = None
    suspect_lock: anyio.Lock = field(default_factory=anyio.Lock)


def make_lane(queue: QueueSettings, clients: Clients, shared: Shared, *, calls: QueueCalls | None = None) -> Lane:
    """Put one queue's parts together.

    Args:
        queue: Which queue.
        clients: Its clients.
        shared: What all lanes share.
        calls: Hides and deletes messages in place of the queue's client.
    """
    calls = calls or clients.queue
    name, policy, metrics = queue.url.queue, shared.rules.policy, shared.metrics.queue(queue.url.queue)
    progress = LaneProgress(name, poll_limit_s=policy.wait_s + _POLL_MARGIN_S)

    def polling_fails() -> bool:
        return progress.fault is not None

    def count_renewal(result: RenewalResult) -> None:
        metrics.renewals[result].inc()

    def count_deletes(result: DeleteResult, messages: int) -> None:
        metrics.deletes[result].inc(messages)

    def count_query(result: QueryResult) -> None:
        shared.metrics.result_queries[result].inc()

    deletes = Deletes(queue=calls, name=name, observe=count_deletes, suppress_log=polling_fails, traces=shared.traces)
    visibility = Visibility(calls, name, suppress_log=polling_fails)
    leases = LeaseKeeper(visibility=visibility, name=name, store=shared.store, policy=policy, observe=count_renewal)
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
        queries=JobQueries(clients.mps.query, name, count=count_query),
        store=shared.store,
        letters=shared.letters,
        visibility=visibility,
        leases=leases,
        deletes=deletes,
        slots=slots,
        threads=threads,
        suspect_lock=shared.suspect_lock,
        metrics=metrics,
        progress=progress,
        traces=shared.traces,
    )
    metrics.in_flight.set_function(lambda: len(lane.deliveries))
    return lane
