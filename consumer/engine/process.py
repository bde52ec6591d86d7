"""The life of a delivery, from its receipt to its acknowledgement.

decode, route       what the message says, and which handler takes it
claim               is this job new, ended, or running elsewhere?
complete            what the handler wants besides the message
call                the handler, within its time limit and the lease
decide              what happens to the message
settle              persist the outcome, then delete or hide the message
report              one log line, the counters
"""

from __future__ import annotations

import structlog

from consumer.engine.complete import Completed, complete
from consumer.engine.delivery import Delivery
from consumer.engine.invoke import invoke
from consumer.engine.lane import Lane
from consumer.engine.outcome import (
    Busy,
    Interrupted,
    Raised,
    RunResult,
    Skipped,
    Unavailable,
    Unprocessable,
    crashing,
    decide,
)
from consumer.engine.report import report
from consumer.errors import StoreError
from consumer.message.notification import Kind, Notification, Undecodable, contradictions, ledger_key, verified_key
from consumer.ops.logs import job_context
from consumer.ops.metrics import SettledAs
from consumer.plugin.handler import Handler
from consumer.policy import Reason
from consumer.store.ledger import Claimed, Ended

log = structlog.stdlib.get_logger(__name__)


async def process(lane: Lane, delivery: Delivery) -> SettledAs | None:
    """Process one delivery, from its receipt until it is settled.

    Returns:
        How it ended; ``None`` when it was a redelivery of a message that is in flight here, which goes on with the new
        receipt handle, or when a bug left it to its lease.
    """
    with lane.in_flight(delivery):
        if await lane.rejoin(delivery):
            return None
        result: RunResult | None = None
        try:
            with delivery.interruptible():
                result = await run(lane, delivery)
        except Exception as error:
            # A bug of this program counts like a failure of the handler: so it ends as a dead letter with its
            # traceback, and not in silence when the queue drops the message.
            log.exception("internal error", queue=lane.name, message_id=delivery.message.message_id)
            result = Raised(error)
        outcome = decide(delivery.finish(result), delivery.history(), delivery.retry_policy)
        # Only the stop deadline interrupts this: the outcome is being persisted.
        settled = await lane.settler.settle(delivery, outcome)
        return report(lane, delivery, settled)


async def run(lane: Lane, delivery: Delivery) -> RunResult:
    """Decode, route, claim, complete and call; the first step that ends the run gives its result."""
    notification = delivery.decode()
    if isinstance(notification, Undecodable):
        return Unprocessable(Reason.UNDECODABLE, str(notification))
    handler = lane.route(delivery)
    if not isinstance(handler, Handler):
        return handler
    claim = await lane.claim(delivery, ledger_key(lane.identity, notification, delivery.message.message_id))
    is_contradicting = isinstance(claim, Ended)
    if isinstance(claim, Ended):
        if (ended := _compare(notification, claim)) is not None:
            return ended
        # One of the two messages is forged, and MPS knows which. If it is the earlier one, which was not checked, the
        # true one is handled all the same, once, under a key of its own.
        claim = await lane.claim(delivery, verified_key(lane.identity, notification))
    if not isinstance(claim, Claimed | Ended):
        return claim
    completed = await complete(delivery, handler, lane.queries, lane.name, always_verify=is_contradicting)
    if not isinstance(completed, Completed):
        return completed
    if isinstance(claim, Ended):
        return Skipped.DUPLICATE
    # Checked only after MPS has confirmed the message: else a forged message could close the job for crashes that the
    # true one caused.
    if crashed := crashing(claim.starts):
        return crashed
    async with lane.turn(handler, delivery) as is_its_turn:
        if not is_its_turn:
            return Busy(handler.name)
        return await _call(lane, delivery, handler, completed)


def _compare(notification: Notification, ended: Ended) -> Skipped | Unprocessable | None:
    """Compare a message with the one that ended its job; ``None`` where only MPS knows which of them is true."""
    different = contradictions(notification, function=ended.function, state=ended.state, user_data=ended.user_data)
    if not different:
        return Skipped.DUPLICATE
    if notification.kind is not Kind.IPRODUCTION:
        error = f"its job has ended before, by a message that contradicts it: {'; '.join(different)}"
        return Unprocessable(Reason.CONTRADICTED, error)
    return None


async def _call(lane: Lane, delivery: Delivery, handler: Handler, completed: Completed) -> RunResult:
    if lane.stopping:
        return Interrupted.STOPPING
    if delivery.message.dequeue_count > 1 and delivery.key is not None:
        # This may be the message that kills the process. If it does, the recorded start shows it.
        try:
            await lane.store.try_write(lane.store.ledger.start, delivery.key)
        except StoreError as error:
            return Unavailable(error)
    job = completed.job
    context = job_context(job.function, job.job_id, message_id=job.message_id, queue=job.queue, attempt=job.attempt)
    delivery.begin_run(handler, completed)
    try:
        with context:
            return await invoke(handler, job, delivery.rules.limits_of(handler), lane.threads, delivery)
    finally:
        delivery.end_run()
