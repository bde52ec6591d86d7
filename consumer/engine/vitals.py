"""Whether the daemon is alive, ready and started, from the marks that its work leaves (``progress``)."""

from __future__ import annotations

import time
from collections.abc import Sequence

from consumer.engine.lane import Lane
from consumer.engine.letter_limit import LetterLimit
from consumer.engine.store_access import StoreAccess
from consumer.ops.admin import Check


class Vitals:
    """The checks of one daemon.

    Args:
        lanes: Its queues; filled while it starts.
        store: Its store.
        letters: Its store's limit of dead letters.
        handlers: How many handlers are registered.
    """

    def __init__(self, lanes: Sequence[Lane], store: StoreAccess, letters: LetterLimit, handlers: int) -> None:
        self._lanes = lanes
        self._access = store
        self._letters = letters
        self.handlers = handlers
        self.serving = False
        self.stopping = False

    def live(self) -> Sequence[Check]:
        """Whether each queue makes progress; does not depend on MNS being up."""
        now = time.monotonic()
        polls = [
            Check(f"polling {lane.name}", self.stopping or lane.progress.alive(now), _doing(lane))
            for lane in self._lanes
        ]
        return [*polls, self._stuck()]

    def ready(self) -> Sequence[Check]:
        """Whether messages can be handled."""
        polls = [Check(f"polling {lane.name}", lane.progress.ready(), _doing(lane)) for lane in self._lanes]
        results = [
            Check(f"results for {lane.name}", lane.queries.breaker.is_closed, _asking(lane)) for lane in self._lanes
        ]
        deletes = [
            Check(f"deletes of {lane.name}", not lane.deletes.failing, f"{lane.deletes.pending} pending")
            for lane in self._lanes
        ]
        hides = [
            Check(f"hides of {lane.name}", not lane.visibility.breaker.is_logged, _hiding(lane)) for lane in self._lanes
        ]
        return [
            *polls,
            *results,
            *deletes,
            *hides,
            self._store(),
            Check("dead letters", not self._letters.is_full, self._letters_held()),
            Check("handlers", self.handlers > 0, f"{self.handlers} registered"),
            self._stuck(),
            Check("stopping", not self.stopping, "stopping" if self.stopping else "not stopping"),
        ]

    def started(self) -> Sequence[Check]:
        """Whether the start is over."""
        return [Check("serving", self.serving, "polling" if self.serving else "starting")]

    def _store(self) -> Check:
        if stalled_s := self._access.stalled_s:
            return Check("store", ok=False, detail=f"a write takes {stalled_s:.0f} s; see the disk")
        detail = "takes writes" if self._access.is_up else "down; polling pauses until it works"
        return Check("store", self._access.is_up, detail)

    def _letters_held(self) -> str:
        held = self._letters.held
        pauses = "; polling pauses until some are replayed or purged" if self._letters.is_full else ""
        return f"{held.letters} held, {held.size_bytes} bytes{pauses}"

    def _stuck(self) -> Check:
        stuck = sum(lane.threads.left_behind for lane in self._lanes)
        is_below_limit = all(stuck < lane.rules.policy.stuck_limit for lane in self._lanes)
        return Check("stuck handlers", is_below_limit, f"{stuck} are stuck; at the limit only a restart helps")


def status_of(lanes: Sequence[Lane]) -> str:
    """One line about all queues, for people."""
    now = time.monotonic()
    return "; ".join(
        f"{lane.name}: {len(lane.deliveries)} in flight, "
        + (f"last poll {now - lane.progress.polled_at:.0f} s ago" if lane.progress.polled_at else "no poll yet")
        + (f", {lane.progress.fault}" if lane.progress.fault else "")
        for lane in lanes
    )


def _asking(lane: Lane) -> str:
    return "MPS answers" if lane.queries.breaker.is_closed else f"waiting for MPS: {lane.queries.breaker.fault}"


def _hiding(lane: Lane) -> str:
    return (
        "failing; leases run out while handlers run" if lane.visibility.breaker.is_logged else "messages can be hidden"
    )


def _doing(lane: Lane) -> str:
    progress = lane.progress
    if progress.fault is not None:
        return progress.fault
    if progress.waiting is not None:
        return str(progress.waiting)
    return "the last poll succeeded" if progress.ready() else "no poll has ended yet"
