"""The libraries that chaos runs preload do what they say, to a process of their own."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from tests.chaos.preload import Clock, KillPoint, compiled

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="LD_PRELOAD and /proc are Linux's")

_CLOCKS = """
import os, sys, time
for line in sys.stdin:
    true = time.clock_gettime(int(os.environ["CHAOS_TRUE_CLOCK"]))
    print(time.time() - true, time.monotonic(), flush=True)
"""

_COMMITS = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("CREATE TABLE one (number INTEGER)")
connection.execute("PRAGMA journal_mode = WAL")
connection.execute(f"PRAGMA synchronous = {sys.argv[2]}")
for number in range(20):
    connection.execute("INSERT INTO one VALUES (?)", (number,))
    print(number, flush=True)
"""


def test_a_step_moves_the_wall_clock_alone(tmp_path: Path) -> None:
    """A process's wall clock goes ahead and back as told while it runs; its monotonic clock is the machine's."""
    clock = Clock(tmp_path)
    command = [sys.executable, "-c", _CLOCKS]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **clock.environment}
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for offset_s in (0.0, 3600.0, -3600.0, 91 * 86_400.0, 0.0):
            clock.step(offset_s)
            process.stdin.write("\n")
            process.stdin.flush()
            shifted, monotonic = map(float, process.stdout.readline().split())
            assert shifted == pytest.approx(offset_s, abs=0.1)
            assert monotonic == pytest.approx(time.monotonic(), abs=5)
        process.stdin.close()


STEPS = ((100, 3600), (200, 0), (300, -3600), (400, 0))
"""When a clock steps and to which offset, both in seconds."""


def test_what_a_stepped_clock_wrote_down_is_set_right(tmp_path: Path) -> None:
    """The true time of a note is found for each offset that was in force, and for a note from before all steps."""
    clock = Clock(tmp_path)
    began_at = time.time() - 500
    clock.since = [(began_at + after_s, offset_s) for after_s, offset_s in STEPS]
    for after_s, offset_s in ((50, 0), (150, 3600), (250, 0), (350, -3600), (450, 0)):
        assert clock.true(began_at + after_s + offset_s) == pytest.approx(began_at + after_s)


def committed(folder: Path, point: KillPoint, synchronous: str) -> tuple[list[int], list[int]]:
    """The commits that a process had answered when it died at a point, and those that its file holds."""
    database = folder / "kept.db"
    process = subprocess.run(
        [sys.executable, "-c", _COMMITS, str(database), synchronous],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        env={**os.environ, **point.environment(compiled("kill", folder), database)},
    )
    assert process.returncode == -signal.SIGKILL, point
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        kept = [number for (number,) in connection.execute("SELECT number FROM one ORDER BY number")]
    return [int(line) for line in process.stdout.split()], kept


@pytest.mark.parametrize("how", ["before", "after", "torn", "lost", "mixed"])
def test_a_kill_leaves_each_commit_that_was_synced(tmp_path: Path, how: str) -> None:
    """Whatever a kill at a write takes with it: what SQLite had answered under FULL is there, in order and whole."""
    answered, kept = committed(tmp_path, KillPoint("wal", 20, how, seed=3), "FULL")
    assert 0 < len(answered) < 20
    assert kept[: len(answered)] == answered
    assert len(kept) <= len(answered) + 1


def test_a_power_loss_takes_what_was_not_synced(tmp_path: Path) -> None:
    """Where nothing is synced at a commit, a simulated power loss takes commits that were answered."""
    answered, kept = committed(tmp_path, KillPoint("wal", 20, "lost"), "NORMAL")
    assert len(kept) < len(answered)
