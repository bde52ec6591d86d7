"""A step of the wall clock changes no outcome and removes no record."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
from structlog.testing import capture_logs

from consumer.engine import store_access
from consumer.plugin.handler import Job, Reject, Retry
from consumer.sandbox import Sandbox
from tests.engine.rig import QUEUE, Serve, body, handlers

STEP_S = 91 * 86_400.0


@pytest.mark.parametrize("step_s", [STEP_S, -STEP_S])
async def test_a_step_changes_no_outcome(
    sandbox: Sandbox, serve: Serve, monkeypatch: pytest.MonkeyPatch, step_s: float
) -> None:
    """A message whose handler fails after the clock jumped by months is tried again, not set aside as expiring."""
    runs: list[int] = []
    jumped = SimpleNamespace(time=lambda: time.time() + step_s, monotonic=time.monotonic)

    async def cover(job: Job) -> None:
        runs.append(job.attempt)
        if job.attempt == 1:
            monkeypatch.setattr("consumer.engine.delivery.time", jumped)
            raise Retry("not yet", after_s=1)

    sandbox.put(QUEUE, body().decode())
    async with serve(handlers(Cover=cover)) as daemon:
        await daemon.until(lambda: runs == [1, 2])
        monkeypatch.undo()
        await daemon.emptied()
        assert not await daemon.letters()


async def test_a_step_removes_nothing(
    sandbox: Sandbox, serve: Serve, monkeypatch: pytest.MonkeyPatch, store: Mapping[str, str]
) -> None:
    """While the store's clock is months off MNS's, no ended job or dead letter is pruned; one log line says why."""

    async def cover(job: Job) -> None:
        if job.job_id == "bad":
            raise Reject("no")

    monkeypatch.setattr(store_access, "_PRUNE_EVERY_S", 0.05)
    with capture_logs() as lines:
        async with serve(handlers(Cover=cover), **store) as daemon:
            ledger: Any = daemon.app.lanes[0].store.ledger
            really, removed = ledger.now, ledger.prune
            pruned: list[int] = []

            async def ahead() -> float:
                return float(await really()) + STEP_S

            async def watched(**ages: Any) -> int:
                pruned.append(await removed(**ages))
                return pruned[-1]

            monkeypatch.setattr(ledger, "now", ahead)
            monkeypatch.setattr(ledger, "prune", watched)
            for job_id in ("good", "bad"):
                sandbox.put(QUEUE, body(job_id).decode())
            await daemon.emptied()
            await anyio.sleep(0.3)
            warnings = [str(line.get("error")) for line in lines if line["log_level"] == "warning"]
            assert len(warnings) == 1
            assert "off the clock of MNS" in warnings[0]
            assert pruned == []
            monkeypatch.setattr(ledger, "now", really)
            await daemon.until(lambda: bool(pruned))
            # Submissions are pruned after it, and then it is logged.
            await daemon.until(lambda: "pruning works again" in [line["event"] for line in lines])


async def test_a_store_with_another_clock_is_logged(serve: Serve, store: Mapping[str, str]) -> None:
    """Both stores return the time of the clock with which they write."""

    async def cover(job: Job) -> None:
        """Never called."""

    async with serve(handlers(Cover=cover), **store) as daemon:
        assert abs(await daemon.app.lanes[0].store.ledger.now() - time.time()) < 5
