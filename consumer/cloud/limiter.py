"""Space calls to MPS evenly, below the account's limit (facts/iproduction.md#job-limits).

One limiter for an account, since all its callers share the limit. Calls pass one by one, 1/rate seconds apart, in the
order in which they asked: a token bucket would pass its whole bucket in the first second and be throttled. Turns are
points in time, not pauses, so small delays don't add up; a turn missed by more than 10 ms is lost, so a stalled loop
makes no burst afterwards. With the 3 % kept back, no window of one second holds more calls than the limit, and at least
95 of 100 are used.

When the service throttles all the same (replicas share the limit), the rate is halved, at most once a second however
many answers report it, down to a 32nd, and then rises in a straight line: from nothing to the full rate in 120 s, so a
single halving is made good after 60 s.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Final

_KEPT_BACK: Final = 0.03
_LATE_S: Final = 0.010
_LOWEST: Final = 1 / 32
_RISE_S: Final = 120.0
_HALVING_PAUSE_S: Final = 1.0
_EARLY_S: Final = 0.0005


class RateLimiter:
    """Lets one caller through every 1/rate seconds, first come first served."""

    def __init__(self, limit_per_s: float = 100.0) -> None:
        if limit_per_s <= 0:
            raise ValueError(f"limit_per_s must be above 0, came {limit_per_s}")
        self._full_per_s = limit_per_s * (1 - _KEPT_BACK)
        self._base_per_s = self._full_per_s
        self._halved_at = float("-inf")
        self._next_at = float("-inf")
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def rate_per_s(self) -> float:
        """The current rate, in calls a second."""
        risen_s = time.monotonic() - self._halved_at
        if risen_s >= _RISE_S:
            return self._full_per_s
        return min(self._full_per_s, self._base_per_s + risen_s / _RISE_S * self._full_per_s)

    async def wait(self) -> None:
        """Return when it is the caller's turn; a caller that is cancelled while it waits costs no turn."""
        if not self._waiting and self._take_turn():
            return
        loop = asyncio.get_running_loop()
        turn = loop.create_future()
        self._waiting.append(turn)
        if self._timer is None:
            self._arm(loop)
        await turn

    def throttled(self) -> None:
        """Halve the rate: the service has throttled a call."""
        now = time.monotonic()
        # Calls that were under way at the first one may be throttled too: that is counted once.
        if now - self._halved_at < _HALVING_PAUSE_S:
            return
        self._base_per_s = max(self.rate_per_s / 2, self._full_per_s * _LOWEST)
        self._halved_at = now

    def _take_turn(self) -> bool:
        now = time.monotonic()
        if now < self._next_at - _EARLY_S:
            return False
        self._next_at = max(self._next_at, now - _LATE_S) + 1 / self.rate_per_s
        return True

    def _arm(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = loop.call_later(max(0.0, self._next_at - time.monotonic()), self._release, loop)

    def _release(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        while self._waiting:
            turn = self._waiting[0]
            if turn.done():  # cancelled while it waited
                self._waiting.popleft()
                continue
            if not self._take_turn():
                self._arm(loop)
                return
            self._waiting.popleft()
            turn.set_result(None)
