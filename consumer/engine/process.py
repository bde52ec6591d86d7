"""The life of one message, from its receipt to its end.

    3 decode, 4 route    read()          what it says and who takes it
    5 claim              _run()          first time? ended before? running elsewhere?
    6 result             fetch()         what the handler wants besides the message
    7 handle             invoke()        within time limit and lease
    8 decide             decide()        how it ended -> what becomes of it
    9 settle             settle()        written down first, then deleted or hidden
    10 observe           report()        one log line, the counters

Elsewhere: slots and receiving, hops 1 and 2 (``engine.poll``); each hop in the module of its own name.
"""

from __future__ import annotations

import contextlib
import random
import time
from typing import Any, Final

import structlog

from consumer.engine.delivery import Delivery, Stage
from consumer.engine.fetch import Fetched, fetch
from consumer.engine.invoke import invoke
from consumer.engine.lane import Lane
from consumer.engine.outcome import (
    Busy,
    Cut,
    Dead,
    End,
    HeldElsewhere,
    Outcome,
    Raised,
    Run,
    Skipped,
    Unfit,
    Unreachable,
    crashing,
    decide,
)
from consumer.engine.report import report
from consumer.engine.slots import Place
from consumer.engine.tasks import new_scope
from consumer.engine.work import Work, read
from consumer.errors import StoreError
from consumer.message.key import message_key, verified_key
from consumer.message.notification import Kind, contradictions
from consumer.ops.metrics import SettledAs
from consumer.plugin.handler import Handler
from consumer.plugin.job import NOT_WANTED, Job
from consumer.policy import SUSPECT_STARTS, Reason, TrustPolicy, Verify
from consumer.store.ledger import Claimed, Elsewhere, Ended

log = structlog.stdlib.get_logger(__name__)

_CLAIM_TRIES: Final = 4
_CHECKED: Final = TrustPolicy(Verify.ALWAYS)
_NOTHING: Final = contextlib.nullcontext()


async def process(lane: Lane, delivery: Delivery, place: Place) -> SettledAs | None:
    """Take one message through its whole life.

    Args:
        lane: Its queue's parts.
        delivery: The message.
        place: Its slot, left as soon as no handler needs it.

    Returns:
        The word for how it ended; ``None`` when it was handed over to the delivery that stands for it already.
    """
    work = read(delivery, lane.identity, lane.rules)
    if work.key in lane.held and await lane.hand_over(work.key, delivery):
        return None
    lane.leases.keep(delivery)
    lane.held.setdefault(work.key, delivery)
    handler = work.verdict if isinstance(work.verdict, Handler) else None
    if handler is None:
        place.leave(unused=True)
    try:
        try:
            with new_scope() as delivery.scope:
                work.end = await _run(lane, work, place)
        except Exception as error:
            # A mistake of this program: counted like a failure of the handler, so that it ends as a dead letter with
            # its traceback, rather than in silence when the queue drops the message.
            log.exception("internal fault", queue=lane.url.queue, message_id=delivery.message.message_id)
            work.end = Raised(error)
        # A run that was cut short left no end behind.
        work.end = work.end or delivery.cut or Cut.STOPPING
        outcome = decide(work.end, _facts(lane, work), work.rules.retry_of(handler))
        place.leave(unused=not work.started_at)
        if isinstance(outcome, Dead) and not (outcome.closes_job and delivery.claimed):
            outcome = await _close_message_only(lane, work, outcome)
        # Outside the scope: nothing may cut short what is being written down, but the stop deadline.
        settled = await lane.settler.settle(delivery, outcome, work.record(lane.identity))
        return report(lane, work, settled)
    finally:
        delivery.stage = Stage.CLOSED
        lane.leases.drop(delivery)
        if lane.held.get(work.key) is delivery:
            del lane.held[work.key]


async def _run(lane: Lane, work: Work, place: Place) -> End:
    """Hops 5 to 7: the end that this run comes to, unless it is cut short."""
    if isinstance(work.verdict, Skipped):
        return work.verdict
    if lane.stopping:
        return Cut.STOPPING
    if isinstance(work.verdict, Unfit):
        # Nothing to claim: whatever job it names is not touched by it.
        return work.verdict
    if lane.held[work.key] is not work.delivery:
        # Another message of the same job, as when MPS sent its notification twice.
        return HeldElsewhere(work.rules.policy.lease_step_s / 4)
    claim = await _claim(lane, work, work.key)
    fetched: Fetched | End | None = None
    if isinstance(claim, Ended):
        fetched = await _second(lane, work, work.verdict, claim)
        if not isinstance(fetched, Fetched):
            return fetched
        claim = await _claim(lane, work, verified_key(lane.identity, work.notification))
    if isinstance(claim, Ended):
        return Skipped.DUPLICATE
    if not isinstance(claim, Claimed):
        return claim
    work.claim = claim
    fetched = fetched or await _fetch(lane, work, work.verdict, work.rules.trust)
    if not isinstance(fetched, Fetched):
        return fetched
    # Not before: a message that is not true must not end the job for what its true message did.
    if dead := crashing(work.claim.starts):
        return dead
    work.fetched = fetched
    return await _handle(lane, work, work.verdict, fetched, place)


