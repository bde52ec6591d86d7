"""One delivery: a message in flight, with its lease, its claim and its run.

It is the only object for a message, from its receipt until it is settled, and only its own methods change its fields.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

from consumer.cloud.messages import DeleteFailure, Message, Receipt
from consumer.engine.lease_state import LeaseEvent, LeaseState, Stage, next_state
from consumer.engine.outcome import History, Interrupted, RunResult, TimedOut
from consumer.engine.slots import Slot
from consumer.message.notification import Kind, Notification, Phase, decode
from consumer.message.strict_json import Undecodable
from consumer.plugin.handler import Handler, Job
from consumer.policy import RetryPolicy
from consumer.store.ledger import Claimed, JobRecord

if TYPE_CHECKING:
    from opentelemetry.trace import Span, SpanContext

    from consumer.engine.complete import Completed
    from consumer.engine.lane import Rules

_UNCLAIMED: Final = Claimed()
_UNREAD: Final = Notification(
    kind=Kind.UNKNOWN,
    route="",
    function=None,
    job_id=None,
    state="",
    phase=Phase.FAILED,
    code=None,
    message=None,
    user_data_text=None,
    user_data=None,
    result_text=None,
    document={},
)
"""Stands for the notification of a body that can't be decoded."""


class QueueCalls(Protocol):
    """The calls about one message: the part of a queue's client that settling needs."""

    async def hide(self, handle: str, seconds: int) -> Receipt:
        """Hide it for ``seconds`` from now; the receipt handle is replaced."""

    async def delete(self, handles: Sequence[str]) -> Sequence[DeleteFailure]:
        """Delete up to 16; returns those that were not deleted."""


class ReceiptLock(asyncio.Lock):
    """Guards one receipt handle; it can be lent to the thread that stands in for a blocked event loop.

    Every renewal replaces the receipt handle, so no two calls about a message may be under way at once. Here the loop
    sets ``_locked`` and then looks for loans; the thread counts a loan and then looks at ``_locked``. So at least one
    of them sees the other, and the two need no lock between them.
    """

    # Class attributes, so that one for every message costs no more than asyncio's own.
    _loans = 0
    """Written by the other thread only."""
    _returned = 0
    """Written by the event loop only."""
    _newest: Receipt | None = None
    """The receipt that the other thread got last, while a loan is out; written by it only."""
    _back: asyncio.Future[None] | None = None

    def locked(self) -> bool:
        """Whether a call is under way, in the event loop or in the other thread."""
        # Called for every message: super() would take twice as long.
        return self._loans != self._returned or asyncio.Lock.locked(self)

    async def acquire(self) -> Literal[True]:
        """Acquire it, once the other thread has returned its loan."""
        await super().acquire()
        while self._loans != self._returned:
            self._back = asyncio.get_running_loop().create_future()
            try:
                await self._back
            except BaseException:
                self.release()
                raise
        return True

    def try_borrow(self) -> bool:
        """Borrow the handle; called by the other thread. ``False`` where the event loop has a call under way.

        Either way ``take_back`` must run in the event loop afterwards, once for each call.
        """
        if self._loans == self._returned:
            self._newest = None
        self._loans += 1
        return not super().locked()

    def newest(self, known: Receipt) -> Receipt:
        """The receipt to use for a loan: of an earlier loan that the loop has not taken back yet, else ``known``."""
        return self._newest or known

    def note_renewal(self, receipt: Receipt) -> None:
        """The other thread has got a newer receipt."""
        self._newest = receipt

    def take_back(self) -> None:
        """End a loan; called in the event loop, after the delivery has the newest receipt."""
        self._returned += 1
        if self._back is not None and not self._back.done():
            self._back.set_result(None)


