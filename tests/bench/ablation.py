"""What each trick for speed saves: the daemon on SQLite with one trick switched off, beside the daemon as it is.

Each round measures all of them in turn, so that a slow minute of the machine meets every one. The price of a trick is
the median of the differences of the CPU time a message to the same round's run with everything on; "nothing" switches
nothing off and shows what the measurement itself varies by.
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
        for without in ("", *tricks):
            run = replace(load, without=without)
            throughput.measure(stage, SQLITE, run, book)


def show(console: Console, book: Book) -> None:
    """Print the table: what a trick saves, and lines for each microsecond."""
    base = _values(book, Load(0, 0).part)
    if not base:
        return
    table = Table(title=f"Ablation: CPU a message, {statistics.median(base):.1f} us with everything on")
    for column in ("trick", "saves, us (least..most)", "lines", "lines a us", "when it is off", "where"):
        table.add_column(column)
    for trick in TRICKS:
        values = _values(book, Load(0, 0, without=trick.name).part)
        if len(values) != len(base):
            continue
        saved = [off - on for off, on in zip(values, base, strict=True)]
        median = statistics.median(saved)
        a_us = f"{trick.lines / median:.0f}" if median > 0 and trick.lines else "-"
        span = f"{median:.1f} ({min(saved):.1f}..{max(saved):.1f})"
        table.add_row(trick.name, span, str(trick.lines or "-"), a_us, trick.what, trick.where)
    console.print(table)


def _values(book: Book, part: str) -> list[float]:
    return next((one.values for one in book.series() if (one.part, one.figure) == (part, _FIGURE)), [])
