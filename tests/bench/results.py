"""Results fetched a second under MPS's limit of 100 queries a second for an account, over http and over https.

The server refuses the 101st query within any second, as MPS does. The handler (``handler_result``) wants a typed
result, so each message costs one query.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tests.bench.contestants import Rig, started
from tests.bench.measurements import Measurements, in_turn
from tests.bench.process import BenchError
from tests.bench.server import Server
from tests.certificates import make_certificate

PART: Final = "results"
LIMIT_PER_S: Final = 100
SCHEMES: Final = ("http", "https")
_TIMES_AS_LONG: Final = 3.0
_FETCHED: Final = "QueryIProductionJob 200"
_THROTTLED: Final = "QueryIProductionJob 400"


def part(scheme: str) -> str:
    """The part of a scheme's figures."""
    return f"{PART} over {scheme}"


def measure(rig: Rig, scheme: str, name: str, seconds: float, measurements: Measurements) -> None:
    """Measure one run of one contestant.

    Raises:
        BenchError: As ``contestants.started``; or results are missing.
    """
    server, count = rig.server, round(seconds * LIMIT_PER_S)
    # Throttling is a figure here. It does not spoil the run.
    with rig.run(handler="result", expected_events=("MPS ",)) as run, started(name, run) as contestant:
        contestant.wait()
        before = server.ask("jobs", queue=run.queue, count=count)
        end = server.ask("emptied", queue=run.queue, within_s=seconds * _TIMES_AS_LONG)
        contestant.process.check()
    fetched = end.answers_since(before, _FETCHED)
    if end.answer["left"]:
        raise BenchError(
            f"{name} over {scheme}: {end.answer['left']} of {count} jobs were left, {fetched} were fetched"
        )
    measurements.add(
        part(scheme),
        name,
        results_per_s=fetched / (end.at_s - before.at_s),
        throttling_answers=end.answers_since(before, _THROTTLED),
    )


def measure_in_turn(rig: Rig, names: Sequence[str], seconds: float, rounds: int, measurements: Measurements) -> None:
    """Measure A B A B ..., each scheme on a server of its own."""
    certificate = make_certificate(rig.folder)
    with Server(rig.cores) as plain, Server(rig.cores, certificate) as secure:
        rigs = {
            scheme: Rig(server, rig.cores, rig.folder) for scheme, server in zip(SCHEMES, (plain, secure), strict=True)
        }
        for scheme in in_turn(rounds, *rigs):
            for name in names:
                measure(rigs[scheme], scheme, name, seconds, measurements)
