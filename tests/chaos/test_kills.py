"""A daemon on SQLite that is killed at its N-th sync or write loses nothing and repeats nothing but what was cut."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.chaos.kills import kill_at
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
    """Eight daemons that die amid writes, one after the other: no end is lost, every repeat is a killed daemon's."""
    siege, verdict = kill_at(POINTS, tmp_path, seed=12)
    figures = siege.figures(verdict)
    print(f"\n{figures}")  # noqa: T201 - the run's figures are what it is for
    assert not verdict.wrong, figures
    assert siege.missed == [], figures
