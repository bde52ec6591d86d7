"""The gate in front of the store: shut while it is down, open when only one write fails."""

from __future__ import annotations

import anyio
from structlog.testing import capture_logs

from consumer.engine.store_access import StoreAccess
from consumer.errors import StoreError
from tests.in_memory.ledger import MemoryLedger


async def test_one_write_that_fails_holds_no_other_back() -> None:
    """While the store works, a write that fails again and again is told once, and the gate is open for all others."""
    ledger = MemoryLedger()
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
