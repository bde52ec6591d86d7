"""The measurements as tables for a person and as JSON for a program."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from tests.bench.bars import BATCH, SAMPLE, Verdict
from tests.bench.measurements import Measurements, Spread
from tests.bench.process import Cores

_LIBRARIES: Final = (
    *("aiohttp", "aliyun-mns-sdk", "anyio", "asyncpg", "pydantic", "structlog", "uvloop"),
    *("celery", "dramatiq", "redis", "saq", "taskiq", "taskiq-redis"),
)
_FORMATS: Final[Mapping[str, tuple[str, str]]] = {
    "messages_per_s": ("messages/s", ",.0f"),
    "cpu_us_per_message": ("CPU us/message", ",.1f"),
    "requests_per_message": ("requests/message", ".3f"),
    "server_share": ("server's core", ".0%"),
    "rss_start_mib": ("RSS at start, MiB", ".1f"),
    "p50_ms": ("p50, ms", ".2f"),
    "p99_ms": ("p99, ms", ".2f"),
    "first_poll_s": ("to first poll, s", ".3f"),
    "requests_per_hour": ("requests/hour", ".1f"),
    "cpu_s_per_hour": ("CPU s/hour", ".2f"),
    "results_per_s": ("results/s", ".1f"),
    "throttling_answers": ("Throttling answers", ".0f"),
}
_RATIOS: Final = (("cpu_us_per_message", BATCH, f"CPU x {BATCH}"), ("messages_per_s", SAMPLE, f"rate x {SAMPLE}"))
_WIDTH: Final = 180


def surroundings(cores: Cores, folder: Path) -> dict[str, Any]:
    """The machine and the versions of the libraries."""
    return {
        "mns_consumer": version_of("mns-consumer"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "processor": _processor(),
        "cores": {"all": os.cpu_count(), "server": cores.server, "contestant": cores.contestant},
        "file_system": _file_system(folder),
        "load_average": os.getloadavg(),
        "libraries": {name: found for name in _LIBRARIES if (found := _installed(name)) is not None},
        "cpu_time": "the kernel's CPU clock of the process (clock_getcpuclockid), from the moment that the queue is "
        "filled to the moment that it is empty; the start of the interpreter is not in it",
    }


def as_json(measurements: Measurements, verdicts: Sequence[Verdict], where: Mapping[str, Any]) -> dict[str, Any]:
    """The content of ``bench.json``."""
    return {
        "surroundings": dict(where),
        "figures": [series.as_json() for series in measurements.series()],
        "bars": [verdict.as_json() for verdict in verdicts],
        "notes": measurements.notes,
        "failures": measurements.failures,
    }


def show(console: Console, measurements: Measurements, verdicts: Sequence[Verdict], where: Mapping[str, Any]) -> None:
    """Print the tables."""
    if not console.is_terminal:
        # A file has no width, and rich would break every row at 80.
        console.width = _WIDTH
    load = ", ".join(f"{minutes:.2f}" for minutes in where["load_average"])
    console.print(
        f"mns-consumer {where['mns_consumer']}, Python {where['python']}, {where['processor']}, "
        f"{where['cores']['all']} cores, files on {where['file_system']}, load before: {load}",
        highlight=False,
    )
    for part in measurements.parts():
        console.print(_table(measurements, part))
    console.print("Median (least..most) of runs taken in turn. A ratio is that of the medians, its spread that of the")
    console.print(
        "rounds. CPU time is the process's own, from a filled queue to an empty one, user and system; that of"
    )
    console.print("PostgreSQL and Redis is in no figure.")
    console.print(_verdicts(verdicts))
    for text in (
        *(f"note: {note}" for note in measurements.notes),
        *(f"failed: {failure}" for failure in measurements.failures),
    ):
        console.print(text, highlight=False, markup=False)


def _table(measurements: Measurements, part: str) -> Table:
    series = list(measurements.series(part))
    figures = list(dict.fromkeys(one.figure for one in series))
    contestants = list(dict.fromkeys(one.contestant for one in series))
    ratios = [ratio for ratio in _RATIOS if ratio[0] in figures and ratio[1] in contestants]
    table = Table(title=part, title_justify="left")
    table.add_column("contestant")
    for figure in figures:
        table.add_column(_format(figure)[0], justify="right")
    for *_, heading in ratios:
        table.add_column(heading, justify="right")
    for name in contestants:
        cells = [_cell(measurements.spread(part, name, figure), _format(figure)[1]) for figure in figures]
        cells += [_cell(measurements.ratio(part, name, to, figure), ".2f") for figure, to, _ in ratios]
        table.add_row(name, *cells)
    return table


def _format(figure: str) -> tuple[str, str]:
    """A figure's heading, and the format of its values."""
    if figure.startswith("rss_mib_after_"):
        after = figure.removeprefix("rss_mib_after_")
        return f"RSS after {int(after):,}, MiB" if after.isdecimal() else f"RSS after {after}, MiB", ".1f"
    return _FORMATS[figure]


def _verdicts(verdicts: Sequence[Verdict]) -> Table:
    table = Table(title="bars", title_justify="left")
    for heading in ("figure", "measured", "bar", "aim", ""):
        table.add_column(heading, justify="left" if heading in {"figure", ""} else "right")
    words = {True: "[green]reached[/]", False: "[red]missed[/]", None: "not measured"}
    for verdict in verdicts:
        bar = verdict.bar
        table.add_row(
            bar.name,
            _cell(verdict.value, ",.3g"),
            f"{bar.least_or_most} {bar.bar:g} {bar.unit}".rstrip(),
            "" if bar.aim is None else f"{bar.aim:g}",
            words[verdict.reached],
        )
    return table


def _cell(spread: Spread | None, form: str) -> str:
    if spread is None:
        return "-"
    median, least, most = (format(value, form) for value in (spread.median, spread.least, spread.most))
    return median if least == most else f"{median} ({least}..{most})"


def _installed(name: str) -> str | None:
    try:
        return version_of(name)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _file_system(folder: Path) -> str:
    """The kind of file system below the ledgers: on one in memory a commit costs nothing."""
    best = ("", "unknown")
    for line in Path("/proc/mounts").read_text().splitlines():
        _, mounted_at, kind, *_ = line.split()
        if folder.resolve().is_relative_to(mounted_at) and len(mounted_at) >= len(best[0]):
            best = (mounted_at, kind)
    return best[1]
