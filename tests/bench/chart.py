"""The chart of the measurements; needs matplotlib.

CPU time a message          throughput at each latency
send to handler start       each bar: the figure as a part of its limit
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from tests.bench import delivery, others, throughput
from tests.bench.bars import LATENCIES_MS, Bar, Verdict
from tests.bench.measurements import Measurements, Spread
from tests.bench.throughput import Load

_INCHES: Final = (18.0, 11.0)
_OURS: Final = "#1f6f8b"
_SDK: Final = "#c98b2b"
_OTHERS: Final = "#9a9a9a"
_GOOD: Final = "#3a7d44"
_BAD: Final = "#b23a48"


def draw(measurements: Measurements, verdicts: Sequence[Verdict], path: Path) -> bool:
    """Draw into a PNG file.

    Returns:
        Whether matplotlib is installed; without it nothing is drawn.
    """
    if importlib.util.find_spec("matplotlib") is None:
        return False
    matplotlib: Any = importlib.import_module("matplotlib")
    # A backend without a window.
    matplotlib.use("Agg")
    plots: Any = importlib.import_module("matplotlib.pyplot")
    figure, ((cpu, rate), (delay, bars)) = plots.subplots(2, 2, figsize=_INCHES, layout="constrained")
    _cpu(cpu, measurements)
    _rate(rate, measurements)
    _delay(delay, measurements)
    _bars(bars, verdicts)
    figure.savefig(path, dpi=110)
    plots.close(figure)
    return True


def _cpu(axes: Any, measurements: Measurements) -> None:
    axes.set_title("CPU time a message, microseconds (less is better)", loc="left")
    rows = [
        (part, series.contestant)
        for part in (throughput.PART, others.PART)
        for series in measurements.series(part)
        if series.figure == "cpu_us_per_message"
    ]
    for row, (part, name) in enumerate(rows):
        _row(axes, row, measurements.spread(part, name, "cpu_us_per_message"), _colour(name), ".0f")
    _label_rows(axes, [name for _, name in rows])


def _rate(axes: Any, measurements: Measurements) -> None:
    axes.set_title("Messages a second, by latency added to every request (more is better)", loc="left")
    latencies_ms = (0.0, *LATENCIES_MS)
    rows = [
        (Load(0, 0, latency_ms).part, name, latency_ms)
        for latency_ms in latencies_ms
        for name in dict.fromkeys(series.contestant for series in measurements.series(Load(0, 0, latency_ms).part))
    ]
    for row, (part, name, _) in enumerate(rows):
        _row(axes, row, measurements.spread(part, name, "messages_per_s"), _colour(name), ",.0f")
    if rows:
        axes.set_xscale("log")
    _label_rows(axes, [f"{name}, {latency_ms:g} ms" for _, name, latency_ms in rows])


def _delay(axes: Any, measurements: Measurements) -> None:
    axes.set_title(f"Send to handler start at {delivery.PER_S} a second, milliseconds (less is better)", loc="left")
    names = dict.fromkeys(series.contestant for series in measurements.series(delivery.PART))
    rows = [(figure, name) for figure in ("p50_ms", "p99_ms") for name in names]
    for row, (figure, name) in enumerate(rows):
        _row(axes, row, measurements.spread(delivery.PART, name, figure), _colour(name), ".2f")
    _label_rows(axes, [f"{name}, {figure[:3]}" for figure, name in rows])


def _bars(axes: Any, verdicts: Sequence[Verdict]) -> None:
    axes.set_title("How much of each bar is used up (up to the line: reached)", loc="left")
    measured = [(verdict, verdict.value) for verdict in verdicts if verdict.value is not None]
    for row, (verdict, value) in enumerate(measured):
        bar = verdict.bar
        used = _used(bar, value.median)
        axes.barh(row, used, color=_GOOD if verdict.reached else _BAD)
        text = f" {value.median:.3g}, {bar.least_or_most} {bar.bar:g} {bar.unit}"
        axes.text(used, row, text, va="center", fontsize=7)
    _label_rows(axes, [verdict.bar.name for verdict, _ in measured], fontsize=7)
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
    # Room for the texts at the ends of the bars.
    axes.margins(x=0.2)


def _used(bar: Bar, value: float) -> float:
    """The figure as a part of its bar: 1 is the bar, and less is better in both directions."""
    if bar.least_or_most == "at least":
        return bar.bar / value if value else 0.0
    # There is no part of a bar of 0.
    return value / bar.bar if bar.bar else 2.0 * (value > 0)


def _colour(name: str) -> str:
    if name.startswith("daemon"):
        return _OURS
    return _SDK if name.startswith("sdk") else _OTHERS
