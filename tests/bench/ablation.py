"""What each trick for speed saves: the daemon on SQLite with one trick off, and with all tricks on.

Each run with a trick off follows a run with all tricks on, so that a slow minute of the machine affects both. The
saving is the median of the ratios of such pairs, less one, times the CPU time a message with all tricks on. The trick
"nothing" switches nothing off: it shows how much the measurement itself varies.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from rich.console import Console
from rich.table import Table

from tests.bench import throughput
from tests.bench.contestants import SQLITE, Rig
from tests.bench.measurements import Measurements
from tests.bench.throughput import Load
from tests.bench.tricks import TRICKS

PART: Final = "ablation"
_FIGURE: Final = "cpu_us_per_message"


def measure(rig: Rig, load: Load, rounds: int, measurements: Measurements, names: Sequence[str] = ()) -> None:
    """Measure every trick, ``rounds`` times in turn."""
    tricks = [trick.name for trick in TRICKS if not names or trick.name in names]
    for _ in range(rounds):
        for trick in tricks:
            for without in ("", trick):
                run = replace(load, without=without, beside=trick)
                throughput.measure(rig, SQLITE, run, measurements)


def show(console: Console, measurements: Measurements) -> None:
    """Print the table: what each trick saves, and its lines for each microsecond."""
    pairs = {
        trick.name: list(
            zip(
                _values(measurements, Load(0, 0, beside=trick.name).part),
                _values(measurements, Load(0, 0, without=trick.name).part),
                strict=False,
            )
        )
        for trick in TRICKS
    }
    base = [on for values in pairs.values() for on, _ in values]
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


def _values(measurements: Measurements, part: str) -> list[float]:
    return next((one.values for one in measurements.series() if (one.part, one.figure) == (part, _FIGURE)), [])
