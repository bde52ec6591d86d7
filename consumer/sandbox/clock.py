"""Tell the time that messages live by.

Real time plus an offset that tests may move, so that a retention of days is one call. The Date header of
every answer follows this clock too, since clients compare it with NextVisibleTime. The window of a
signature's date does not: the client signs with its own, real clock.
"""

import time
from email.utils import formatdate


class Clock:
    """Real time, moved by ``offset_ms``."""

    __slots__ = ("_date_header", "_date_header_s", "offset_ms")

    def __init__(self) -> None:
        self.offset_ms = 0
        self._date_header = ""
        self._date_header_s = -1

    def now_ms(self) -> int:
        """Give milliseconds since 1970, by this clock."""
        return time.time_ns() // 1_000_000 + self.offset_ms

    def advance(self, seconds: float) -> None:
        """Move the clock forward (or back, when negative)."""
        self.offset_ms += round(seconds * 1000)

    def date_header(self) -> str:
        """Give the value of the Date header, rendered once a second."""
        now_s = self.now_ms() // 1000
        if now_s != self._date_header_s:
            self._date_header_s = now_s
            self._date_header = formatdate(now_s, usegmt=True)
        return self._date_header
