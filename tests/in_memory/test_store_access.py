"""While the store works, a single write that fails is retried alone."""

from __future__ import annotations

import anyio
import pytest
from structlog.testing import capture_logs

from consumer.engine.store_access import StoreAccess
from consumer.errors import StoreError
from tests.in_memory.ledger import MemoryLedger


async def test_one_write_that_fails_holds_no_other_back() -> None:
    """While the store works, a write that fails repeatedly is logged once, and all others succeed."""
    ledger = MemoryLedger()
    await ledger.open()
    store = StoreAccess(ledger)
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
    assert [line["event"] for line in lines] == [
        "a write fails though the store works; it is retried while its message is held",
        "all writes succeed again",
    ]


async def test_a_write_that_is_given_up_is_no_success() -> None:
    """A write that is given up is logged as failing; only one that succeeds ends that."""
    ledger = MemoryLedger()
    await ledger.open()
    store = StoreAccess(ledger)

    async def write() -> None:
        raise StoreError("its row is locked")

    with capture_logs() as lines, anyio.fail_after(60), pytest.raises(StoreError):
        await store.try_write(write)
    await ledger.close()
    assert [line["log_level"] for line in lines] == ["warning"]
