"""Show the demo: live bars on a terminal, plain lines elsewhere, a table at the end.

Elsewhere: what is shown (``cli.demo``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text


@dataclass(frozen=True, slots=True)
class Row:
    """One job in the table at the end.

    Args:
        function: FunctionName.
        state: As MPS says; ``""`` when no end came in time.
        summary: The typed result in one line, or what went wrong.
        user_data: As it came back.
        seconds: From its submission to the end of its handling.
        good: Whether it ended as it should.
    """

    function: str
    state: str
    summary: str
    user_data: Any
    seconds: float
    good: bool


@dataclass(slots=True)
class Look:
    """How far everything is.

    Args:
        submitted: Jobs that MPS took.
        ended: Jobs that have ended at MPS.
        handled: One line for each job whose handler has ended, by job id.
        set_aside: One line for each message set aside, by its number.
    """

    submitted: int = 0
    ended: int = 0
    handled: Mapping[str, str] = field(default_factory=dict)
    set_aside: Mapping[int, str] = field(default_factory=dict)


class View(AbstractContextManager["View"]):
    """What is seen while the demo runs.

    Args:
        console: Where to.
        jobs: How many jobs there are.
        strangers: How many messages are to be set aside.
    """

    def __init__(self, console: Console, *, jobs: int, strangers: int) -> None:
        self._console = console
        self._last = Look()
        self._progress: Progress | None = None
        if console.is_terminal:
            self._progress = Progress(
                SpinnerColumn(),
                TextColumn("{task.description:<32}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                console=console,
            )
            self._bars = {
                "submitted": self._progress.add_task("jobs submitted to MPS", total=jobs),
                "ended": self._progress.add_task("jobs ended at MPS", total=jobs),
                "handled": self._progress.add_task("jobs handled, results typed", total=jobs),
                "set_aside": self._progress.add_task("strange messages set aside", total=strangers),
            }

    def __enter__(self) -> Self:
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    def show(self, look: Look) -> None:
        """Show how far everything is; on a terminal in place, elsewhere what is new."""
        last, self._last = self._last, look
        if self._progress is not None:
            bars = self._bars
            self._progress.update(bars["submitted"], completed=look.submitted)
            self._progress.update(bars["ended"], completed=look.ended)
            self._progress.update(bars["handled"], completed=len(look.handled))
            self._progress.update(bars["set_aside"], completed=len(look.set_aside))
            return
        if look.submitted != last.submitted:
            self._line(f"submitted {look.submitted} jobs")
        if look.ended != last.ended:
            self._line(f"{look.ended} jobs have ended at MPS")
        for job_id in look.handled.keys() - last.handled.keys():
            self._line(look.handled[job_id])
        for number in look.set_aside.keys() - last.set_aside.keys():
            self._line(look.set_aside[number])

    def _line(self, text: str) -> None:
        self._console.print(Text(text), soft_wrap=True)


def print_rows(console: Console, rows: Sequence[Row]) -> None:
    """Print the table of the jobs."""
    table = Table(title="Jobs")
    table.add_column("FunctionName", no_wrap=True)
    table.add_column("State", no_wrap=True)
    table.add_column("Result", overflow="fold")
    table.add_column("UserData", overflow="fold")
    table.add_column("Seconds", justify="right", no_wrap=True)
    for row in rows:
        style = "" if row.good else "bold red"
        table.add_row(
            Text(row.function, style),
            Text(row.state or "missing", style),
            Text(row.summary),
            Text(json.dumps(row.user_data, ensure_ascii=False)),
            f"{row.seconds:.2f}",
        )
    console.print(table)
