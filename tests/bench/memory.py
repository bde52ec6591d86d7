"""Resident memory after the start and after many messages: what is kept of a message that has ended shows here.

Messages are fed in portions, so that the server never holds more than a few of them.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from itertools import pairwise
from typing import Final

from tests.bench.contestants import Running, Stage, started
from tests.bench.figures import Book
from tests.bench.process import BenchError

PART: Final = "memory"
_PORTION: Final = 20_000
_PORTION_S: Final = 120.0
_REST_S: Final = 1.0


def figure(messages: int) -> str:
    """The figure's name of the memory after so many messages; 0 is after the start."""
    return f"rss_mib_after_{messages}" if messages else "rss_mib_after_start"


def measure(stage: Stage, name: str, marks: Iterable[int], book: Book) -> None:
    """One run of one contestant.

    Args:
        stage: Where.
        name: Which contestant.
        marks: After how many messages it is looked; rising.
        book: Takes the figures.

    Raises:
        BenchError: As ``contestants.started``; or it does not get on.
    """
    with stage.place() as place, started(name, place) as running:
        running.wait()
        time.sleep(_REST_S)
        book.add(PART, name, **{figure(0): running.process.rss_mib})
        for before, after in pairwise((0, *marks)):
            _feed(running, after - before)
            time.sleep(_REST_S)
            book.add(PART, name, **{figure(after): running.process.rss_mib})


def _feed(running: Running, messages: int) -> None:
    place = running.place
    while messages:
        portion = min(messages, _PORTION)
        place.server.ask("fill", queue=place.queue, count=portion)
        left = place.server.ask("emptied", queue=place.queue, within_s=_PORTION_S).told["left"]
        running.process.check()
        if left:
            raise BenchError(f"{running.name}: {left} of {portion} messages were left after {_PORTION_S:g} s")
        messages -= portion
