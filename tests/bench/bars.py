"""The bars: what the daemon must reach, and whether it did.

A bar whose part did not run is neither reached nor missed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from tests.bench import delivery, footprint, ledger, results, throughput
from tests.bench.contestants import POSTGRES, SQLITE
from tests.bench.measurements import Measurements, Spread
from tests.bench.throughput import Load

SAMPLE: Final = "sdk_sample"
BATCH: Final = "sdk_batch"
LATENCIES_MS: Final = (5.0, 20.0)
MEMORY_MARKS: Final = (100_000, 1_000_000)


@dataclass(frozen=True, slots=True)
class Bar:
    """One figure and its limit.

    Args:
        least_or_most: The direction of the limit.
        bar: The limit.
        unit: Of figure and limit; ``x`` is a ratio.
        value: Computes the figure; ``None`` if it was not measured.
        aim: A better value, which is not required.
    """

    name: str
    least_or_most: Literal["at least", "at most"]
    bar: float
    unit: str
    value: Callable[[Measurements], Spread | None]
    aim: float | None = None

    def reached(self, value: float) -> bool:
        """Whether a value reaches it."""
        return value >= self.bar if self.least_or_most == "at least" else value <= self.bar


@dataclass(frozen=True, slots=True)
class Verdict:
    """A bar with its measured figure; ``None`` if it was not measured."""

    bar: Bar
    value: Spread | None

    @property
    def reached(self) -> bool | None:
        """Whether it was reached; ``None`` if it was not measured."""
        return None if self.value is None else self.bar.reached(self.value.median)

    def as_json(self) -> dict[str, Any]:
        """The form of ``bench.json``."""
        return {
            "figure": self.bar.name,
            "bar": f"{self.bar.least_or_most} {self.bar.bar:g} {self.bar.unit}".rstrip(),
            "aim": self.bar.aim,
            "median": None if self.value is None else self.value.median,
            "min": None if self.value is None else self.value.least,
            "max": None if self.value is None else self.value.most,
            "reached": self.reached,
        }


def _ratio(part: str, contestant: str, to: str, figure: str) -> Callable[[Measurements], Spread | None]:
    return lambda measurements: measurements.ratio(part, contestant, to, figure)


def _plain(part: str, contestant: str, figure: str) -> Callable[[Measurements], Spread | None]:
    return lambda measurements: measurements.spread(part, contestant, figure)


def _worst(part: str, contestant: str, figure: str) -> Callable[[Measurements], Spread | None]:
    def worst(measurements: Measurements) -> Spread | None:
        found = measurements.spread(part, contestant, figure)
        return None if found is None else Spread(found.most, found.least, found.most)

    return worst


def _growth(measurements: Measurements) -> Spread | None:
    before, after = (measurements.values(footprint.MEMORY, SQLITE, footprint.rss_figure(mark)) for mark in MEMORY_MARKS)
    if before is None or after is None:
        return None
    grown = [late - early for early, late in zip(before, after, strict=True)]
    return Spread.of(grown)


def _throughput_bars() -> Iterator[Bar]:
    cpu, rate = "cpu_us_per_message", "messages_per_s"
    for name, bar, aim in ((SQLITE, 1.2, 1.0), (POSTGRES, 2.0, 1.5)):
        value = _ratio(throughput.PART, name, BATCH, cpu)
        yield Bar(f"CPU a message, {name} to {BATCH}", "at most", bar, "x", value, aim)
    value = _ratio(throughput.PART, SQLITE, SAMPLE, rate)
    yield Bar(f"throughput, {SQLITE} to {SAMPLE}", "at least", 5, "x", value, 6)
    for latency_ms, bar in zip(LATENCIES_MS, (30, 60), strict=True):
        value = _ratio(Load(0, 0, latency_ms).part, SQLITE, SAMPLE, rate)
        yield Bar(f"throughput at {latency_ms:g} ms, {SQLITE} to {SAMPLE}", "at least", bar, "x", value)
    for name in (SQLITE, POSTGRES):
        value = _plain(throughput.PART, name, "requests_per_message")
        yield Bar(f"requests a message under load, {name}", "at most", 0.14, "", value)


def _other_bars() -> Iterator[Bar]:
    for name in (SQLITE, POSTGRES):
        value = _plain(footprint.IDLE, name, "requests_per_hour")
        yield Bar(f"requests an hour idle, {name}", "at most", 125, "", value)
    value = _ratio(delivery.PART, SQLITE, BATCH, "p50_ms")
    yield Bar(f"send to handler start, p50, {SQLITE} to {BATCH}", "at most", 1.5, "x", value)
    yield Bar(
        f"send to handler start, p99, {SQLITE} above {BATCH}",
        "at most",
        5,
        "ms",
        lambda measurements: measurements.difference(delivery.PART, SQLITE, BATCH, "p99_ms"),
    )
    yield Bar("RSS after the start", "at most", 80, "MiB", _plain(footprint.MEMORY, SQLITE, footprint.rss_figure(0)))
    yield Bar("RSS from 100,000 to 1,000,000 messages", "at most", 2, "MiB", _growth)
    yield Bar("start to first poll", "at most", 0.7, "s", _plain(footprint.START, SQLITE, "first_poll_s"))
    for scheme in results.SCHEMES:
        part = results.part(scheme)
        yield Bar(f"results over {scheme}", "at least", 95, "a second", _plain(part, SQLITE, "results_per_s"))
        # None in any round.
        value = _worst(part, SQLITE, "throttling_answers")
        yield Bar(f"Throttling answers over {scheme}", "at most", 0, "", value)
    value = _ratio(
        ledger.PART, ledger.contestant_of(ledger.LARGE), ledger.contestant_of(ledger.SMALL), "cpu_us_per_message"
    )
    yield Bar("CPU a message, 5,000,000 ended jobs to 10,000", "at most", 1.25, "x", value)


BARS: Final[Sequence[Bar]] = (*_throughput_bars(), *_other_bars())


def judged(measurements: Measurements) -> list[Verdict]:
    """The verdict on each bar."""
    return [Verdict(bar, bar.value(measurements)) for bar in BARS]
