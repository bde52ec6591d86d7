"""Draw what was measured, where matplotlib is installed.

    CPU time a message          throughput at each latency
    send to handler start       every bar: how far the figure is from it

Elsewhere: the same as tables and JSON (``report``).
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from tests.bench import delivery, others, throughput
from tests.bench.bars import LATENCIES_MS, Verdict
from tests.bench.figures import Book
from tests.bench.throughput import Load

_INCHES: Final = (15.0, 10.0)
_OURS: Final = "#1f6f8b"
_SDK: Final = "#c98b2b"
_OTHERS: Final = "#9a9a9a"
_GOOD: Final = "#3a7d44"
_BAD: Final = "#b23a48"


def draw(book: Book, verdicts: Sequence[Verdict], path: Path) -> bool:
    """Draw into a PNG file.

    Returns:
        Whether matplotlib is here; without it nothing is drawn.
    """
    if importlib.util.find_spec("matplotlib") is None:
        return False
    matplotlib: Any = importlib.import_module("matplotlib")
    # No window: a file.
    matplotlib.use("Agg")
    plots: Any = importlib.import_module("matplotlib.pyplot")
    figure, ((cpu, rate), (delay, bars)) = plots.subplots(2, 2, figsize=_INCHES, layout="constrained")
    _cpu(cpu, book)
    _rate(rate, book)
    _delay(delay, book)
    _bars(bars, verdicts)
    figure.savefig(path, dpi=110)
    plots.close(figure)
    return True


def _cpu(axes: Any, book: Book) -> None:
    axes.set_title("CPU time a message, microseconds (less is better)")
    rows = [
        (part, series.contestant)
        for part in (throughput.PART, others.PART)
        for series in book.series(part)
        if series.figure == "cpu_us_per_message"
    ]
    for row, (part, name) in enumerate(reversed(rows)):
        spread = book.spread(part, name, "cpu_us_per_message")
        if spread is not None:
            error = [[spread.median - spread.least], [spread.most - spread.median]]
            axes.barh(row, spread.median, xerr=error, color=_colour(name), capsize=3)
            axes.text(spread.most, row, f" {spread.median:.0f}", va="center")
    axes.set_yticks(range(len(rows)), [name for _, name in reversed(rows)])


def _rate(axes: Any, book: Book) -> None:
    axes.set_title("Messages a second, by added latency of every request (more is better)")
    latencies_ms = (0.0, *LATENCIES_MS)
    names = list(dict.fromkeys(series.contestant for series in book.series(throughput.PART)))
    for number, name in enumerate(names):
        found = [book.spread(Load(0, 0, latency_ms).part, name, "messages_per_s") for latency_ms in latencies_ms]
        places = [place + number / (len(names) + 1) for place, spread in enumerate(found) if spread is not None]
        heights = [spread.median for spread in found if spread is not None]
        axes.bar(places, heights, 0.8 / (len(names) + 1), label=name)
    if names:
        axes.set_yscale("log")
        axes.legend()
    axes.set_xticks([place + 0.3 for place in range(len(latencies_ms))], [f"{value:g} ms" for value in latencies_ms])


def _delay(axes: Any, book: Book) -> None:
    axes.set_title(f"Send to handler start at {delivery.PER_S} messages a second, milliseconds (less is better)")
    names = list(dict.fromkeys(series.contestant for series in book.series(delivery.PART)))
    for number, figure in enumerate(("p50_ms", "p99_ms")):
        for place, name in enumerate(names):
            spread = book.spread(delivery.PART, name, figure)
            if spread is not None:
                error = [[spread.median - spread.least], [spread.most - spread.median]]
                axes.bar(place + number * 0.4, spread.median, 0.35, yerr=error, capsize=3, color=(_OURS, _SDK)[number])
                axes.text(place + number * 0.4, spread.median, f"{figure[:3]} {spread.median:.1f}", ha="center")
    axes.set_xticks([place + 0.2 for place in range(len(names))], names)


def _bars(axes: Any, verdicts: Sequence[Verdict]) -> None:
    axes.set_title("How much of each bar is used up (left of the line: reached)")
    measured = [verdict for verdict in verdicts if verdict.value is not None]
    for row, verdict in enumerate(reversed(measured)):
        axes.barh(row, _used(verdict), color=_GOOD if verdict.reached else _BAD)
    axes.set_yticks(range(len(measured)), [verdict.bar.name for verdict in reversed(measured)], fontsize=7)
    axes.axvline(1.0, color="black", linewidth=1)


def _used(verdict: Verdict) -> float:
    """The figure as a part of its bar, so that 1 is the bar and less is better, whichever way the bar goes."""
    value = 0.0 if verdict.value is None else verdict.value.median
    if verdict.bar.least_or_most == "at least":
        return verdict.bar.bar / value if value else 0.0
    # A bar of nothing at all can't be used up in part.
    return value / verdict.bar.bar if verdict.bar.bar else 2.0 * (value > 0)


def _colour(name: str) -> str:
    if name.startswith("daemon"):
        return _OURS
    return _SDK if name.startswith("sdk") else _OTHERS
