"""Results fetched a second under MPS's limit of 100 queries a second for an account, over http and over https.

The server refuses the 101st query within any second, as MPS does. The handler wants a typed result, so each message
costs one query: messages a second are results a second.

Elsewhere: the handler (``handler_result``).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.bench.contestants import Stage, started
from tests.bench.figures import Book, in_turn
from tests.bench.process import BenchError
from tests.bench.served import Server
from tests.certificates import make_certificate

PART: Final = "results"
LIMIT_PER_S: Final = 100
SCHEMES: Final = ("http", "https")
_TIMES_AS_LONG: Final = 3.0
_FETCHED: Final = "QueryIProductionJob 200"
_THROTTLED: Final = "QueryIProductionJob 400"


def part(scheme: str) -> str:
    """The part that a scheme's figures belong to."""
    return f"{PART} over {scheme}"


def measure(stage: Stage, scheme: str, name: str, seconds: float, book: Book) -> None:
    """One run of one contestant.

    Raises:
        BenchError: As ``contestants.started``; or results are missing.
    """
    server, count = stage.server, round(seconds * LIMIT_PER_S)
    # That it was throttled is a figure here, no fault of the run.
    with stage.place(handler="result", may_tell=("MPS ",)) as place, started(name, place) as running:
        running.wait()
        before = server.ask("jobs", queue=place.queue, count=count)
        end = server.ask("emptied", queue=place.queue, within_s=seconds * _TIMES_AS_LONG)
        running.process.check()
    fetched = end.answers_since(before, _FETCHED)
    if end.told["left"]:
        raise BenchError(f"{name} over {scheme}: {end.told['left']} of {count} jobs were left, {fetched} were fetched")
    book.add(
        part(scheme),
        name,
        results_per_s=fetched / (end.at_s - before.at_s),
        throttling_answers=end.answers_since(before, _THROTTLED),
    )


def measure_in_turn(stage: Stage, names: Sequence[str], seconds: float, rounds: int, book: Book) -> None:
    """A B A B ..., each scheme on a server of its own."""
    certificate: Path = make_certificate(stage.folder)
    with Server(stage.cores) as plain, Server(stage.cores, certificate) as secure:
        stages = {
            scheme: Stage(server, stage.cores, stage.folder)
            for scheme, server in zip(SCHEMES, (plain, secure), strict=True)
        }
        for scheme in in_turn(rounds, *stages):
            for name in names:
                measure(stages[scheme], scheme, name, seconds, book)
