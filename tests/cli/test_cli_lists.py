"""Lists on a terminal of 80 columns, and in a pipe."""

from __future__ import annotations

import asyncio
import os
import pty
import re
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len

from consumer.cli.output import age_text, cell_text, until_text
from consumer.cli.records import _NARROW_RUNNING
from tests.cli.letters_rig import fill, letter, record
from tests.stores import operators_at

Cli = Callable[..., Any]
ERROR = "expected a film of a known length, came one whose \u957f\u5ea6 is unknown to all; see its file " * 3


def on_a_terminal(*argv: str) -> list[str]:
    """The lines that a command prints on a terminal of 80 columns."""
    main_side, its_side = pty.openpty()
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "80"}
    process = subprocess.Popen([sys.executable, "-m", "consumer", *argv], stdout=its_side, stderr=its_side, env=env)
    os.close(its_side)
    parts: list[bytes] = []
    while True:
        try:
            parts.append(os.read(main_side, 65_536))
        except OSError:  # Linux says so when the other side has ended
            break
    os.close(main_side)
    assert process.wait(30) == 0
    # Heads are bold, which takes no column.
    return re.sub(r"\x1b\[[\d;]*m", "", b"".join(parts).decode()).splitlines()


def test_lists_fit_a_terminal(tmp_path: Path, cli: Cli) -> None:
    """A record is one line of at most 80 columns, with its age; a pipe and ``--wide`` have all of it."""
    store = str(tmp_path / "ledger.db")
    fill(store, [letter("dead", error=ERROR, function="VideoGreenScreenMatting")], [record("done")])
    for argv in (["jobs", "list"], ["dead-letters", "list"], ["dead-letters", "groups"]):
        head, *rows = on_a_terminal(*argv, "--store", store)
        assert len(rows) == (2 if argv[0] == "jobs" else 1)
        assert all(cell_len(line) <= 80 for line in (head, *rows))
        assert all(any(word[:-1].isdigit() and word[-1] in "sm" for word in row.split()) for row in rows)
        piped = cli(*argv, "--store", store).out.splitlines()
        assert len(piped) == len(rows) + 1
        assert not any(line.endswith(" ") for line in piped)
    assert " ".join(ERROR.split()) in cli("dead-letters", "list", "--store", store).out
    (wide,) = on_a_terminal("dead-letters", "list", "--wide", "--store", store)[1:]
    assert " ".join(ERROR.split()) in wide
    assert on_a_terminal("dead-letters", "list", "--store", store)[1].endswith("\u2026")


def test_what_a_narrow_list_says(tmp_path: Path) -> None:
    """80 columns have room for why a job is dead, and for whether a letter was replayed."""
    store = str(tmp_path / "ledger.db")
    fill(store, [letter("dead", error="no film"), letter("again")])
    asyncio.run(operators_at(store).begin_replay(2))
    head, *rows = on_a_terminal("jobs", "list", "--state", "dead", "--store", store)
    assert head.split() == ["age", "function", "job_id", "reason", "error"]
    assert any(row.endswith("rejected  no film") for row in rows)
    head, waits, replayed = on_a_terminal("dead-letters", "list", "--store", store)
    assert head.split()[:3] == ["id", "age", "state"]
    assert (waits.split()[2], replayed.split()[2]) == ("-", "replaying")


def test_running_jobs_on_a_terminal() -> None:
    """80 columns have room for the function of a running job and for how long its claim holds."""
    assert _NARROW_RUNNING == ("since", "attempt", "function", "held_until", "job_id")
    held = datetime.fromtimestamp(time.time() + 300.5, UTC).isoformat()
    assert cell_text("held_until", held, is_narrow=True) == "in 5m"


def test_functions_on_a_terminal_and_in_a_pipe(tmp_path: Path, cli: Cli) -> None:
    """A terminal gets a table of its width; a pipe a line for each function, with every column."""
    folder = tmp_path / "handlers"
    folder.mkdir()
    (folder / "own.py").write_text(
        'from mns_consumer import Job, handler\n\n\n@handler("Cover")\ndef own(job: Job) -> None: ...\n',
        encoding="utf-8",
    )
    table = on_a_terminal("functions", "--handlers", str(folder))
    assert all(cell_len(line) <= 80 for line in table)
    assert any("none: its messages are set" in line for line in table)
    head, *rows = cli("functions", "--handlers", str(folder)).out.splitlines()
    assert {len(line.split()) for line in (head, *rows) if "own.py" not in line} == {6}
    (own,) = [line for line in rows if "own.py" in line]
    assert own.split()[:2] == ["Cover", "own"]


def test_help_fits_a_terminal(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command's help has 80 columns and shows the settings that matter to it; it takes the others all the same."""
    monkeypatch.setenv("COLUMNS", "80")
    for words in (["jobs", "list"], ["dead-letters", "replay"], ["store", "info"], ["queue", "peek"]):
        shown = cli(*words, "--help").out
        assert all(cell_len(line) <= 80 for line in shown.splitlines())
        assert ("--store" in shown) == (words[0] != "queue")
        assert ("--notify-url" in shown) == (words[-1] in {"replay", "peek"})
        assert "--slots" not in shown
        assert len(shown.splitlines()) <= 70
    assert "--slots" in cli("run", "--help").out
    assert cli("store", "info", "--store", "mysql://x", "--slots", "3").code == 78


def test_a_next_try() -> None:
    """It is said how long it is until then; it is due once its time is over."""
    now_s = time.time()
    times = {0.0: "", now_s - 1: "due", now_s + 30.9: "in 30s", now_s + 7_300: "in 2h"}
    assert {at: until_text(at) for at in times} == times


def test_ages() -> None:
    """An age has one unit, the largest that is full; the future is now."""
    now_s = time.time()
    ages = {0.0: "", now_s + 60: "0s", now_s - 5: "5s", now_s - 61: "1m", now_s - 7_300: "2h", now_s - 900_000: "10d"}
    assert {at: age_text(at) for at in ages} == ages
