"""How long a message takes from being sent to the start of its handler, while few come: ten a second.

The server's process sends and writes the time into the UserData; the handler, or the loop on the SDK, takes the time
first of all. Both read the same clock of the same machine.

Elsewhere: the clock's readers (``handler_timed``, ``sdk_loop``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from tests.bench.contestants import Place, Stage, started
from tests.bench.figures import Book
from tests.bench.process import BenchError

PART: Final = "delivery"
PER_S: Final = 10
_WARM: Final = 10
_LAST_S: Final = 5.0
_NS_PER_MS: Final = 1e6


def measure(stage: Stage, name: str, seconds: float, book: Book) -> None:
    """One run of one contestant.

    Raises:
        BenchError: As ``contestants.started``; or a message did not come.
    """
    count = _WARM + round(seconds * PER_S)
    with stage.place(handler="timed") as place, started(name, place) as running:
        running.wait()
        stage.server.ask("send", queue=place.queue, per_s=PER_S, count=count)
        stage.server.ask("emptied", queue=place.queue, within_s=_LAST_S)
        delays_ms = _delays_ms(place)
    if len(delays_ms) != count:
        raise BenchError(f"{name}: {count} messages were sent, {len(delays_ms)} came to a handler")
    counted = sorted(delays_ms[_WARM:])
    book.add(PART, name, p50_ms=_percentile(counted, 50), p99_ms=_percentile(counted, 99))


def _delays_ms(place: Place) -> list[float]:
    return [int(line) / _NS_PER_MS for line in place.delays.read_text().splitlines()] if place.delays.exists() else []


def _percentile(ordered: Sequence[float], percent: int) -> float:
    """The least value that so many percent do not exceed."""
    return ordered[max(math.ceil(len(ordered) * percent / 100), 1) - 1]
