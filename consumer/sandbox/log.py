"""Count requests, and remember the latest, for tests and for the control API."""

from collections import Counter, deque
from typing import Any

_MOST_REMEMBERED = 2000


class RequestLog:
    """What was asked and how it was answered.

    ``by_operation`` counts requests as they arrive; ``by_status`` counts answers by operation and HTTP
    status, where 0 stands for none (the connection was dropped, or the client had gone).
    """

    def __init__(self) -> None:
        self.by_operation: Counter[str] = Counter()
        self.by_status: Counter[tuple[str, int]] = Counter()
        self._latest: deque[tuple[int, str, str | None, int, str]] = deque(maxlen=_MOST_REMEMBERED)

    def answered(self, now_ms: int, operation: str, queue: str | None, status: int, fault: str) -> None:
        """Note one answer; ``fault`` is the kind that took or spoilt it, "" when none did."""
        self.by_status[operation, status] += 1
        self._latest.append((now_ms, operation, queue, status, fault))

    def latest(self) -> list[dict[str, Any]]:
        """Give the latest answers, oldest first; times are milliseconds since 1970."""
        names = ("time_ms", "operation", "queue", "status", "fault")
        return [dict(zip(names, entry, strict=True)) for entry in self._latest]
