"""A daemon whose wall clock steps in the middle of its work decides nothing by that."""

from __future__ import annotations

import sys
from pathlib import Path

import anyio
import pytest

from consumer.sandbox import Sandbox
from tests.chaos.daemons import QUEUE, Nest
from tests.chaos.edges import LONG_AHEAD_S
from tests.chaos.preload import Clock
from tests.chaos.stored import read_store
from tests.chaos.traffic import Sender, Watch

_JOBS = 4


async def _noted(nest: Nest, word: str) -> None:
    with anyio.fail_after(15):
        while nest.journal.read_text().split().count(word) < _JOBS:  # noqa: ASYNC110 - another process writes it
            await anyio.sleep(0.05)


@pytest.mark.skipif(sys.platform != "linux", reason="LD_PRELOAD is Linux's")
@pytest.mark.timeout(60)
async def test_a_step_of_the_clock_sets_nothing_aside(sandbox: Sandbox, tmp_path: Path) -> None:
    """Handlers that fail while the clock is 91 days ahead are to be tried again, however old their messages look."""
    sandbox.account.create(QUEUE, {"VisibilityTimeout": "3"})
    store = str(tmp_path / "ledger.db")
    with Nest(sandbox, tmp_path, store, clock=Clock(tmp_path)) as nest:
        assert nest.clock is not None
        daemon = nest.start()
        await daemon.serving()
        sender = Sender(sandbox, Watch(), seed=6)
        for _ in range(_JOBS):
            sender.send("fails_late")
        await _noted(nest, "begin")
        nest.clock.step(LONG_AHEAD_S)
        await _noted(nest, "raise")
        await anyio.sleep(0.3)
        nest.clock.step(0)
        await daemon.stop()
        stored = await read_store(store, nest.clock.true)
    assert [letter.reason for letter in stored.letters] == []
    assert len(sandbox.messages(QUEUE)) == _JOBS
