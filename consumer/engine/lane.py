"""One queue's parts, and what a delivery asks of them: its slot, its handler, its claim, its turn."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import anyio
import structlog

from consumer.cloud.clients import Clients
from consumer.cloud.messages import Message
from consumer.config import Policy, QueueSettings
from consumer.engine.breaker import Breaker
from consumer.engine.complete import JobQueries
from consumer.engine.deletes import Deletes
from consumer.engine.delivery import Delivery, QueueCalls
from consumer.engine.invoke import CallLimits, Threads
from consumer.engine.lease import LeaseKeeper, Visibility
from consumer.engine.lease_state import Stage
from consumer.engine.letter_hooks import LetterHooks
from consumer.engine.outcome import ClaimedElsewhere, Interrupted, Skipped, Unavailable, Unprocessable
from consumer.engine.slots import Slot, Slots
from consumer.engine.store_access import LetterLimit, StoreAccess
from consumer.engine.vitals import LaneProgress
from consumer.errors import CloudError, Fault, StoreError
from consumer.message.notification import Kind, Phase
from consumer.ops.metrics import MessageState, Metrics
from consumer.ops.traces import Traces
from consumer.plugin.handler import ANY_NAME, Handler
from consumer.plugin.registry import Registry
from consumer.plugin.submission import SubmitsJobs
from consumer.policy import SUSPECT_STARTS, Reason, UnroutedPolicy
from consumer.store.ledger import Claimed, Ended

if TYPE_CHECKING:
    from opentelemetry.trace import SpanContext

log = structlog.stdlib.get_logger(__name__)

_POLL_MARGIN_S: Final = 30.0
_SHOWN_LIMIT: Final = 1_000
_RETENTION_S: Final = 345_600.0
"""MNS's default: the age at which a queue drops a message, until its attributes have been read."""
_ATTRIBUTES_EVERY_S: Final = 3600.0
_COUNTS_EVERY_S: Final = 60.0
"""While the queue holds messages; MNS bills each call."""
_ATTRIBUTES_AGAIN_S: Final = 30.0
_ITS_TURN: Final = contextlib.nullcontext(enter_result=True)
_NO_LIMIT: Final = contextlib.nullcontext()


@dataclass(slots=True, eq=False)
class Rules:
    """The policy and the handlers that apply to a message until it is settled; a reload replaces them for new ones.

    Args:
        limits: The time limits of each handler, by its name.
        turns: The limiter of each handler that limits how many runs it has at the same time, by its name.
    """

    policy: Policy
    registry: Registry
    limits: Mapping[str, CallLimits]
    turns: Mapping[str, anyio.CapacityLimiter]


def make_rules(policy: Policy, registry: Registry, before: Rules | None = None) -> Rules:
    """Make the rules; a handler that was already in ``before`` keeps its limiter.

    That limiter still counts the runs begun before the reload.
    """
    limits, turns = {}, {}
    for name, handler in registry.handlers.items():
        own = handler.limits
        timeout_s = own.timeout_s or policy.handler_timeout_s
        max_hold_s = max(timeout_s, own.max_hold_s or policy.max_hold_s)
        limits[name] = CallLimits(timeout_s, max_hold_s, policy.cancel_grace_s)
        if own.concurrency is not None:
            turn = before.turns.get(name) if before else None
            turns[name] = turn or anyio.CapacityLimiter(own.concurrency)
            turns[name].total_tokens = own.concurrency
    return Rules(policy, registry, limits, turns)


@dataclass(frozen=True, slots=True)
class Shared:
    """What all lanes of one daemon share; ``suspect_lock`` is held by the one message that may kill the process."""

    rules: Rules
    store: StoreAccess
    letters: LetterLimit
    metrics: Metrics
    traces: Traces | None = None
    suspect_lock: anyio.Lock = field(default_factory=anyio.Lock)


class Shown:
    """What was shown once and need not be shown again; of the last 1,000 things."""

    def __init__(self) -> None:
        self._shown: dict[object, None] = {}

    def is_new(self, thing: object) -> bool:
        """Whether it was not shown yet; from now on it was."""
        if thing in self._shown:
            return False
        self._shown[thing] = None
        if len(self._shown) > _SHOWN_LIMIT:
            del self._shown[next(iter(self._shown))]
        return True


