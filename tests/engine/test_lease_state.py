"""The lease's transition table, row by row; a pair that is not listed leaves the state as it is."""

from __future__ import annotations

import itertools

import pytest

from consumer.engine.lease_state import LeaseEvent, LeaseState, Stage, next_state

HELD, UNCONFIRMED, AWAITING = LeaseState.HELD, LeaseState.UNCONFIRMED, LeaseState.AWAITING_REDELIVERY
ORPHANED, LOST, CLOSED = LeaseState.ORPHANED, LeaseState.LOST, LeaseState.CLOSED
RENEWED, ANSWER_LOST, REFUSED = LeaseEvent.RENEWED, LeaseEvent.ANSWER_LOST, LeaseEvent.REFUSED
NEAR_END, REDELIVERED, OVERDUE = LeaseEvent.REFUSED_NEAR_END, LeaseEvent.REDELIVERED, LeaseEvent.REDELIVERY_OVERDUE

#                 before any handler, while it runs, while it is settled
ROWS = {
    (HELD, ANSWER_LOST): (UNCONFIRMED, UNCONFIRMED, UNCONFIRMED),
    (HELD, REFUSED): (LOST, ORPHANED, ORPHANED),
    (HELD, NEAR_END): (AWAITING, AWAITING, ORPHANED),
    (UNCONFIRMED, RENEWED): (HELD, HELD, HELD),
    (UNCONFIRMED, REFUSED): (AWAITING, AWAITING, ORPHANED),
    (UNCONFIRMED, NEAR_END): (AWAITING, AWAITING, ORPHANED),
    (UNCONFIRMED, REDELIVERED): (HELD, HELD, HELD),
    (AWAITING, RENEWED): (HELD, HELD, HELD),
    (AWAITING, REDELIVERED): (HELD, HELD, HELD),
    (AWAITING, OVERDUE): (LOST, ORPHANED, ORPHANED),
    (ORPHANED, RENEWED): (HELD, HELD, HELD),
    (ORPHANED, REDELIVERED): (HELD, HELD, HELD),
}


@pytest.mark.parametrize(
    ("state", "event"),
    [
        pytest.param(*pair, id=f"{pair[0].value} - {pair[1].value}")
        for pair in itertools.product(LeaseState, LeaseEvent)
    ],
)
def test_each_row(state: LeaseState, event: LeaseEvent) -> None:
    """Each state and event leads to the state in the table, by how far the delivery is."""
    expected = ROWS.get((state, event))
    if expected is None:
        assert next_state(state, event, Stage.RECEIVED) is state
    else:
        stages = (Stage.RECEIVED, Stage.RUNNING, Stage.SETTLING)
        assert tuple(next_state(state, event, stage) for stage in stages) == expected


@pytest.mark.parametrize("final", [LOST, CLOSED])
def test_a_final_state_stays(final: LeaseState) -> None:
    """No event revives a lease that is lost or closed."""
    assert {next_state(final, event, stage) for event in LeaseEvent for stage in Stage} == {final}
