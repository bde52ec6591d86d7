"""Pace what fails: how long to pause after a fault, and two log lines for a whole outage.

An outage is one line at its start and one, with its length, at its end. In between nothing is logged and
nothing spins: a fault that passes by itself is tried again with growing, jittered pauses of at most a few seconds
(so that work resumes within five of its going); one that waits for a person is tried every 5 s for 2 minutes, then
every 60 s.

Elsewhere: which fault an error is (``errors.Fault``), who asks (``engine.poll``, ``engine.lease``,
``engine.deletes``, ``engine.results``).
"""

from __future__ import annotations

import random
import time
from typing import Final

import structlog

from consumer.errors import CloudError, ConsumerError

log = structlog.stdlib.get_logger(__name__)

_BASE_S: Final = 0.5
_CAP_S: Final = 4.0
_SLOW_S: Final = 5.0
_SLOWER_S: Final = 60.0
_SLOW_FOR_S: Final = 120.0


def pause_s(faults: int, cap_s: float = _CAP_S) -> float:
    """The pause after so many faults in a row, from 1: doubled up to the cap, half of it by dice."""
    ceiling_s = min(cap_s, _BASE_S * 2.0 ** min(faults - 1, 10))
    return ceiling_s * random.uniform(0.5, 1.0)  # noqa: S311 - spreads a crowd, guards nothing


class Probes:
    """Many callers of one service while it does not answer: one at a time asks, with growing pauses.

    Tells nobody: an outage has its two lines where it is met by polling.
    """

    def __init__(self) -> None:
        self._faults = 0
        self._failed_at = 0.0
        self.not_before = 0.0
        """When the next one may ask, on the monotonic clock; 0 while the service answers."""

    @property
    def failing(self) -> bool:
        """Whether the last answer was a fault."""
        return self._faults > 0

    def begin(self) -> None:
        """One asks: no other one does until it is answered, or takes too long over it."""
        self.not_before = time.monotonic() + _CAP_S

    def failed(self, asked_at: float) -> None:
        """Note a fault of a call that began at ``asked_at``, on the monotonic clock."""
        now = time.monotonic()
        # Calls that were under way together fail together: that is one fault, not many.
        if asked_at >= self._failed_at:
            self._faults += 1
            self._failed_at = now
        self.not_before = now + pause_s(self._faults)

    def passed(self) -> None:
        """Note an answer: everybody may ask again."""
        self._faults = 0
        self.not_before = 0.0


class Outage:
    """One thing that can fail, from its first fault to its next success.

    Args:
        begins: The log's event at its start, such as ``polling failed; trying on until it works``.
        ends: The log's event at its end, such as ``polling works again``.
        queue: The queue's name, for the log; ``None`` for what concerns all.
        quiet_s: A success ends it only so long after its last fault: where single calls fail among others that
            don't, it is one outage, not many.
    """

    def __init__(self, begins: str, ends: str, queue: str | None = None, *, quiet_s: float = 0.0) -> None:
        self._quiet_s = quiet_s
        self._failed_at = 0.0
        self._begins = begins
        self._ends = ends
        self._queue = {} if queue is None else {"queue": queue}
        self._began_at = 0.0
        self._faults = 0
        self._told = ""

    @property
    def on(self) -> bool:
        """Whether it lasts."""
        return self._faults > 0

    def failed(self, error: ConsumerError) -> float:
        """Note a fault; logs when it is the first, or of another kind than the last.

        Returns:
            Seconds to pause before the next try.
        """
        now = time.monotonic()
        if not self._faults:
            self._began_at = now
        self._faults += 1
        self._failed_at = now
        kind = error.fault if isinstance(error, CloudError) else type(error).__name__
        # A change of its kind (refused, then wrong keys) is news; the same fault again is not.
        if kind != self._told:
            self._told = kind
            log.warning(self._begins, **self._queue, error=str(error))
        if isinstance(error, CloudError) and not error.retryable:
            return _SLOW_S if now - self._began_at < _SLOW_FOR_S else _SLOWER_S
        return pause_s(self._faults)

    def over(self) -> None:
        """Note a success; logs the outage's length when there was one."""
        now = time.monotonic()
        if self._faults and now - self._failed_at >= self._quiet_s:
            seconds = round(now - self._began_at, 1)
            log.info(self._ends, **self._queue, outage_seconds=seconds, faults=self._faults)
            self._faults = 0
            self._told = ""