class Lane:
    """One queue's parts.

    Args:
        submitter: Sends what handlers submit.
        calls: Hides and deletes messages in place of the queue's client.
        open_calls: Opens one more client of the queue, in another event loop; ``None`` where there are no leases.
    """

    def __init__(
        self,
        queue: QueueSettings,
        clients: Clients,
        shared: Shared,
        *,
        submitter: SubmitsJobs | None = None,
        calls: QueueCalls | None = None,
        open_calls: Callable[[], AbstractAsyncContextManager[QueueCalls]] | None = None,
    ) -> None:
        calls = calls or clients.queue
        self.identity = queue.url.identity
        self.name = name = shared.metrics.name_of(self.identity)
        """In logs, metrics and traces."""
        self.rules = shared.rules
        """Those for new messages; replaced by a reload."""
        self.queue = clients.queue
        self.mps = clients.mps
        self.credentials = clients.credentials
        self.submitter = submitter
        self.open_calls = open_calls
        self.store = shared.store
        self.letters = shared.letters
        self.traces = shared.traces
        self.suspect_lock = shared.suspect_lock
        self.metrics = metrics = shared.metrics.queue(name)
        self.progress = LaneProgress(poll_limit_s=shared.rules.policy.wait_s + _POLL_MARGIN_S)
        self.queries = JobQueries(clients.mps.query, name, shared.metrics.result_queries)
        self.visibility = Visibility(calls, name, suppress_log=self._polling_fails)
        self.leases = LeaseKeeper(self.visibility, shared.store, shared.rules.policy, metrics)
        self.deletes = Deletes(calls, metrics, suppress_log=self._polling_fails, traces=shared.traces)
        self.slots = Slots(queue.slots)
        self.threads = Threads(slots=queue.slots)
        self.retention_s = _RETENTION_S
        self.mns_base_s: float | None = None
        """UNIX seconds of MNS's clock minus our monotonic clock, by the last answer."""
        self.last_success_at = 0.0
        """When a job was last done, in UNIX seconds."""
        self.shown = Shown()
        """The failures whose tracebacks were logged."""
        self.letter_hooks = LetterHooks(self)
        self.deliveries: set[Delivery] = set()
        """Every delivery in flight."""
        self.stopping = False
        """Whether no handler may be called any more."""
        self._by_message: dict[str, Delivery] = {}
        """The newest delivery in flight of each message id."""
        self._by_key: dict[str, Delivery] = {}
        """For each job key: the delivery in flight that asked for it first."""
        metrics.slots.set(queue.slots)
        metrics.stuck.set_function(lambda: self.threads.left_behind)
        metrics.in_flight.set_function(lambda: len(self.deliveries))
        metrics.names_in_flight = self._names_in_flight
        metrics.last_success.set_function(lambda: self.last_success_at)

    def _names_in_flight(self) -> Iterator[str]:
        return (delivery.notification.name for delivery in self.deliveries)

    def _polling_fails(self) -> bool:
        return self.progress.fault is not None

    def receive(
        self, message: Message, server_offset_s: float = 0.0, received_span: SpanContext | None = None
    ) -> Delivery:
        """A delivery of a message that came just now; its slot has been taken already."""
        return Delivery(message, self.rules, Slot(self.slots), self.retention_s, server_offset_s, received_span)

    @contextmanager
    def in_flight(self, delivery: Delivery) -> Iterator[None]:
        """Register a delivery and trace it; at the end release its slot.

        An exception that reaches this is a bug of this program. It is logged; this message is delayed, and the daemon
        continues. The claim and the lease end by themselves, so the message is neither lost nor deleted.
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
            # Another message of the same job is in flight, as when MPS sent its notification twice. It is not known
            # when that one is settled. Most are within seconds, so a whole lease would be too long a pause.
            return ClaimedElsewhere(delivery.rules.policy.lease_step_s / 4)
        delivery.asks_for(key)
        try:
            claim = await self.store.try_write(self.store.ledger.claim, key, self.leases.claim_s(delivery))
        except StoreError as error:
            return Unavailable(error)
        if isinstance(claim, Claimed):
            delivery.claim_granted(claim)
            if claim.trace_parent is not None and self.traces is not None and delivery.span is not None:
                self.traces.link_to_earlier(delivery.span, claim.trace_parent)
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
        # The limit comes last: waiting suspects must not occupy the handler's limit.
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


async def watch_attributes(lane: Lane) -> None:
    """Read a queue's retention and counts; without that right, MNS's default is used. Warn of its DlqPolicy."""
    breaker = Breaker(
        "queue attributes can't be read; MNS's default retention is assumed",
        "queue attributes can be read again",
        queue=lane.name,
        # A fault that polling meets too is logged there.
        suppress_log=lambda: not lane.progress.ready(),
    )
    policy: str | None = None
    while True:
        try:
            found = await lane.queue.attributes()
        except CloudError as error:
            # A right that is missing for this call alone is missing for long; other faults pass.
            lane.metrics.set_messages()
            if error.fault is Fault.CREDENTIALS and lane.progress.ready():
                breaker.failed(error)
                await anyio.sleep(_ATTRIBUTES_EVERY_S)
            else:
                await anyio.sleep(_ATTRIBUTES_AGAIN_S)
        else:
            breaker.succeeded()
            lane.retention_s = found.retention_s
            counts = found.active_messages, found.inactive_messages, found.delayed_messages
            lane.metrics.set_messages(**dict(zip(MessageState, counts, strict=True)))
            if found.dlq_policy not in {None, policy}:
                log.warning(
                    "the queue has a dead-letter policy of its own; it moves away messages that were received too "
                    "often, also those that wait for a retry or were released by a stop, and they are not handled here "
                    "again",
                    queue=lane.name,
                    policy=found.dlq_policy,
                )
            policy = found.dlq_policy
            await _until_next_read(lane, holds_messages=any(counts))


async def _until_next_read(lane: Lane, *, holds_messages: bool) -> None:
    """Wait, while the queue holds messages only until their counts are old."""
    ends_at = time.monotonic() + _ATTRIBUTES_EVERY_S
    while (left_s := ends_at - time.monotonic()) > 0:
        await anyio.sleep(min(left_s, _COUNTS_EVERY_S))
        if holds_messages or lane.deliveries:
            return
