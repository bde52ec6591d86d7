"""What each trick for speed saves: the daemon on SQLite with one trick switched off, beside the daemon as it is.

Right before each run with a trick off the daemon runs as it is, so that a slow minute of the machine meets both. The
price of a trick is the median of the ratios of such pairs, less one, times the CPU time a message with everything on.
"nothing" switches nothing off and shows by how much the measurement itself varies.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from rich.console import Console
from rich.table import Table

from tests.bench import throughput
from tests.bench.contestants import SQLITE, Stage
from tests.bench.figures import Book
from tests.bench.throughput import Load
from tests.bench.tricks import TRICKS

PART: Final = "ablation"
_FIGURE: Final = "cpu_us_per_message"


def measure(stage: Stage, load: Load, rounds: int, book: Book, names: Sequence[str] = ()) -> None:
    """Measure every trick, ``rounds`` times in turn."""
    tricks = [trick.name for trick in TRICKS if not names or trick.name in names]
    for _ in range(rounds):
        for trick in tricks:
            for without in ("", trick):
                run = replace(load, without=without, beside=trick)
                throughput.measure(stage, SQLITE, run, book)


def show(console: Console, book: Book) -> None:
    """Print the table: what a trick saves, and lines for each microsecond."""
    pairs = {
        trick.name: list(
            zip(
                _values(book, Load(0, 0, beside=trick.name).part),
                _values(book, Load(0, 0, without=trick.name).part),
                strict=False,
            )
        )
        for trick in TRICKS
    }
    base = [on for measured in pairs.values() for on, _ in measured]
    if not base:
        return
    usual = statistics.median(base)
    table = Table(title=f"Ablation: CPU a message, {usual:.1f} us with everything on")
    for column in ("trick", "saves, us (least..most)", "lines", "lines a us", "when it is off", "where"):
        table.add_column(column)
    for trick in TRICKS:
        saved = [(off / on - 1) * usual for on, off in pairs[trick.name]]
        if not saved:
            continue
        median = statistics.median(saved)
        a_us = f"{trick.lines / median:.0f}" if median > 0 and trick.lines else "-"
        span = f"{median:.1f} ({min(saved):.1f}..{max(saved):.1f})"
        table.add_row(trick.name, span, str(trick.lines or "-"), a_us, trick.what, trick.where)
    console.print(table)


def _values(book: Book, part: str) -> list[float]:
    return next((one.values for one in book.series() if (one.part, one.figure) == (part, _FIGURE)), [])
