"""A daemon on SQLite that is killed at its N-th sync or write loses no job, and repeats only runs that were cut."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.chaos.kills import KillCampaign, kill_at
from tests.chaos.preload import KillPoint
from tests.chaos.verdict import Verdict

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
"""At the creation of the file, at commits and at checkpoints, with and without a power loss."""


@pytest.mark.skipif(sys.platform != "linux", reason="LD_PRELOAD and /proc need Linux")
@pytest.mark.timeout(120)
def test_kills_during_writes_lose_no_end(tmp_path: Path) -> None:
    """Eight daemons die during writes, on two files: no end is lost, and every repeat is caused by a kill."""

    def killed(number: int) -> tuple[KillCampaign, Verdict]:
        folder = tmp_path / str(number)
        folder.mkdir()
        return kill_at(POINTS[number::2], folder, seed=number)

    # Most of the time they wait.
    with ThreadPoolExecutor(2) as threads:
        campaigns = list(threads.map(killed, range(2)))
    for campaign, verdict in campaigns:
        figures = campaign.figures(verdict)
        print(f"\n{figures}")  # noqa: T201 - the figures are the result
        assert not verdict.wrong, figures
        assert campaign.missed == [], figures
