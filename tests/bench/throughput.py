"""Messages a second, CPU time and requests a message, of contestants that find a full queue.

A contestant is started at an empty queue, handles a few messages to get warm and waits in its long poll; then the
queue is filled at once. From there until the queue is empty, or the time is over, everything is counted: so neither
the start of an interpreter nor an idle poll is part of a figure.

Elsewhere: the contestants (``contestants``), the bars (``bars``).
"""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final

from tests.bench.contestants import Place, Stage, started
from tests.bench.figures import Book
from tests.bench.served import FULL_SHARE

PART: Final = "throughput"
_WARM: Final = 500
_WARM_S: Final = 20.0
_SETTLE_S: Final = 0.5
"""What a start still has to do in the background once it polls."""


@dataclass(frozen=True, slots=True)
class Load:
    """How much there is to do.

    Args:
        messages: In the queue; whoever is slow does not get through them all.
        seconds: The most that one run takes.
        latency_ms: How much later every request is answered.
        without: The trick that is switched off (``tricks``).
        beside: The trick whose run comes right after this one.
    """

    messages: int
    seconds: float
    latency_ms: float = 0.0
    without: str = ""
    beside: str = ""

    @property
    def part(self) -> str:
        """The part that its figures belong to."""
        if self.without:
            return f"{PART} without {self.without}"
        if self.beside:
            return f"{PART} beside {self.beside}"
        return f"{PART} at {self.latency_ms:g} ms" if self.latency_ms else PART


def _placed(stage: Stage, load: Load) -> AbstractContextManager[Place]:
    return stage.place(handler="ablated", without=load.without) if load.without else stage.place()


def measure(stage: Stage, name: str, load: Load, book: Book) -> None:
    """One run of one contestant.

    Raises:
        BenchError: As ``contestants.started``.
    """
    server = stage.server
    with _placed(stage, load) as place, started(name, place) as running:
        running.wait()
        time.sleep(_SETTLE_S)
        rss_mib = running.process.rss_mib
        server.ask("fill", queue=place.queue, count=_WARM)
        server.ask("emptied", queue=place.queue, within_s=_WARM_S)
        running.wait()
        server.ask("latency", seconds=load.latency_ms / 1000)
        try:
            cpu_before_s = running.process.cpu_s
            filled = server.ask("fill", queue=place.queue, count=load.messages)
            end = server.ask("emptied", queue=place.queue, within_s=load.seconds)
            cpu_s = running.process.cpu_s - cpu_before_s
        finally:
            server.ask("latency", seconds=0)
    messages = load.messages - end.told["left"]
    share = end.share_since(filled)
    book.add(
        load.part,
        name,
        messages_per_s=messages / (end.at_s - filled.at_s),
        cpu_us_per_message=1e6 * cpu_s / max(messages, 1),
        requests_per_message=end.requests_since(filled) / max(messages, 1),
        server_share=share,
        rss_start_mib=rss_mib,
    )
    if share > FULL_SHARE:
        book.note(f"{load.part}: the server was busy for {share:.0%} with {name}: it may have been the limit")