async def _second(lane: Lane, work: Work, handler: Handler, ended: Ended) -> Fetched | End:
    """What a message of a job that has ended before is: the same again, one that is not true, or the true one.

    Where the two differ, one of them is not true, and MPS knows which. If it is the one that ended the job, which
    nobody checked, the true one is handled all the same, once, under a key of its own.
    """
    different = contradictions(work.notification, function=ended.function, state=ended.state, user_data=ended.user_data)
    if not different:
        return Skipped.DUPLICATE
    if work.notification.kind is not Kind.IPRODUCTION:
        told = f"its job has ended before, and was handled otherwise: {'; '.join(different)}"
        return Unfit(Reason.CONTRADICTED, told)
    return await _fetch(lane, work, handler, _CHECKED)


async def _claim(lane: Lane, work: Work, key: str) -> Claimed | Ended | HeldElsewhere | Unreachable:
    """Hop 5: claim a key for the message."""
    delivery = work.delivery
    # Ours from the asking on: a claim whose answer got lost is let go like any other.
    delivery.key = key
    try:
        # While the store is down the message is held here: nothing moves in the queue.
        claim = await lane.gate.persist(
            lambda: lane.ledger.claim(key, lane.leases.claim_s(delivery)), most_tries=_CLAIM_TRIES
        )
    except StoreError as error:
        return Unreachable(error)
    if isinstance(claim, Claimed):
        delivery.claimed = True
        return claim
    delivery.key = None
    return claim if isinstance(claim, Ended) else HeldElsewhere(claim.remaining_s)


async def _fetch(lane: Lane, work: Work, handler: Handler, trust: TrustPolicy) -> Fetched | End:
    """Hop 6: get what the handler wants besides the message."""
    return await fetch(
        work.notification,
        handler,
        lane.results.query,
        trust,
        wait_limit_s=work.rules.policy.result_wait_s,
        observe=lambda word: lane.queries[word].inc(),
    )


async def _close_message_only(lane: Lane, work: Work, dead: Dead) -> Outcome:
    """Take the message's own key in place of its job's, so that setting it aside leaves the job open.

    Returns:
        The same outcome; another one where the message was set aside before, or is being set aside elsewhere.
    """
    delivery = work.delivery
    delivery.stage = Stage.SETTLING
    await lane.settler.let_go(delivery)
    key = delivery.key = message_key(lane.identity, delivery.message.message_id)
    claim = await lane.gate.persist(lambda: lane.ledger.claim(key, lane.leases.claim_s(delivery)))
    match claim:
        case Claimed():
            delivery.claimed = True
            return dead
        case Ended():
            work.end = Skipped.DUPLICATE
        case Elsewhere():
            work.end = HeldElsewhere(claim.remaining_s)
    delivery.key = None
    return decide(work.end, _facts(lane, work), work.rules.retry)


async def _handle(lane: Lane, work: Work, handler: Handler, fetched: Fetched, place: Place) -> End:
    """Hop 7: wait for the handler's turn, then call it."""
    suspect = lane.alone if work.claim.starts >= SUSPECT_STARTS else None
    turn = work.rules.turns.get(handler.name)
    if suspect is None and turn is None:
        return await _call(lane, work, handler, fetched)
    is_free = not (suspect and suspect.locked()) and (turn is None or turn.available_tokens >= 1)
    if not is_free and not place.step_aside():
        return Busy(handler.name)
    # The turn comes last: while one suspect runs, the others must not keep it from the good ones.
    async with suspect or _NOTHING, turn or _NOTHING:
        if place.is_aside:
            await place.come_back()
        return await _call(lane, work, handler, fetched)


async def _call(lane: Lane, work: Work, handler: Handler, fetched: Fetched) -> End:
    if lane.stopping:
        return Cut.STOPPING
    if work.delivery.message.dequeue_count > 1:
        # This may be the message that kills the process: written down first, so that it can be told by it.
        try:
            await lane.gate.persist(lambda: lane.ledger.start(work.delivery.key or work.key), most_tries=_CLAIM_TRIES)
        except StoreError as error:
            return Unreachable(error)
    work.delivery.in_thread = not handler.is_async
    work.delivery.stage = Stage.RUNNING
    work.started_at = time.monotonic()
    try:
        end = await invoke(
            handler, _job(lane, work, fetched), work.rules.limits_of(handler), lane.threads, work.delivery
        )
    finally:
        work.seconds = time.monotonic() - work.started_at
    # From here on a lost lease cancels nothing more: the handler has ended, its end counts.
    work.delivery.stage = Stage.SETTLING
    return end or work.delivery.cut or Cut.STOPPING


def _job(lane: Lane, work: Work, fetched: Fetched) -> Job[Any, Any]:
    seen = work.notification
    return Job(
        # The Type of an unknown message is whatever stood there: it must not pass for a FunctionName.
        function=Kind.UNKNOWN.value if seen.kind is Kind.UNKNOWN else seen.route,
        kind=seen.kind.value,
        job_id=seen.job_id or "",
        state=fetched.state,
        failed=fetched.failed,
        code=fetched.code,
        message=fetched.message,
        user_data=fetched.user_data,
        input=fetched.input,
        output=fetched.output,
        attempt=work.attempt,
        queue=lane.url.queue,
        message_id=work.delivery.message.message_id,
        document=seen.document,
        result_or_none=fetched.result if fetched.wanted else NOT_WANTED,
    )


def _facts(lane: Lane, work: Work) -> Run:
    return Run(
        failures=work.claim.failures,
        starts=work.claim.starts,
        dequeue_count=work.delivery.message.dequeue_count,
        age_s=work.delivery.age_s(),
        retention_s=lane.retention_s,
        dice=random.random(),  # noqa: S311 - spreads a crowd, guards nothing
    )
