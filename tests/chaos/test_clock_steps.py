"""A step of the wall clock changes no outcome."""

from __future__ import annotations

import sys
from pathlib import Path

import anyio
import pytest

from consumer.sandbox import Sandbox
from tests.chaos.daemons import QUEUE, Launcher
from tests.chaos.faults import LONG_AHEAD_S
from tests.chaos.preload import Clock
from tests.chaos.stores import read_store
from tests.chaos.traffic import Sender, Watch

_JOBS = 4


async def _written(launcher: Launcher, what: str) -> None:
    with anyio.fail_after(15):
        while launcher.journal.read_text().split().count(what) < _JOBS:  # noqa: ASYNC110 - another process writes it
            await anyio.sleep(0.05)


@pytest.mark.skipif(sys.platform != "linux", reason="LD_PRELOAD needs Linux")
@pytest.mark.timeout(60)
async def test_a_step_of_the_clock_sets_nothing_aside(sandbox: Sandbox, tmp_path: Path) -> None:
    """A handler that fails while the clock is 91 days ahead is tried again, though its message looks expired."""
    sandbox.account.create(QUEUE, {"VisibilityTimeout": "3"})
    store = str(tmp_path / "ledger.db")
    with Launcher(sandbox, tmp_path, store, clock=Clock(tmp_path)) as launcher:
        assert launcher.clock is not None
        daemon = launcher.start()
        await daemon.serving()
        sender = Sender(sandbox, Watch(), seed=6)
        for _ in range(_JOBS):
            sender.send("fails_late")
        await _written(launcher, "begin")
        launcher.clock.step(LONG_AHEAD_S)
        await _written(launcher, "raise")
        await anyio.sleep(0.3)
        launcher.clock.step(0)
        await daemon.stop()
        stored = await read_store(store, launcher.clock.true)
    assert [letter.reason for letter in stored.letters] == []
    assert len(sandbox.messages(QUEUE)) == _JOBS
