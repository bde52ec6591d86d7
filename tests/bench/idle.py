"""What a contestant costs while nothing happens: requests and CPU seconds, scaled to an hour.

A cycle is one long poll of 30 s. The window is a number of whole cycles and begins some seconds after a poll did, so
that no poll begins or ends near its edges. All contestants are idle at the same time, each on a server of its own:
nothing of that disturbs anybody. What comes once an hour (the daemon's look at its queue's attributes) is not in it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from tests.bench.contestants import Stage, started
from tests.bench.figures import Book
from tests.bench.served import Server

PART: Final = "idle"
CYCLE_S: Final = 30.0
_AFTER_POLL_S: Final = 4.0
_HOUR_S: Final = 3600.0


def measure(stage: Stage, name: str, cycles: int, book: Book) -> None:
    """One window of one contestant.

    Raises:
        BenchError: As ``contestants.started``.
    """
    with stage.place() as place, started(name, place) as running:
        running.wait()
        time.sleep(_AFTER_POLL_S)
        before, cpu_before_s = stage.server.ask("look"), running.process.cpu_s
        time.sleep(cycles * CYCLE_S)
        after, cpu_s = stage.server.ask("look"), running.process.cpu_s - cpu_before_s
        running.process.check()
    hours = (after.at_s - before.at_s) / _HOUR_S
    book.add(PART, name, requests_per_hour=after.requests_since(before) / hours, cpu_s_per_hour=cpu_s / hours)


def measure_all(stage: Stage, names: Sequence[str], cycles: int, book: Book) -> None:
    """All at once."""

    def alone(name: str) -> None:
        with Server(stage.cores) as server:
            measure(Stage(server, stage.cores, stage.folder), name, cycles, book)

    with ThreadPoolExecutor(len(names)) as threads:
        for done in [threads.submit(alone, name) for name in names]:
            done.result()
