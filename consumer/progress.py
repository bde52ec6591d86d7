"""The progress of one queue's polls, from which liveness and readiness follow.

A queue is alive while its polls end, even in error, or while a declared wait explains why none does. The work itself
sets these marks, because a thread that only ticks proves nothing.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from enum import StrEnum


class Wait(StrEnum):
    """A declared reason for not polling."""

    SLOTS_FULL = "all slots are full"
    OUTAGE = "pausing after a fault"
    STORE = "the store is down"
    DEAD_LETTERS = "the store holds as many dead letters as it may"
    DELETES = "messages that have ended can't be deleted"


@dataclass(slots=True)
class LaneProgress:
    """The marks of one queue. Times are on the monotonic clock; 0 means never.

    Args:
        queue: The queue's name.
        poll_limit_s: The longest time between the ends of two polls.
    """

    queue: str
    poll_limit_s: float
    began_at: float = field(init=False)
    polled_at: float = 0.0
    succeeded_at: float = 0.0
    waiting: Wait | None = None
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

    def wait(self, why: Wait, at_most_s: float) -> None:
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
