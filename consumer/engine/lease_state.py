"""The states of a delivery's lease, and what each event makes of them. Pure: every row is a test.

    HELD                    the receipt handle is good until its lease ends
    UNCONFIRMED             the answer to a renewal was lost: MNS may have replaced the receipt handle
    AWAITING_REDELIVERY     the handle was refused, which proves nothing: the message may come back to this process
    ORPHANED                lost, while a handler or the settling goes on: the claim is kept until that ends
    LOST                    lost; the run is cancelled and the message is left to its redelivery
    CLOSED                  settled; nothing more is done with the lease

A refused handle proves a loss only where no renewal of ours can have replaced it. After a lost answer, or close to the
lease's end when an answer may have been read late, we wait for its redelivery for the length of one more lease.
"""

from __future__ import annotations

from enum import Enum, IntEnum
from typing import Final


class Stage(IntEnum):
    """How far a delivery has come; it only grows."""

    RECEIVED = 0
    """No handler has been called yet. A stop releases the message at once."""
    RUNNING = 1
    """Its handler runs. A stop waits for it."""
    SETTLING = 2
    """Its outcome is being persisted. Only the stop deadline interrupts this."""
    CLOSED = 3
    """Settled."""


class LeaseState(Enum):
    """See the module."""

    HELD = "held"
    UNCONFIRMED = "unconfirmed"
    AWAITING_REDELIVERY = "awaiting redelivery"
    ORPHANED = "orphaned"
    LOST = "lost"
    CLOSED = "closed"


class LeaseEvent(Enum):
    """What happens to a lease."""

    RENEWED = "renewed"
    """A renewal's answer brought a new receipt handle."""
    ANSWER_LOST = "answer lost"
    """A renewal failed, or its answer did not arrive: it may have had its effect."""
    REFUSED = "receipt refused"
    """MNS does not know the receipt handle any more."""
    REFUSED_NEAR_END = "refused near its end"
    """The same, when the lease may have ended by itself."""
    REDELIVERED = "redelivered here"
    """The message came to this process again, with a new receipt handle."""
    REDELIVERY_OVERDUE = "redelivery overdue"
    """The message did not come back in time."""


_FINAL: Final = frozenset({LeaseState.LOST, LeaseState.CLOSED})

_NEXT: Final = {
    (LeaseState.HELD, LeaseEvent.ANSWER_LOST): LeaseState.UNCONFIRMED,
    (LeaseState.HELD, LeaseEvent.REFUSED): LeaseState.LOST,
    (LeaseState.HELD, LeaseEvent.REFUSED_NEAR_END): LeaseState.AWAITING_REDELIVERY,
    (LeaseState.UNCONFIRMED, LeaseEvent.RENEWED): LeaseState.HELD,
    (LeaseState.UNCONFIRMED, LeaseEvent.REFUSED): LeaseState.AWAITING_REDELIVERY,
    (LeaseState.UNCONFIRMED, LeaseEvent.REFUSED_NEAR_END): LeaseState.AWAITING_REDELIVERY,
    (LeaseState.UNCONFIRMED, LeaseEvent.REDELIVERED): LeaseState.HELD,
    (LeaseState.AWAITING_REDELIVERY, LeaseEvent.RENEWED): LeaseState.HELD,
    (LeaseState.AWAITING_REDELIVERY, LeaseEvent.REDELIVERED): LeaseState.HELD,
    (LeaseState.AWAITING_REDELIVERY, LeaseEvent.REDELIVERY_OVERDUE): LeaseState.LOST,
    (LeaseState.ORPHANED, LeaseEvent.RENEWED): LeaseState.HELD,
    (LeaseState.ORPHANED, LeaseEvent.REDELIVERED): LeaseState.HELD,
}
"""A pair that is missing leaves the state as it is."""


def next_state(state: LeaseState, event: LeaseEvent, stage: Stage) -> LeaseState:
    """The state after an event.

    Once the handler runs, a lost lease is ORPHANED: the claim must outlive the run. Once the outcome is being persisted
    waiting for a redelivery is useless too, so the state is ORPHANED.
    """
    if state in _FINAL:
        return state
    found = _NEXT.get((state, event), state)
    if found is LeaseState.LOST and stage >= Stage.RUNNING:
        return LeaseState.ORPHANED
    if found is LeaseState.AWAITING_REDELIVERY and stage >= Stage.SETTLING:
        return LeaseState.ORPHANED
    return found
