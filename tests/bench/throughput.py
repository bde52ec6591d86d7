"""Messages a second, and CPU time and requests a message, with a full queue.

A contestant starts at an empty queue, handles some messages to get warm and waits in its long poll. Then the queue is
filled. The figures count from there until the queue is empty or the time is over, so neither the start of the
interpreter nor an idle poll is included.
"""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final

from tests.bench.contestants import Rig, Run, started
from tests.bench.measurements import Measurements
from tests.bench.server import FULL_SHARE

PART: Final = "throughput"
_WARM: Final = 500
_WARM_S: Final = 20.0
_SETTLE_S: Final = 0.5
"""A daemon that already polls still starts some background work."""


@dataclass(frozen=True, slots=True)
class Load:
    """What a run has to handle.

    Args:
        messages: Put into the queue at once; a slow contestant does not handle them all.
        seconds: The most that one run takes.
        latency_ms: Delay of every answer.
        without: The trick that is switched off (``tricks``).
        beside: The trick whose run follows this one.
    """

    messages: int
    seconds: float
    latency_ms: float = 0.0
    without: str = ""
    beside: str = ""

    @property
    def part(self) -> str:
        """The part of its figures."""
        if self.without:
            return f"{PART} without {self.without}"
        if self.beside:
            return f"{PART} beside {self.beside}"
        return f"{PART} at {self.latency_ms:g} ms" if self.latency_ms else PART


def _run(rig: Rig, load: Load) -> AbstractContextManager[Run]:
    return rig.run(handler="ablated", without=load.without) if load.without else rig.run()


def measure(rig: Rig, name: str, load: Load, measurements: Measurements) -> None:
    """Measure one run of one contestant.

    Raises:
        BenchError: As ``contestants.started``.
    """
    server = rig.server
    with _run(rig, load) as run, started(name, run) as contestant:
        contestant.wait()
        time.sleep(_SETTLE_S)
        rss_mib = contestant.process.rss_mib
        server.ask("fill", queue=run.queue, count=_WARM)
        server.ask("emptied", queue=run.queue, within_s=_WARM_S)
        contestant.wait()
        server.ask("latency", seconds=load.latency_ms / 1000)
        try:
            cpu_before_s = contestant.process.cpu_s
            filled = server.ask("fill", queue=run.queue, count=load.messages)
            end = server.ask("emptied", queue=run.queue, within_s=load.seconds)
            cpu_s = contestant.process.cpu_s - cpu_before_s
        finally:
            server.ask("latency", seconds=0)
    messages = load.messages - end.answer["left"]
    share = end.share_since(filled)
    measurements.add(
        load.part,
        name,
        messages_per_s=messages / (end.at_s - filled.at_s),
        cpu_us_per_message=1e6 * cpu_s / max(messages, 1),
        requests_per_message=end.requests_since(filled) / max(messages, 1),
        server_share=share,
        rss_start_mib=rss_mib,
    )
    if share > FULL_SHARE:
        measurements.note(f"{load.part}: the server was busy for {share:.0%} with {name}: it may have been the limit")
