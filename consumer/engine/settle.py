"""Carry an outcome out: first what must be written down, then what happens to the message.

    Done    ledger: done      then delete
    Forget                    delete
    Hide    ledger: fail or release, then hide
    Dead    ledger: dead letter and key's end in one transaction, then delete; without room for it as Hide
    Lost    ledger: release   nothing else; the message is no longer ours

A write that fails is tried until it succeeds, its message's lease kept meanwhile; nothing is deleted before.

Elsewhere: which outcome it is (``engine.outcome``), the deletes themselves (``engine.deletes``).
"""

from __future__ import annotations

import time

import anyio
import structlog

from consumer.engine.deletes import Deletes
from consumer.engine.delivery import Delivery, Orders, Stage
from consumer.engine.letter_limit import LetterLimit, no_room
from consumer.engine.outcome import Dead, Done, Forget, Hide, Lost, Outcome
from consumer.engine.store_gate import StoreGate
from consumer.errors import CloudError, traceback_of
from consumer.ops.redact import SECRETS
from consumer.ops.traces import Traces
from consumer.store.clip import fit_letter, letter_bytes
from consumer.store.ledger import DeadLetter, JobRecord, Ledger

log = structlog.stdlib.get_logger(__name__)

_HIDE_TRIES = 3


class Settler:
    """Ends the messages of one queue.

    Args:
        queue: The queue's client.
        name: The queue's name, for the log and traces.
        ledger: Where ends are written down.
        gate: Tries writes until they succeed.
        letters: Says whether there is room for a dead letter.
        deletes: Where ended messages go.
        traces: Tells OpenTelemetry, where that is wanted.
    """

    def __init__(
        self,
        *,
        queue: Orders,
        name: str,
        ledger: Ledger,
        gate: StoreGate,
        letters: LetterLimit,
        deletes: Deletes,
        traces: Traces | None = None,
    ) -> None:
        self._queue = queue
        self._name = name
        self._traces = traces
        self._ledger = ledger
        self._gate = gate
        self._letters = letters
        self._deletes = deletes

    async def settle(self, delivery: Delivery, outcome: Outcome, record: JobRecord) -> Outcome:
        """Carry one outcome out.

        Args:
            delivery: The message; its claim, where it has one, is ours as far as we know.
            outcome: What is to become of it.
            record: What the ledger keeps of its job.

        Returns:
            The outcome as it came to be: ``Lost`` when the claim had been taken over meanwhile.
        """
        delivery.stage = Stage.SETTLING
        match outcome:
            case Done():
                if not await self._gate.persist(lambda: self._ledger.done(record)):
                    return self._taken_over(delivery)
                self._delete(delivery)
            case Dead():
                return await self._set_aside(delivery, outcome, record)
            case Forget():
                self._delete(delivery)
            case Hide():
                await self.let_go(delivery, outcome.failure)
                await self._hide(delivery, outcome.delay_s)
            case Lost():
                await self.let_go(delivery)
                delivery.stage = Stage.CLOSED
        return outcome

    async def _set_aside(self, delivery: Delivery, dead: Dead, record: JobRecord) -> Outcome:
        letter = _letter(delivery, dead, record)
        size_bytes = letter_bytes(fit_letter(letter))
        if not self._letters.take(size_bytes):
            return await self._keep(delivery)
        try:
            if not await self._gate.persist(lambda: self._ledger.bury(letter)):
                return self._taken_over(delivery)
        finally:
            self._letters.settled(size_bytes)
        self._delete(delivery)
        return dead

    async def _keep(self, delivery: Delivery) -> Hide:
        """No room for its letter: the message stays in its queue, and its job is as it was before this run."""
        kept = no_room()
        await self.let_go(delivery, None)
        await self._hide(delivery, kept.delay_s)
        return kept

    def _delete(self, delivery: Delivery) -> None:
        delivery.stage = Stage.CLOSED
        self._deletes.add(delivery)

    def _taken_over(self, delivery: Delivery) -> Lost:
        delivery.stage = Stage.CLOSED
        log.warning(
            "claim lost to another daemon before the end could be written; the message is left to it",
            message_id=delivery.message.message_id,
        )
        return Lost()

    async def let_go(self, delivery: Delivery, failure: str | None = None) -> None:
        """Release a delivery's claim.

        Args:
            delivery: Whose; nothing happens where it has none.
            failure: The handler's failure to count for its job, as one sentence.
        """
        key = delivery.key
        if key is None:
            return
        if failure is None:
            await self._gate.persist(lambda: self._ledger.release(key))
        else:
            error = SECRETS.mask(failure)
            await self._gate.persist(lambda: self._ledger.fail(key, error))
        # A renewal that comes now must not take the missing claim for one that was taken over.
        delivery.claimed = False

    async def _hide(self, delivery: Delivery, delay_s: int) -> None:
        async with delivery.lock:
            delivery.stage = Stage.CLOSED
            for tries in range(_HIDE_TRIES):
                asked_at = time.monotonic()
                try:
                    delivery.hold(await self._queue.hide(delivery.receipt.handle, delay_s))
                except CloudError as error:
                    self._trace(delivery, asked_at, str(error.fault))
                    if not error.retryable:
                        break
                    await anyio.sleep(0.2 * (tries + 1))
                else:
                    self._trace(delivery, asked_at)
                    return
        # It comes back by itself when its lease ends: sooner or later than wished, but not lost.
        log.debug("message not hidden; it comes back when its lease ends", message_id=delivery.message.message_id)

    def _trace(self, delivery: Delivery, asked_at: float, fault: str = "") -> None:
        if self._traces is not None:
            self._traces.settled(self._name, "hide", [delivery.life], time.monotonic() - asked_at, fault)


def _letter(delivery: Delivery, dead: Dead, record: JobRecord) -> DeadLetter:
    """Its texts without the secrets that are known; its body byte for byte, since that is what a replay sends."""
    message = delivery.message
    trace = None if dead.cause is None else traceback_of(dead.cause)
    return DeadLetter(
        job=record,
        reason=dead.reason,
        error=SECRETS.mask(dead.error),
        body=message.body,
        traceback=trace and SECRETS.mask(trace),
        dequeue_count=message.dequeue_count,
        first_dequeued_at=message.first_dequeued_at,
    )
