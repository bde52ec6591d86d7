"""Periodic work beside the messages: reading a queue's attributes, pruning old records."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

import anyio
import structlog

from consumer.engine.breaker import Breaker
from consumer.engine.lane import Lane
from consumer.engine.store_access import StoreAccess
from consumer.errors import CloudError, Fault, StoreError

log = structlog.stdlib.get_logger(__name__)

_ATTRIBUTES_EVERY_S: Final = 3600.0
_ATTRIBUTES_AGAIN_S: Final = 30.0
_CLOCKS_AGREE_S: Final = 900.0
"""How far MNS lets the Date of a request be off (facts/mns.md#clock-difference)."""
_PRUNE_EVERY_S: Final = 60.0
_PRUNE_STEP: Final = 500
_PRUNE_PAUSE_S: Final = 0.05


async def watch_attributes(lane: Lane) -> None:
    """Read a queue's retention every hour; without the right to, MNS's default stands. Warn of its DlqPolicy."""
    breaker = Breaker(
        "queue attributes can't be read; MNS's default retention is assumed",
        "queue attributes can be read again",
        queue=lane.name,
        # A fault that polling meets too is logged there.
        suppress_log=lambda: not lane.progress.ready(),
    )
    policy: str | None = None
    while True:
        pause_s = _ATTRIBUTES_EVERY_S
        try:
            found = await lane.queue.attributes()
        except CloudError as error:
            # A right that is missing for this call alone is missing for long; other faults pass.
            if error.fault is Fault.CREDENTIALS and lane.progress.ready():
                breaker.failed(error)
            else:
                pause_s = _ATTRIBUTES_AGAIN_S
        else:
            breaker.succeeded()
            lane.retention_s = found.retention_s
            if found.dlq_policy != policy:
                policy = found.dlq_policy
                _warn_of_dlq(lane, policy)
        await anyio.sleep(pause_s)


def _warn_of_dlq(lane: Lane, policy: str | None) -> None:
    if policy is not None:
        log.warning(
            "the queue has a dead-letter policy of its own; it moves away messages that were received too often, also "
            "those that wait for a retry or were released by a stop, and they are not handled here again",
            queue=lane.name,
            policy=policy,
        )


async def prune(store: StoreAccess, lanes: Sequence[Lane], least_s: float) -> None:
    """Remove old records in small steps; never sooner than twice the longest retention of the queues.

    Ages are measured by the store's clock. If that clock has jumped, everything would be old at once, so nothing is
    removed unless it agrees with MNS's.

    Args:
        store: The store.
        lanes: The queues.
        least_s: The shortest time for which a record is kept, in seconds, whatever the settings and queues say.
    """
    breaker = Breaker("old records can't be pruned; retried every minute", "pruning works again")
    while True:
        await anyio.sleep(_PRUNE_EVERY_S)
        policy = lanes[0].rules.policy
        keep_s = max([policy.job_retention_s, least_s, *(2 * lane.retention_s for lane in lanes)])
        letters_s = max(keep_s, policy.dead_letter_retention_s)
        removed = _PRUNE_STEP
        while removed >= _PRUNE_STEP:
            await store.breaker.wait_closed()
            if all(lane.mns_base_s is None for lane in lanes):
                break
            try:
                _require_agreement(await store.ledger.now(), lanes)
                removed = await store.ledger.prune(
                    older_than_s=keep_s, limit=_PRUNE_STEP, letters_older_than_s=letters_s
                )
            except StoreError as error:
                breaker.failed(error)
                break
            breaker.succeeded()
            # Messages must not wait behind a long clean-up.
            await anyio.sleep(_PRUNE_PAUSE_S)


def _require_agreement(store_s: float, lanes: Sequence[Lane]) -> None:
    """Raise ``StoreError`` when the store's clock is too far from MNS's."""
    for lane in lanes:
        if lane.mns_base_s is None:
            continue
        off_s = store_s - (lane.mns_base_s + time.monotonic())
        if abs(off_s) > _CLOCKS_AGREE_S:
            raise StoreError(
                f"the store's clock is {off_s:.0f} s off the clock of MNS, expected at most {_CLOCKS_AGREE_S:.0f} s: "
                "set the clock of this computer, or of the database's; until then nothing is pruned"
            )
