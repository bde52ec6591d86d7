"""The C libraries that chaos runs preload work."""

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

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="LD_PRELOAD and /proc need Linux")

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


def test_a_step_moves_only_the_wall_clock(tmp_path: Path) -> None:
    """Steps move the wall clock of a running process ahead and back; its monotonic clock is the machine's."""
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


def test_the_true_time_of_a_record_is_found(tmp_path: Path) -> None:
    """It is found for each offset that was in force, and for a record from before all steps."""
    clock = Clock(tmp_path)
    began_at = time.time() - 500
    clock.steps = [(began_at + after_s, offset_s) for after_s, offset_s in STEPS]
    for after_s, offset_s in ((50, 0), (150, 3600), (250, 0), (350, -3600), (450, 0)):
        assert clock.true(began_at + after_s + offset_s) == pytest.approx(began_at + after_s)


def committed(folder: Path, point: KillPoint, synchronous: str) -> tuple[list[int], list[int]]:
    """The commits that a process had reported when it died at a point, and those in its file."""
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
    """After any kill at a write every commit that SQLite reported under FULL is there, in order."""
    reported, kept = committed(tmp_path, KillPoint("wal", 20, how, seed=3), "FULL")
    assert 0 < len(reported) < 20
    assert kept[: len(reported)] == reported
    assert len(kept) <= len(reported) + 1


def test_a_power_loss_undoes_what_was_not_synced(tmp_path: Path) -> None:
    """If commits are not synced, a simulated power loss undoes commits that were reported."""
    reported, kept = committed(tmp_path, KillPoint("wal", 20, "lost"), "NORMAL")
    assert len(kept) < len(reported)
