"""A daemon on SQLite that is killed at its N-th sync or write loses nothing and repeats nothing but what was cut."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.chaos.book import Verdict
from tests.chaos.kills import Siege, kill_at
from tests.chaos.preload import KillPoint

POINTS = (
    KillPoint("sync", 2, "before"),
    KillPoint("wal", 40, "torn"),
    KillPoint("sync", 6, "after"),
    KillPoint("sync", 12, "lost"),
    KillPoint("wal", 70, "mixed", seed=5),
    KillPoint("wal", 15, "before"),
    KillPoint("database", 3, "lost"),
    KillPoint("database", 2, "torn"),
)
"""Of a file that is being made, of commits, and of writing back the WAL, with and without a power loss."""


@pytest.mark.skipif(sys.platform != "linux", reason="LD_PRELOAD and /proc are Linux's")
@pytest.mark.timeout(120)
def test_no_deletion_is_missing_from_the_ledger_after_kills_amid_writes(tmp_path: Path) -> None:
    """Eight daemons die amid writes, on two files at once: no end is lost, every repeat is a killed daemon's."""

    def siege(number: int) -> tuple[Siege, Verdict]:
        folder = tmp_path / str(number)
        folder.mkdir()
        return kill_at(POINTS[number::2], folder, seed=number)

    # Most of the time is waiting.
    with ThreadPoolExecutor(2) as threads:
        sieges = list(threads.map(siege, range(2)))
    for besieged, verdict in sieges:
        figures = besieged.figures(verdict)
        print(f"\n{figures}")  # noqa: T201 - the run's figures are what it is for
        assert not verdict.wrong, figures
        assert besieged.missed == [], figures
