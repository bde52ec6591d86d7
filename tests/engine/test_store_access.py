"""The gate in front of the store: shut while it is down, open when only one write fails."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest
from structlog.testing import capture_logs

from consumer.engine import upkeep
from consumer.engine.store_access import StoreAccess
from consumer.errors import StoreError
from consumer.plugin.job import Job
from consumer.sandbox import Sandbox
from consumer.store.open import make_ledger
from tests.engine.rig import QUEUE, Serve, body, handlers


async def nothing(job: Job) -> None:
    """Does nothing."""


async def test_one_write_that_fails_holds_nobody_back(tmp_path: Path) -> None:
    """While the store works, a write that fails again and again is told once, and the gate is open for all others."""
    ledger = make_ledger(str(tmp_path / "ledger.db"))
    await ledger.open()
    seen: list[bool] = []
    store = StoreAccess(ledger, seen.append)
    tries = 0

    async def stubborn() -> str:
        nonlocal tries
        tries += 1
        if tries < 5:
            raise StoreError("its row is locked")
        return "written"

    with capture_logs() as lines, anyio.fail_after(15):
        assert await store.persist(stubborn) == "written"
        assert tries == 5
        assert store.is_up
    await ledger.close()
    assert seen == []
    assert [line["event"] for line in lines] == [
        "a write fails though the store works; it is retried while its message is held",
        "all writes succeed again",
    ]


async def test_a_failing_clean_up_stops_no_message(
    sandbox: Sandbox, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When old records can't be removed, that is told once, and messages are handled as ever."""
    monkeypatch.setattr(upkeep, "_PRUNE_EVERY_S", 0.05)
    with capture_logs() as lines:
        async with serve(handlers(Cover=nothing)) as daemon:

            async def broken(**_: object) -> int:
                raise StoreError("no room to delete in")

            monkeypatch.setattr(daemon.app.lanes[0].store.ledger, "prune", broken)
            for number in range(100):
                sandbox.put(QUEUE, body(f"{number:032x}").decode())
                await anyio.sleep(0.005)
            await daemon.emptied()
            assert daemon.app.lanes[0].store.is_up
    told = [line["event"] for line in lines if line["log_level"] == "warning"]
    assert told == ["old records can't be pruned; retried every minute"]
