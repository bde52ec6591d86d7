"""One message being worked on: what it says, who takes it, and what is known of its run so far.

Elsewhere: the way it goes (``engine.process``), its receipt and lease (``engine.delivery``).
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Final

from consumer.engine.delivery import Delivery
from consumer.engine.fetch import Fetched
from consumer.engine.outcome import End, Skipped, Unfit
from consumer.engine.rules import Rules
from consumer.message.key import ledger_key, message_key
from consumer.message.notification import Kind, Notification, Phase, Undecodable, decode
from consumer.plugin.handler import ANY_NAME, Handler
from consumer.plugin.registry import Registry
from consumer.policy import Reason, UnroutedPolicy
from consumer.store.ledger import Claimed, JobRecord

_NOTHING: Final = Notification(
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


_UNCLAIMED: Final = Claimed()


@dataclass(slots=True)
class Work:
    """One message on its way.

    Args:
        delivery: The message with its lease.
        key: Its ledger key.
        notification: What it says; an empty one when it could not be read.
        verdict: The handler that takes it, or why none is to run.
        rules: By what it is handled.
        claim: What the ledger knew of it.
        fetched: What its handler got besides the message.
        end: How its run ended; ``None`` until then, and when it was cut short.
        started_at: When the handler was called, on the monotonic clock; 0 when it never was.
        seconds: How long the handler ran.
    """

    delivery: Delivery
    key: str
    notification: Notification
    verdict: Handler | Skipped | Unfit
    rules: Rules
    claim: Claimed = field(default_factory=lambda: _UNCLAIMED)
    fetched: Fetched | None = None
    end: End | None = None
    started_at: float = 0.0
    seconds: float = 0.0

    @property
    def attempt(self) -> int:
        """Which run of the handler this is, from 1."""
        return self.claim.failures + 1

    def record(self, queue_identity: str) -> JobRecord:
        """What the ledger keeps of it."""
        seen, fetched, now = self.notification, self.fetched, time.time()
        return JobRecord(
            # Not always its job's: a message that is set aside for itself alone has taken its own key instead.
            key=self.delivery.key or self.key,
            queue=queue_identity,
            kind=seen.kind,
            function=Kind.UNKNOWN.value if seen.kind is Kind.UNKNOWN else seen.route,
            message_id=self.delivery.message.message_id,
            job_id=seen.job_id,
            state=seen.state if fetched is None else fetched.state,
            code=seen.code if fetched is None else fetched.code,
            message=seen.message if fetched is None else fetched.message,
            user_data=seen.user_data_text if fetched is None else fetched.user_data_text,
            result=None if fetched is None else fetched.result_text,
            attempts=self.attempt,
            enqueued_at=self.delivery.message.enqueued_at,
            started_at=now - (time.monotonic() - self.started_at) if self.started_at else now,
            ended_at=now,
        )


def read(delivery: Delivery, queue_identity: str, rules: Rules) -> Work:
    """Decode and route one message (hops 3 and 4)."""
    message_id = delivery.message.message_id
    seen = decode(delivery.message.body)
    if isinstance(seen, Undecodable):
        key, unfit = message_key(queue_identity, message_id), Unfit(Reason.UNDECODABLE, str(seen))
        return Work(delivery, key, _NOTHING, unfit, rules)
    key = ledger_key(queue_identity, seen, message_id)
    if seen.phase is Phase.INTERMEDIATE:
        return Work(delivery, key, seen, Skipped.INTERMEDIATE, rules)
    handler = _find(rules.registry, seen)
    if handler is None:
        # Under the message's own key: the name that nobody takes may be a stranger's, and the job another one's.
        return Work(delivery, message_key(queue_identity, message_id), seen, _unrouted(rules, seen), rules)
    return Work(delivery, key, seen, handler, rules)


def _find(registry: Registry, seen: Notification) -> Handler | None:
    if seen.kind is Kind.UNKNOWN:
        # Its name is whatever text stood in the message: it must not pass for a FunctionName.
        return registry.handlers.get(ANY_NAME)
    return registry.find(seen.route)


def _unrouted(rules: Rules, seen: Notification) -> Skipped | Unfit:
    if rules.policy.unrouted is UnroutedPolicy.DROP:
        return Skipped.DROPPED
    what = "FunctionName" if seen.kind is Kind.IPRODUCTION else "message kind"
    known = ", ".join(rules.registry.handlers)
    return Unfit(
        Reason.UNROUTED,
        f"no handler for {what} {seen.route[:80]!r}; known: {known}. Add a file with @handler({seen.route[:80]!r}) "
        f"to the handlers' folder, or a fallback @handler({ANY_NAME!r}), then replay",
    )
