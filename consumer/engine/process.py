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
    NotReady,
    Raised,
    RunResult,
    Skipped,
    Unanswered,
    Unavailable,
    Unprocessable,
    crashing,
    decide,
)
from consumer.engine.report import report
from consumer.errors import StoreError
from consumer.message.key import ledger_key, verified_key
from consumer.message.notification import Kind, Undecodable, contradictions
from consumer.ops.logs import job_context
from consumer.ops.metrics import SettledAs
from consumer.plugin.handler import Handler
from consumer.policy import Reason
from consumer.store.ledger import Claimed, Ended

log = structlog.stdlib.get_logger(__name__)


async def process(lane: Lane, delivery: Delivery) -> SettledAs | None:
    """Take one delivery from its receipt to its acknowledgement.

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
    return None


async def run(lane: Lane, delivery: Delivery) -> RunResult:
    """Decode, route, claim, complete and call; the first step that ends the run gives its result."""
    notification = delivery.decode()
    if isinstance(notification, Undecodable):
        return Unprocessable(Reason.UNDECODABLE, str(notification))
    handler = lane.route(delivery)
    if not isinstance(handler, Handler):
        return handler
    claim = await lane.claim(delivery, ledger_key(lane.identity, notification, delivery.message.message_id))
    job: Completed | None = None
    if isinstance(claim, Ended):
        verified = await _verify_second(lane, delivery, handler, claim)
        if not isinstance(verified, Completed):
            return verified
        job = verified
        claim = await lane.claim(delivery, verified_key(lane.identity, notification))
    if isinstance(claim, Ended):
        return Skipped.DUPLICATE
    if not isinstance(claim, Claimed):
        return claim
    completed = job or await complete(delivery, handler, lane.queries, lane.name)
    if not isinstance(completed, Completed):
        return completed
    # Only after MPS's answer: a forged message must not end the job for what the true one did.
    if suspect := crashing(claim.starts):
        return suspect
    async with lane.turn(handler, delivery) as is_its_turn:
        if not is_its_turn:
            return Busy(handler.name)
        return await _call(lane, delivery, handler, completed)


async def _verify_second(
    lane: Lane, delivery: Delivery, handler: Handler, ended: Ended
) -> Completed | Skipped | Unprocessable | NotReady | Unanswered | Unavailable:
    """A message whose job has ended before: a duplicate, a forgery, or the true one after a forgery.

    Where it contradicts the message that ended the job, one of the two is forged, and MPS knows which. If it is the
    earlier one, which was not checked, the true one is handled all the same, once, under a key of its own.
    """
    notification = delivery.notification
    different = contradictions(notification, function=ended.function, state=ended.state, user_data=ended.user_data)
    if not different:
        return Skipped.DUPLICATE
    if notification.kind is not Kind.IPRODUCTION:
        error = f"its job has ended before, by a message that contradicts it: {'; '.join(different)}"
        return Unprocessable(Reason.CONTRADICTED, error)
    return await complete(delivery, handler, lane.queries, lane.name, always_verify=True)


async def _call(lane: Lane, delivery: Delivery, handler: Handler, completed: Completed) -> RunResult:
    if lane.stopping:
        return Interrupted.STOPPING
    if delivery.message.dequeue_count > 1 and delivery.key is not None:
        # This may be the message that kills the process. If it does, the recorded start shows it.
        try:
            await lane.store.attempt(lane.store.ledger.start, delivery.key)
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
