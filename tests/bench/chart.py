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
from tests.bench.figures import Book, Spread
from tests.bench.throughput import Load

_INCHES: Final = (18.0, 11.0)
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
    axes.set_title("CPU time a message, microseconds (less is better)", loc="left")
    rows = [
        (part, series.contestant)
        for part in (throughput.PART, others.PART)
        for series in book.series(part)
        if series.figure == "cpu_us_per_message"
    ]
    for row, (part, name) in enumerate(rows):
        _row(axes, row, book.spread(part, name, "cpu_us_per_message"), _colour(name), ".0f")
    _label_rows(axes, [name for _, name in rows])


def _rate(axes: Any, book: Book) -> None:
    axes.set_title("Messages a second, by latency added to every request (more is better)", loc="left")
    latencies_ms = (0.0, *LATENCIES_MS)
    rows = [
        (Load(0, 0, latency_ms).part, name, latency_ms)
        for latency_ms in latencies_ms
        for name in dict.fromkeys(series.contestant for series in book.series(Load(0, 0, latency_ms).part))
    ]
    for row, (part, name, _) in enumerate(rows):
        _row(axes, row, book.spread(part, name, "messages_per_s"), _colour(name), ",.0f")
    if rows:
        axes.set_xscale("log")
    _label_rows(axes, [f"{name}, {latency_ms:g} ms" for _, name, latency_ms in rows])


def _delay(axes: Any, book: Book) -> None:
    axes.set_title(f"Send to handler start at {delivery.PER_S} a second, milliseconds (less is better)", loc="left")
    names = dict.fromkeys(series.contestant for series in book.series(delivery.PART))
    rows = [(figure, name) for figure in ("p50_ms", "p99_ms") for name in names]
    for row, (figure, name) in enumerate(rows):
        _row(axes, row, book.spread(delivery.PART, name, figure), _colour(name), ".2f")
    _label_rows(axes, [f"{name}, {figure[:3]}" for figure, name in rows])


def _bars(axes: Any, verdicts: Sequence[Verdict]) -> None:
    axes.set_title("How much of each bar is used up (up to the line: reached)", loc="left")
    measured = [verdict for verdict in verdicts if verdict.value is not None]
    for row, verdict in enumerate(measured):
        bar, value = verdict.bar, verdict.value
        axes.barh(row, _used(verdict), color=_GOOD if verdict.reached else _BAD)
        told = "" if value is None else f" {value.median:.3g}, {bar.least_or_most} {bar.bar:g} {bar.unit}"
        axes.text(_used(verdict), row, told, va="center", fontsize=7)
    _label_rows(axes, [verdict.bar.name for verdict in measured], fontsize=7)
    axes.axvline(1.0, color="black", linewidth=1)


def _row(axes: Any, row: int, spread: Spread | None, colour: str, form: str) -> None:
    """One bar with its spread and its median."""
    if spread is not None:
        error = [[spread.median - spread.least], [spread.most - spread.median]]
        axes.barh(row, spread.median, xerr=error, color=colour, capsize=3)
        axes.text(spread.most, row, f"  {spread.median:{form}}", va="center")


def _label_rows(axes: Any, labels: Sequence[str], **how: Any) -> None:
    axes.set_yticks(range(len(labels)), labels, **how)
    axes.invert_yaxis()
    # Room for what is written at the bars' ends.
    axes.margins(x=0.2)


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
