"""Whether the daemon is alive, ready and started, from the marks that its work leaves.

A queue is alive while its polls end, even in error, or while a declared wait explains why none does. The work itself
sets these marks, because a thread that only ticks proves nothing.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from consumer.ops.admin import Check

if TYPE_CHECKING:
    from consumer.engine.lane import Lane
    from consumer.engine.store_access import LetterLimit, StoreAccess


class Pause(StrEnum):
    """A declared reason for not polling."""

    SLOTS_FULL = "all slots are full"
    OUTAGE = "pausing after a fault"
    STORE = "the store is down"
    DEAD_LETTERS = "the store holds as many dead letters as it may"
    DELETES = "messages that have ended can't be deleted"


@dataclass(slots=True)
class LaneProgress:
    """The marks of one queue. Times are on the monotonic clock; 0 means never."""

    poll_limit_s: float  # the longest time between the ends of two polls
    began_at: float = field(init=False)
    polled_at: float = 0.0
    succeeded_at: float = 0.0
    waiting: Pause | None = None
    waiting_until: float = 0.0
    fault: str | None = None

    def __post_init__(self) -> None:
        """Begin now."""
        self.began_at = time.monotonic()

    def polled(self, *, fault: str | None = None) -> None:
        """Record the end of a poll; ``fault`` says in one line why it failed."""
        self.polled_at = time.monotonic()
        self.waiting = None
        self.waiting_until = 0.0
        self.fault = fault
        if fault is None:
            self.succeeded_at = self.polled_at

    def wait(self, why: Pause, at_most_s: float) -> None:
        """Declare a pause during which no poll is due."""
        self.waiting = why
        self.waiting_until = time.monotonic() + at_most_s

    def resume(self) -> None:
        """End the declared pause: a poll is due from now on."""
        self.waiting = None
        self.waiting_until = 0.0
        self.began_at = time.monotonic()

    def alive(self, now: float) -> bool:
        """Whether a poll ended in time, or a declared pause explains why none did."""
        if self.waiting is not None and now < self.waiting_until:
            return True
        return now - max(self.polled_at, self.began_at, self.waiting_until) < self.poll_limit_s

    def ready(self) -> bool:
        """Whether the last poll succeeded."""
        return self.succeeded_at > 0 and self.fault is None


class Vitals:
    """The checks of one daemon; its lanes are filled in while it starts."""

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
        return [
            *(check for lane in self._lanes for check in _checks(lane)),
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


def _checks(lane: Lane) -> Sequence[Check]:
    queries, hides = lane.queries.breaker, lane.visibility.breaker
    answers = "MPS answers" if queries.is_closed else f"waiting for MPS: {queries.fault}"
    hiding = "failing; leases run out while handlers run" if hides.is_logged else "messages can be hidden"
    return (
        Check(f"polling {lane.name}", lane.progress.ready(), _doing(lane)),
        Check(f"results for {lane.name}", queries.is_closed, answers),
        Check(f"deletes of {lane.name}", not lane.deletes.failing, f"{lane.deletes.pending} pending"),
        Check(f"hides of {lane.name}", not hides.is_logged, hiding),
    )


def _doing(lane: Lane) -> str:
    progress = lane.progress
    if progress.fault is not None:
        return progress.fault
    if progress.waiting is not None:
        return str(progress.waiting)
    return "the last poll succeeded" if progress.ready() else "no poll has ended yet"
