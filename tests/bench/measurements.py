"""The measured values: a series for each part, contestant and figure, with medians, spreads and ratios.

Contestants are measured in turn (A B A B ...), so the n-th value of A and the n-th of B come from the same minute. A
ratio is that of the two medians; its spread is that of the ratios of such pairs.
"""

from __future__ import annotations

import operator
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any


def in_turn(rounds: int, *names: str) -> Iterator[str]:
    """A B A B ..."""
    for _ in range(rounds):
        yield from names


@dataclass(frozen=True, slots=True)
class Spread:
    """A median with the least and the greatest value."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of at least one value."""
        return cls(statistics.median(values), min(values), max(values))


@dataclass(slots=True)
class Series:
    """The values of one figure of one contestant in one part, in the order of the rounds."""

    part: str
    contestant: str
    figure: str
    values: list[float] = field(default_factory=list)

    @property
    def spread(self) -> Spread:
        """Median, least and greatest value."""
        return Spread.of(self.values)

    def as_json(self) -> dict[str, Any]:
        """The form of ``bench.json``."""
        spread = self.spread
        return {
            "part": self.part,
            "contestant": self.contestant,
            "figure": self.figure,
            "median": spread.median,
            "min": spread.least,
            "max": spread.most,
            "values": self.values,
        }


class Measurements:
    """All values of one run of the benchmark.

    Args:
        progress: Is called with a line for each run that was measured.

    Attributes:
        notes: What a reader must know: what was left out and why, and whether the server was the limit.
        failures: What was asked for and could not be measured.
    """

    def __init__(self, progress: Callable[[str], object] = lambda _: None) -> None:
        self.notes: list[str] = []
        self.failures: list[str] = []
        self._progress = progress
        self._series: dict[tuple[str, str, str], Series] = {}

    def add(self, part: str, contestant: str, **figures: float) -> None:
        """Add the figures of one run."""
        for figure, value in figures.items():
            key = (part, contestant, figure)
            self._series.setdefault(key, Series(*key)).values.append(value)
        self._progress(f"{part}: {contestant} {' '.join(f'{figure}={value:.4g}' for figure, value in figures.items())}")

    def note(self, text: str) -> None:
        """Add a note, unless it is there."""
        if text not in self.notes:
            self.notes.append(text)

    def series(self, part: str | None = None) -> Iterator[Series]:
        """All series, or those of one part, in the order in which they began."""
        return (one for one in self._series.values() if part in {None, one.part})

    def parts(self) -> list[str]:
        """The measured parts."""
        return list(dict.fromkeys(one.part for one in self._series.values()))

    def spread(self, part: str, contestant: str, figure: str) -> Spread | None:
        """One figure; ``None`` if it was not measured."""
        values = self.values(part, contestant, figure)
        return None if values is None else Spread.of(values)

    def values(self, part: str, contestant: str, figure: str) -> Sequence[float] | None:
        """The values of one figure, in the order of the rounds; ``None`` if it was not measured."""
        found = self._series.get((part, contestant, figure))
        return None if found is None else found.values

    def ratio(self, part: str, contestant: str, to: str, figure: str) -> Spread | None:
        """One contestant's figure divided by another's; ``None`` if one was not measured."""
        return _paired(self.values(part, contestant, figure), self.values(part, to, figure), operator.truediv)

    def difference(self, part: str, contestant: str, to: str, figure: str) -> Spread | None:
        """One contestant's figure less another's; ``None`` if one was not measured."""
        return _paired(self.values(part, contestant, figure), self.values(part, to, figure), operator.sub)


def _paired(
    mine: Sequence[float] | None, theirs: Sequence[float] | None, join: Callable[[float, float], float]
) -> Spread | None:
    if mine is None or theirs is None:
        return None
    pairs = [join(one, other) for one, other in zip(mine, theirs, strict=False)]
    return Spread(join(statistics.median(mine), statistics.median(theirs)), min(pairs), max(pairs))
