"""Whether the daemon gets anywhere: what polls, waits and stuck handlers tell of themselves.

Alive means progress: a poll has ended, even in error, or a wait was declared that explains why none has. A thread that
ticks proves nothing; these marks are set by the work itself.

Elsewhere: who sets the marks (``engine``), who asks for them (``ops.admin``, ``ops.systemd``, by way of ``app``).
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
    DELETES = "what has ended can't be deleted"


@dataclass(slots=True)
class LaneProgress:
    """What one queue's lane has to show. Times are of the monotonic clock; 0 is never.

    Args:
        queue: The queue's name.
        poll_limit_s: How long one poll may take at the most.
    """

    queue: str
    poll_limit_s: float
    began_at: float = field(default_factory=time.monotonic)
    polled_at: float = 0.0
    succeeded_at: float = 0.0
    waiting: Wait | None = None
    waiting_until: float = 0.0
    fault: str | None = None

    def polled(self, *, fault: str | None = None) -> None:
        """A poll has ended; ``fault`` tells in one line why it failed."""
        self.polled_at = time.monotonic()
        self.waiting = None
        self.waiting_until = 0.0
        self.fault = fault
        if fault is None:
            self.succeeded_at = self.polled_at

    def wait(self, why: Wait, at_most_s: float) -> None:
        """Declare a pause: no poll is due before it is over."""
        self.waiting = why
        self.waiting_until = time.monotonic() + at_most_s

    def resume(self) -> None:
        """The declared pause is over; a poll is due from now on."""
        self.waiting = None
        self.waiting_until = 0.0
        self.began_at = time.monotonic()

    def alive(self, now: float) -> bool:
        """Whether a poll ended lately, or a declared wait explains why none did."""
        if self.waiting is not None and now < self.waiting_until:
            return True
        return now - max(self.polled_at, self.began_at, self.waiting_until) < self.poll_limit_s

    def ready(self) -> bool:
        """Whether the last poll succeeded."""
        return self.succeeded_at > 0 and self.fault is None
