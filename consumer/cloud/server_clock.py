"""The servers' time, from their Date headers, unmoved by a jump of our own clock.

MNS refuses a request whose own Date is more than 15 minutes off (facts/mns.md#clock-difference), so a request that was
served proves that both clocks agreed within that. Our clock as it was at the start runs on by the monotonic clock,
which no step of the wall clock moves. A Date near that is believed, even if our clock has jumped since. A Date that is
near only to our clock as it is now means that our clock was corrected: from then on that counts. Any other Date is
wrong, and the time that runs on replaces it: a Date of another year would make each message older than its retention.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Final

import structlog

log = structlog.stdlib.get_logger(__name__)

BELIEVED_S: Final = 900.0
"""How far a server's clock may be from ours, in seconds (facts/mns.md#clock-difference)."""
_COARSE_S: Final = 1.5
_QUIET_S: Final = 600.0
_LONGEST_DATE: Final = 64


@dataclass(frozen=True, slots=True)
class Arrival:
    """When an answer had arrived, by ``time.monotonic`` and by the server's clock in Unix seconds."""

    monotonic: float
    server_s: float


class ServerClock:
    """The time on the servers behind one pool; logs a change, not each answer."""

    def __init__(self, wall_s: float | None = None, now: float | None = None) -> None:
        self._base_s = (time.time() if wall_s is None else wall_s) - (time.monotonic() if now is None else now)
        self._doubted_at: dict[str, float] = {}

    def read(self, date: str, wall_s: float, now: float, target: str) -> tuple[float, float]:
        """The time of ``target``'s server in UNIX seconds, and its difference to our clock, by one Date header.

        ``wall_s`` and ``now`` are our two clocks when the answer came. The difference is 0 within the precision of a
        Date in whole seconds.
        """
        date_s = _parsed(date)
        expected_s = self._base_s + now
        if date_s is not None and abs(date_s - expected_s) > BELIEVED_S:
            if abs(date_s - wall_s) <= BELIEVED_S:
                self._base_s = wall_s - now
            else:
                self._doubt(target, date_s - wall_s)
                date_s = None
        elif date_s is not None and target in self._doubted_at:
            self._believe(target)
        server_s = expected_s if date_s is None else date_s
        raw_s = server_s - wall_s
        # A Date that was cut to whole seconds makes a clock that agrees with ours look up to a second behind.
        return server_s, 0.0 if -_COARSE_S <= raw_s <= _COARSE_S - 1 else raw_s + 0.5

    def _doubt(self, target: str, raw_s: float) -> None:
        if target not in self._doubted_at:
            log.warning(
                "the Date of answers is too far from this computer's clock; the computer's is used",
                target=target,
                seconds=round(raw_s),
                believed_seconds=BELIEVED_S,
            )
        self._doubted_at[target] = time.monotonic()

    def _believe(self, target: str) -> None:
        # Right and wrong dates in turn are one change, not one for each answer.
        if time.monotonic() - self._doubted_at[target] >= _QUIET_S:
            del self._doubted_at[target]
            log.info("the Date of answers agrees with this computer's clock again", target=target)


@lru_cache(maxsize=8)
def _parsed(date: str) -> float | None:
    """UNIX seconds of an HTTP date; one without a zone is GMT, as HTTP defines, whatever this computer's zone."""
    if not date.isascii() or len(date) > _LONGEST_DATE:
        return None
    try:
        parsed = parsedate_to_datetime(date)
        return parsed.timestamp() if parsed.tzinfo else parsed.replace(tzinfo=UTC).timestamp()
    except Exception:  # noqa: BLE001 - the library promises ValueError, but raises others for some texts
        return None
