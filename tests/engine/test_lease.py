"""Leases on a real queue: kept from receipt to settle, handed over, distinguished when lost."""

from __future__ import annotations

import pytest

from consumer.plugin.handler import Job, Limits, Note, build
from consumer.plugin.registry import Registry
from consumer.sandbox import Fault, Sandbox
from tests.engine.rig import Daemon, Runs, Serve, body

SHORT = "short"


@pytest.fixture
def short(sandbox: Sandbox) -> str:
    """A queue whose messages come back after 3 s; its NotifyUrl."""
    sandbox.account.create(SHORT, {"VisibilityTimeout": "3"})
    return sandbox.notify_url(SHORT)


def registry(runs: Runs, **limits: int) -> Registry:
    async def cover(job: Job) -> None:
        await runs.once()

    return Registry({"Cover": build(cover, Note("Cover", Limits(**limits)))})


async def empty(daemon: Daemon, within_s: float = 12) -> None:
    await daemon.until(lambda: not daemon.sandbox.messages(SHORT), within_s)


async def test_a_handler_longer_than_the_visibility_runs_once(sandbox: Sandbox, serve: Serve, short: str) -> None:
    """A handler that runs longer than the queue's visibility timeout keeps its message and runs once."""
    runs = Runs(5)
    sandbox.put(SHORT, body().decode())
    async with serve(registry(runs), notify_url=short, lease_step_s=10) as daemon:
        await empty(daemon)
        assert daemon.count("lease_renewals_total", queue=SHORT, result="renewed") >= 1
    assert (runs.begun, runs.ended) == (1, 1)


async def test_a_message_that_comes_back_while_it_runs_is_not_run_again(
    sandbox: Sandbox, serve: Serve, short: str
) -> None:
    """A redelivery during the run hands its receipt handle over and causes no second run."""
    runs = Runs(1)
    sandbox.put(SHORT, body().decode())
    sandbox.faults.add(Fault(kind="duplicate", count=1))
    async with serve(registry(runs), notify_url=short) as daemon:
        await empty(daemon)
        assert daemon.count("messages_received_total", queue=SHORT) >= 2
    assert runs.begun == 1
