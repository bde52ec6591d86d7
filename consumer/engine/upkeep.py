"""What runs beside the messages: learning a queue's retention, forgetting what ended long ago.

Elsewhere: what the retention decides (``engine.outcome``), how the store forgets (``store``).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

import anyio
import structlog

from consumer.engine.lane import Lane
from consumer.engine.pacing import Outage
from consumer.engine.store_gate import StoreGate
from consumer.errors import CloudError, Fault, StoreError
from consumer.store.ledger import Ledger

log = structlog.stdlib.get_logger(__name__)

_ATTRIBUTES_EVERY_S: Final = 3600.0
_ATTRIBUTES_AGAIN_S: Final = 30.0
_CLOCKS_AGREE_S: Final = 900.0
"""As far as MNS lets a request's Date be off (facts/mns.md#clock-difference)."""
_PRUNE_EVERY_S: Final = 60.0
_PRUNE_STEP: Final = 500
_PRUNE_PAUSE_S: Final = 0.05


async def watch_attributes(lane: Lane) -> None:
    """Read a queue's retention now and again; without the right to, MNS's default stands. Warns of its DlqPolicy."""
    told = False
    policy: str | None = None
    while True:
        pause_s = _ATTRIBUTES_EVERY_S
        try:
            found = await lane.queue.attributes()
            lane.retention_s = found.retention_s
            told = False
            if found.dlq_policy != policy:
                policy = found.dlq_policy
                _warn_of_dlq(lane, policy)
        except CloudError as error:
            # A fault that polling meets too is told there; a right that is missing for this alone will be for long.
            denied = error.fault is Fault.CREDENTIALS and lane.progress.ready()
            pause_s = _ATTRIBUTES_EVERY_S if denied else _ATTRIBUTES_AGAIN_S
            if denied and not told:
                told = True
                log.warning(
                    "queue attributes can't be read; taking its retention for MNS's default",
                    queue=lane.url.queue,
                    retention_seconds=lane.retention_s,
                    error=str(error),
                )
        await anyio.sleep(pause_s)


def _warn_of_dlq(lane: Lane, policy: str | None) -> None:
    if policy is not None:
        log.warning(
            "the queue has a dead-letter policy of its own; it moves away messages that were received too often, those "
            "that wait for a retry or were given back at a stop too, and nothing here sees them again",
            queue=lane.url.queue,
            policy=policy,
        )


async def prune(ledger: Ledger, gate: StoreGate, lanes: Sequence[Lane], least_s: float) -> None:
    """Forget what ended long ago, in small steps; never sooner than twice the longest retention of the queues.

    Ages are counted by the store's clock. One that has jumped would make everything old at once, so nothing is removed
    unless that clock agrees with MNS's.

    Args:
        ledger: The store.
        gate: Open while the store works.
        lanes: The queues.
        least_s: The shortest time for which a row is kept, in seconds, whatever the settings and queues say.
    """
    outage = Outage("old records can't be removed from the store; tried again every minute", "old records are removed")
    while True:
        await anyio.sleep(_PRUNE_EVERY_S)
        policy = lanes[0].rules.policy
        keep_s = max([policy.job_retention_s, least_s, *(2 * lane.retention_s for lane in lanes)])
        letters_s = max(keep_s, policy.dead_letter_retention_s)
        removed = _PRUNE_STEP
        while removed >= _PRUNE_STEP:
            await gate.passed()
            try:
                if all(lane.mns_base_s is None for lane in lanes):
                    break
                _demand_agreement(await ledger.now(), lanes)
                removed = await ledger.prune(older_than_s=keep_s, limit=_PRUNE_STEP, letters_older_than_s=letters_s)
            except StoreError as error:
                # Nobody waits for this: messages go on as long as their own writes do.
                outage.failed(error)
                break
            outage.over()
            # Messages must not wait behind a long clean-up.
            await anyio.sleep(_PRUNE_PAUSE_S)


def _demand_agreement(store_s: float, lanes: Sequence[Lane]) -> None:
    """See that the store's clock agrees with MNS's.

    Raises:
        StoreError: They are too far apart.
    """
    for lane in lanes:
        if lane.mns_base_s is None:
            continue
        off_s = store_s - (lane.mns_base_s + time.monotonic())
        if abs(off_s) > _CLOCKS_AGREE_S:
            raise StoreError(
                f"the store's clock is {off_s:.0f} s off the clock of MNS, expected at most {_CLOCKS_AGREE_S:.0f} s: "
                "set the clock of this computer, or of the database's; until then nothing is removed"
            )
