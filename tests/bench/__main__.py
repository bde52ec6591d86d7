"""Measure mns-consumer beside what a user would use instead, on this machine: ``python -m tests.bench``.

Needs Linux, two cores and the group ``bench`` of pyproject.toml (``pip install -e . --group bench``); PostgreSQL and
Redis where they are at hand. All load goes to a sandbox of its own on loopback.

Elsewhere: the parts and their sizes (``plan``), what has to be reached (``bars``).
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
from tests.bench.contestants import ALL, POSTGRES, Stage
from tests.bench.figures import Book
from tests.bench.plan import PARTS, QUICK, Asked, Sizes, chosen
from tests.bench.process import BenchError, Cores, NotHereError, pinned
from tests.bench.served import Server
from tests.postgres import NoPostgresError, new_schema

_OK: Final = 0
_FAILED: Final = 1


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--only", action="append", default=[], choices=PARTS, help="this part; may be repeated")
    parser.add_argument("--contestant", action="append", default=[], choices=ALL, help="this one; may be repeated")
    parser.add_argument("--quick", action="store_true", help="less than two minutes; rough figures")
    parser.add_argument("--long", action="store_true", help="also 1,000,000 messages and 5,000,000 ended jobs")
    parser.add_argument("--ablation", action="store_true", help="only what each trick for speed saves")
    parser.add_argument("--messages", type=_count, metavar="N", help="messages in the queue of one run")
    parser.add_argument("--seconds", type=_duration, metavar="S", help="the most that one run of a full queue takes")
    parser.add_argument("--rounds", type=_count, metavar="N", help="how often A B A B ... goes round")
    parser.add_argument("--strict", action="store_true", help="exit with 1 when a bar is missed")
    parser.add_argument("--unpinned", action="store_true", help="leave the choice of cores to the kernel")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where bench.json and bench.png go")
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


def _sizes(said: argparse.Namespace) -> Sizes:
    sizes = QUICK if said.quick else Sizes()
    if said.long:
        sizes = replace(sizes, memory_marks=bars.MEMORY_MARKS)
    given = {name: value for name in ("messages", "seconds", "rounds") if (value := getattr(said, name)) is not None}
    return replace(sizes, **given)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, show, write.

    Args:
        argv: The arguments; default: those of the process.

    Returns:
        1 when a part could not be measured, or with ``--strict`` when a bar was missed; else 0.
    """
    said = _arguments(argv)
    console, began_at_s = Console(), time.monotonic()

    def tell(line: str) -> None:
        sys.stderr.write(f"{time.monotonic() - began_at_s:6.1f} s  {line}\n")
        sys.stderr.flush()

    book = Book(tell)
    cores = Cores(None, None) if said.unpinned else Cores.of_this_machine()
    out: Path = said.out or Path(tempfile.mkdtemp(prefix="mns-consumer-bench-"))
    out.mkdir(parents=True, exist_ok=True)
    # Ended by a signal, every process that was started is ended as after Ctrl-C.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="mns-consumer-bench-") as made:
        where = report.surroundings(cores, Path(made))
        if cores.server is None:
            book.note("nobody has a core of their own: server and contestants get in each other's way")
        with pinned(cores.server), Server(cores) as server:
            asked = Asked(Stage(server, cores, Path(made)), _sizes(said), _contestants(said, book), book)
            only = [ablation.PART] if said.ablation else said.only
            _measure(asked, chosen(only, quick=said.quick, long=said.long))
    verdicts = bars.judged(book)
    report.show(console, book, verdicts, where)
    ablation.show(console, book)
    _write(out, console, book, verdicts, where)
    missed = any(verdict.reached is False for verdict in verdicts)
    return _FAILED if book.failures or (said.strict and missed) else _OK


def _contestants(said: argparse.Namespace, book: Book) -> list[str]:
    names = [name for name in ALL if name in (said.contestant or ALL)]
    if POSTGRES in names:
        try:
            with new_schema():
                pass
        except NoPostgresError as error:
            book.note(f"{POSTGRES} left out: {error}")
            names.remove(POSTGRES)
    return names


def _measure(asked: Asked, parts: Sequence[str]) -> None:
    for part in parts:
        try:
            PARTS[part](asked)
        except NotHereError as error:
            asked.book.note(f"{part} left out: {error}")
        except BenchError as error:
            # The other parts are worth having all the same; the exit code tells.
            asked.book.failures.append(f"{part}: {error}")


def _write(out: Path, console: Console, book: Book, verdicts: Sequence[bars.Verdict], where: dict[str, Any]) -> None:
    told = out / "bench.json"
    told.write_text(f"{json.dumps(report.as_json(book, verdicts, where), indent=1)}\n")
    drawn = out / "bench.png"
    has_chart = chart.draw(book, verdicts, drawn)
    console.print(f"written: {told}", soft_wrap=True, highlight=False)
    text = f"written: {drawn}" if has_chart else "no chart: matplotlib is not installed (group bench of pyproject.toml)"
    console.print(text, soft_wrap=True, highlight=False)


if __name__ == "__main__":
    sys.exit(main())