@dataclass(slots=True, eq=False)
class Delivery:
    """A message in flight. Times are seconds on the monotonic clock; 0 is never.

    Args:
        retention_s: The age at which its queue drops it.
        server_offset_s: MNS's clock minus ours at the receipt, in seconds.
        received_span: The span of the receive that brought it, with traces on.
        receipt: The newest one.
        renew_at: When the lease is due for its next renewal.
        await_until: Until when its redelivery is awaited.
        claim_key: The ledger key whose claim it may hold, from the moment it asks.
        job_key: Its job's key, where it is the one delivery of that job in flight here.
        is_claimed: Whether the ledger has said that the key is ours: from then on its claim is renewed.
        claim: What the ledger knew of the job.
        notification: What it says; an empty one until it is decoded, or when it can't be.
        interruption: Why its run was interrupted, if it was.
        in_thread: Whether its handler is a plain function, in a thread that can't be cancelled.
        cancel_handler: Cancels its async handler while one runs.
        started_at: When the handler was called.
        run_s: How long it ran.
    """

    message: Message
    rules: Rules
    slot: Slot
    retention_s: float
    server_offset_s: float = 0.0
    received_span: SpanContext | None = None
    received_at: float = field(init=False)
    receipt: Receipt = field(init=False)
    stage: Stage = field(init=False, default=Stage.RECEIVED)
    lease: LeaseState = field(init=False, default=LeaseState.HELD)
    renew_at: float = field(init=False, default=0.0)
    await_until: float = field(init=False, default=0.0)
    # asyncio's own: anyio's takes ten times as long to make, for every message.
    lock: ReceiptLock = field(init=False, default_factory=ReceiptLock)
    claim_key: str | None = field(init=False, default=None)
    job_key: str | None = field(init=False, default=None)
    is_claimed: bool = field(init=False, default=False)
    claim: Claimed = field(init=False)
    notification: Notification = field(init=False)
    handler: Handler | None = field(init=False, default=None)
    completed: Completed | None = field(init=False, default=None)
    result: RunResult = field(init=False, default=Interrupted.STOPPING)
    interruption: Interrupted | TimedOut | None = field(init=False, default=None)
    in_thread: bool = field(init=False, default=False)
    cancel_handler: Callable[[str], None] | None = field(init=False, default=None)
    started_at: float = field(init=False, default=0.0)
    run_s: float = field(init=False, default=0.0)
    span: Span | None = field(init=False, default=None)
    _task: asyncio.Task[Any] | None = field(init=False, default=None)
    _is_cancelled: bool = field(init=False, default=False)
    _received_age_s: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        """Plan the first renewal, and note how old the message is."""
        self.received_at = time.monotonic()
        self.claim = _UNCLAIMED
        self.notification = _UNREAD
        self._take_receipt(self.message.receipt)
        self._received_age_s = max(0.0, time.time() + self.server_offset_s - self.message.enqueued_at)

    # The lease.

    def renewed(self, receipt: Receipt) -> None:
        """MNS has answered with a newer receipt."""
        self._take_receipt(receipt)
        self.lease_event(LeaseEvent.RENEWED)

    def redelivered(self, receipt: Receipt) -> None:
        """The message came to this process again; the new receipt has replaced the old one."""
        self._take_receipt(receipt)
        self.lease_event(LeaseEvent.REDELIVERED)

    def lease_event(self, event: LeaseEvent) -> LeaseState:
        """Note what happened to the lease; returns its new state."""
        self.lease = next_state(self.lease, event, self.stage)
        if self.lease is not LeaseState.AWAITING_REDELIVERY:
            self.await_until = 0.0
        return self.lease

    def await_redelivery(self, until: float) -> None:
        """Leave the lease alone until then: the message may come back."""
        self.await_until = self.renew_at = until

    def renew_next(self, at: float) -> None:
        """Plan the next renewal."""
        self.renew_at = at

    def _take_receipt(self, receipt: Receipt) -> None:
        self.receipt = receipt
        now = time.monotonic()
        self.renew_at = now + max(0.0, receipt.expires_at - now) / 2

    # The claim.

    def asks_for(self, key: str) -> None:
        """It asks for its job's claim: from now on the claim must be released, even if the answer is lost."""
        self.claim_key = key
        if self.job_key is None:
            self.job_key = key

    def asks_for_itself(self, message_key: str) -> None:
        """It asks for the claim of its message in place of its job's."""
        self.claim_key = message_key

    def claim_granted(self, claim: Claimed) -> None:
        """The ledger has granted the claim."""
        self.claim = claim
        self.is_claimed = True

    def message_claim_granted(self) -> None:
        """The ledger has granted the claim of its message; the attempt stays that of its job."""
        self.is_claimed = True

    def claim_refused(self) -> None:
        """The ledger has not granted the claim."""
        self.claim_key = None

    def claim_dropped(self) -> None:
        """The claim is dropped, so that a renewal does not report it as lost."""
        self.is_claimed = False

    # The run.

    @property
    def attempt(self) -> int:
        """The number of this run of the handler, from 1."""
        return self.claim.failures + 1

    @property
    def retry_policy(self) -> RetryPolicy:
        """The limits and delays that hold for failures of its handler."""
        policy = self.rules.policy.retry
        if self.handler is None or self.handler.limits.max_failures is None:
            return policy
        return replace(policy, max_failures=self.handler.limits.max_failures)

    def decode(self) -> Notification | Undecodable:
        """Decode its body."""
        notification = decode(self.message.body)
        if not isinstance(notification, Undecodable):
            self.notification = notification
        return notification

    def routed_to(self, handler: Handler) -> None:
        """A handler takes it."""
        self.handler = handler

    def run_in_this_task(self) -> None:
        """Its run begins in this task, which ``interrupt`` cancels from now on.

        A cancel scope of anyio costs 9 us more (bench ablation "cancel-scope"), for every message.
        """
        self._task = asyncio.current_task()

    def take_interruption(self) -> bool:
        """Take the cancellation that has ended the run; ``True`` if it came from ``interrupt`` alone. Called once."""
        return self._is_cancelled and self._task is not None and self._task.uncancel() == 0

    def begin_run(self, handler: Handler, completed: Completed) -> None:
        """Its handler is being called."""
        self.completed = completed
        self.in_thread = not handler.is_async
        self.stage = Stage.RUNNING
        self.started_at = time.monotonic()

    def cancel_by(self, cancel_handler: Callable[[str], None]) -> None:
        """How to cancel its async handler."""
        self.cancel_handler = cancel_handler

    def end_run(self) -> None:
        """Its handler has ended. A lost lease cancels nothing any more: the result counts."""
        self.run_s = time.monotonic() - self.started_at
        self.stage = Stage.SETTLING
        self.cancel_handler = None

    def interrupt(self, why: Interrupted | TimedOut) -> None:
        """Cancel its run, unless that has ended; the first reason counts.

        An async handler is cancelled once and then awaited: its run ends when it has cleaned up.
        """
        if self.interruption is None and self.stage < Stage.SETTLING:
            self.interruption = why
            if self.cancel_handler is not None:
                self.cancel_handler(str(why))
            else:
                self._cancel_task()

    def leave_running(self) -> None:
        """End the run; its async handler ignored the cancellation and continues."""
        if self.stage is Stage.RUNNING and self.cancel_handler is not None:
            self.interruption = Interrupted.LEFT_RUNNING
            self._cancel_task()

    def _cancel_task(self) -> None:
        if self._task is not None and not self._is_cancelled:
            self._is_cancelled = True
            self._task.cancel(str(self.interruption))

    def finish(self, result: RunResult | None) -> RunResult:
        """Its run has ended, by an interruption where ``result`` is ``None``: leave the slot to another message."""
        self.stage = Stage.SETTLING
        self.result = result or self.interruption or Interrupted.STOPPING
        self.slot.leave(unused=not self.started_at)
        return self.result

    def traced_by(self, span: Span) -> None:
        """Its processing has a span."""
        self.span = span

    def close(self) -> None:
        """It is settled, or given up."""
        self.stage = Stage.CLOSED
        self.lease = LeaseState.CLOSED

    # What is known of it.

    @property
    def is_closed(self) -> bool:
        """Whether it is settled."""
        return self.stage is Stage.CLOSED

    @property
    def is_rejoinable(self) -> bool:
        """Whether a redelivery of its message may go on as this delivery."""
        return self.stage is not Stage.CLOSED and self.interruption is not Interrupted.LEASE_LOST

    @property
    def has_recorded_start(self) -> bool:
        """Whether the ledger may hold the start of a run that has not ended."""
        return self.stage is Stage.RUNNING and self.is_claimed and self.message.dequeue_count > 1

    def age_s(self) -> float:
        """Seconds since MNS accepted the message: by MNS's clock up to the receipt, then by the monotonic one."""
        return self._received_age_s + time.monotonic() - self.received_at

    def history(self) -> History:
        """What the outcome of its run depends on."""
        return History(
            failures=self.claim.failures,
            dequeue_count=self.message.dequeue_count,
            age_s=self.age_s(),
            retention_s=self.retention_s,
            jitter=random.random(),  # noqa: S311 - jitter, not a secret
        )

    @property
    def said(self) -> Notification | Job[Any, Any]:
        """Who says how its job ended: MPS where it was asked, else the message."""
        return self.notification if self.completed is None else self.completed.job

    def record(self, queue_identity: str) -> JobRecord:
        """What the ledger keeps of its job."""
        notification, completed, said, now = self.notification, self.completed, self.said, time.time()
        return JobRecord(
            key=self.claim_key or "",
            queue=queue_identity,
            kind=notification.kind,
            function=notification.name,
            message_id=self.message.message_id,
            job_id=notification.job_id,
            state=said.state,
            code=said.code,
            message=said.message,
            user_data=notification.user_data_text if completed is None else completed.user_data_text,
            result=None if completed is None else completed.result_text,
            attempts=self.claim.failures + 1,
            enqueued_at=self.message.enqueued_at,
            started_at=now - (time.monotonic() - self.started_at) if self.started_at else now,
            ended_at=now,
        )
