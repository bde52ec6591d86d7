"""Measure mns-consumer and its alternatives on this machine: ``python -m tests.bench``.

Needs Linux, two cores and the group ``bench`` of pyproject.toml (``pip install -e . --group bench``). What needs
PostgreSQL or Redis is left out where they are missing. All load goes to a sandbox on loopback. ``plan`` lists the
parts, ``bars`` the limits.
"""

from __future__ import annotations

import argparse
import json
import math
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from tests.bench import ablation, bars, chart, report
from tests.bench.contestants import ALL, POSTGRES, Rig
from tests.bench.measurements import Measurements
from tests.bench.plan import PARTS, QUICK, Context, Sizes, chosen
from tests.bench.process import BenchError, Cores, NotHereError, pinned
from tests.bench.server import Server
from tests.postgres import NoPostgresError, new_schema

_OK: Final = 0
_FAILED: Final = 1


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--only", action="append", default=[], choices=PARTS, help="this part; may be repeated")
    parser.add_argument(
        "--contestant", action="append", default=[], choices=ALL, help="this contestant; may be repeated"
    )
    parser.add_argument("--quick", action="store_true", help="less than two minutes; rough figures")
    parser.add_argument("--long", action="store_true", help="also 1,000,000 messages and 5,000,000 ended jobs")
    parser.add_argument("--ablation", action="store_true", help="only what each trick for speed saves")
    parser.add_argument("--messages", type=_count, metavar="N", help="messages in the queue of one run")
    parser.add_argument("--seconds", type=_duration, metavar="S", help="the most that one run of a full queue takes")
    parser.add_argument("--rounds", type=_count, metavar="N", help="runs of each contestant, in turn")
    parser.add_argument("--strict", action="store_true", help="exit with 1 when a bar is missed")
    parser.add_argument("--unpinned", action="store_true", help="leave the choice of cores to the kernel")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for bench.json and bench.png")
    return parser.parse_args(argv)


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {text}")
    return value


def _duration(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"expected more than 0, got {text}")
    return value


def _sizes(arguments: argparse.Namespace) -> Sizes:
    sizes = QUICK if arguments.quick else Sizes()
    if arguments.long:
        sizes = replace(sizes, memory_marks=bars.MEMORY_MARKS)
    given = {
        name: value for name in ("messages", "seconds", "rounds") if (value := getattr(arguments, name)) is not None
    }
    return replace(sizes, **given)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write.

    Returns:
        1 if a part could not be measured, or with ``--strict`` if a bar was missed; else 0.
    """
    arguments = _arguments(argv)
    console, began_at_s = Console(), time.monotonic()

    def progress(line: str) -> None:
        sys.stderr.write(f"{time.monotonic() - began_at_s:6.1f} s  {line}\n")
        sys.stderr.flush()

    measurements = Measurements(progress)
    cores = Cores(None, None) if arguments.unpinned else Cores.of_this_machine()
    out: Path = arguments.out or Path(tempfile.mkdtemp(prefix="mns-consumer-bench-"))
    out.mkdir(parents=True, exist_ok=True)
    # These signals end the processes that were started, as Ctrl-C does.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="mns-consumer-bench-") as made:
        where = report.surroundings(cores, Path(made))
        if cores.server is None:
            measurements.note("no pinning: server and contestants share their cores and disturb each other")
        with pinned(cores.server), Server(cores) as server:
            context = Context(
                Rig(server, cores, Path(made)), _sizes(arguments), _contestants(arguments, measurements), measurements
            )
            only = [ablation.PART] if arguments.ablation else arguments.only
            _measure(context, chosen(only, quick=arguments.quick, long=arguments.long))
    verdicts = bars.judged(measurements)
    report.show(console, measurements, verdicts, where)
    ablation.show(console, measurements)
    _write(out, console, measurements, verdicts, where)
    missed = any(verdict.reached is False for verdict in verdicts)
    return _FAILED if measurements.failures or (arguments.strict and missed) else _OK


def _contestants(arguments: argparse.Namespace, measurements: Measurements) -> list[str]:
    names = [name for name in ALL if name in (arguments.contestant or ALL)]
    if POSTGRES in names:
        try:
            with new_schema():
                pass
        except NoPostgresError as error:
            measurements.note(f"{POSTGRES} left out: {error}")
            names.remove(POSTGRES)
    return names


def _measure(context: Context, parts: Sequence[str]) -> None:
    for part in parts:
        try:
            PARTS[part](context)
        except NotHereError as error:
            context.measurements.note(f"{part} left out: {error}")
        except BenchError as error:
            # The other parts still run; the exit code is 1.
            context.measurements.failures.append(f"{part}: {error}")


def _write(
    out: Path, console: Console, measurements: Measurements, verdicts: Sequence[bars.Verdict], where: dict[str, Any]
) -> None:
    figures = out / "bench.json"
    figures.write_text(f"{json.dumps(report.as_json(measurements, verdicts, where), indent=1)}\n")
    picture = out / "bench.png"
    has_chart = chart.draw(measurements, verdicts, picture)
    console.print(f"written: {figures}", soft_wrap=True, highlight=False)
    text = (
        f"written: {picture}" if has_chart else "no chart: matplotlib is not installed (group bench of pyproject.toml)"
    )
    console.print(text, soft_wrap=True, highlight=False)


if __name__ == "__main__":
    sys.exit(main())
