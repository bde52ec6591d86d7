"""What a contestant costs besides its messages: time to its first poll, memory, and requests and CPU while idle."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Final

from tests.bench.contestants import Contestant, Rig, started
from tests.bench.measurements import Measurements
from tests.bench.process import BenchError
from tests.bench.server import Server

START: Final = "start"
MEMORY: Final = "memory"
IDLE: Final = "idle"
_FIRST_POLL_S: Final = 30.0
_PORTION: Final = 20_000
_PORTION_S: Final = 120.0
_REST_S: Final = 1.0
_CYCLE_S: Final = 30.0
_AFTER_POLL_S: Final = 4.0
_HOUR_S: Final = 3600.0


def measure_start(rig: Rig, name: str, measurements: Measurements) -> None:
    """Time from the start of the process to the arrival of its first receive at the server.

    A daemon's folder is empty, so creating the ledger is included. Byte code exists, as after a deployment.

    Raises:
        BenchError: As ``contestants.started``; or it did not poll within 30 s.
    """
    with rig.run() as run:
        rig.server.ask("listen")
        with started(name, run) as contestant:
            polled_at_s = rig.server.ask("heard", within_s=_FIRST_POLL_S).answer["receive_at_s"]
            contestant.wait()
            if polled_at_s is None:
                raise BenchError(f"{name} did not poll within {_FIRST_POLL_S:g} s:\n{contestant.process.log_end}")
            measurements.add(START, name, first_poll_s=polled_at_s - contestant.process.began_at_s)


def rss_figure(messages: int) -> str:
    """The name of the figure: memory after that many messages; 0 is after the start."""
    return f"rss_mib_after_{messages}" if messages else "rss_mib_after_start"


def measure_memory(rig: Rig, name: str, marks: Iterable[int], measurements: Measurements) -> None:
    """Resident memory after the start and after many messages: it grows if something is kept of ended messages.

    ``marks`` are the numbers of messages after which memory is read; they rise.

    Raises:
        BenchError: As ``contestants.started``; or messages were left.
    """
    with rig.run() as run, started(name, run) as contestant:
        contestant.wait()
        time.sleep(_REST_S)
        measurements.add(MEMORY, name, **{rss_figure(0): contestant.process.rss_mib})
        for before, after in pairwise((0, *marks)):
            _feed(contestant, after - before)
            time.sleep(_REST_S)
            measurements.add(MEMORY, name, **{rss_figure(after): contestant.process.rss_mib})


def _feed(contestant: Contestant, messages: int) -> None:
    """Send messages in portions, so that the server holds few at a time."""
    run = contestant.run
    while messages:
        portion = min(messages, _PORTION)
        run.server.ask("fill", queue=run.queue, count=portion)
        left = run.server.ask("emptied", queue=run.queue, within_s=_PORTION_S).answer["left"]
        contestant.process.check()
        if left:
            raise BenchError(f"{contestant.name}: {left} of {portion} messages were left after {_PORTION_S:g} s")
        messages -= portion


def measure_idle(rig: Rig, names: Sequence[str], cycles: int, measurements: Measurements) -> None:
    """Requests and CPU seconds of idle contestants, scaled to an hour.

    They are idle at the same time, each on a server of its own. What happens once an hour, such as the daemon's look
    at its queue's attributes, is not included. A cycle is a long poll of 30 s.

    Raises:
        BenchError: As ``contestants.started``.
    """

    def alone(name: str) -> None:
        with Server(rig.cores) as server:
            _measure_idle(Rig(server, rig.cores, rig.folder), name, cycles, measurements)

    with ThreadPoolExecutor(len(names)) as threads:
        for done in [threads.submit(alone, name) for name in names]:
            done.result()


def _measure_idle(rig: Rig, name: str, cycles: int, measurements: Measurements) -> None:
    with rig.run() as run, started(name, run) as contestant:
        contestant.wait()
        # Whole cycles from some seconds after the begin of a poll, so that no poll begins or ends near the edges.
        time.sleep(_AFTER_POLL_S)
        before, cpu_before_s = rig.server.ask("look"), contestant.process.cpu_s
        time.sleep(cycles * _CYCLE_S)
        after, cpu_s = rig.server.ask("look"), contestant.process.cpu_s - cpu_before_s
        contestant.process.check()
    hours = (after.at_s - before.at_s) / _HOUR_S
    measurements.add(IDLE, name, requests_per_hour=after.requests_since(before) / hours, cpu_s_per_hour=cpu_s / hours)
