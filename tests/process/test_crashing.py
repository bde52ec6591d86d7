"""A message whose handler kills the process every time, and the messages beside it."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from consumer.policy import Reason
from consumer.sandbox import Sandbox
from consumer.sandbox.queue import State
from consumer.store.ledger import Filter
from tests.engine.rig import body
from tests.process.rig import Process
from tests.stores import operators_at

HANDLERS = """
import os
import signal
import anyio
from mns_consumer import Job, handler

@handler("Cover")
async def cover(job: Job) -> None:
    # Long enough to be caught by every crash of the other one's.
    await anyio.sleep(0.6)

@handler("VideoClip")
async def kills(job: Job) -> None:
    await anyio.sleep(0.3)
    os.kill(os.getpid(), signal.SIGKILL)
"""
NEIGHBOURS = 6


def show(sandbox: Sandbox) -> None:
    """Make visible what the process that died had held, in place of waiting for its leases."""
    queue = sandbox.account.get("crash").queue
    for message in sandbox.messages("crash"):
        if message.state is State.INACTIVE:
            queue.revoke(message)


@pytest.mark.timeout(120)
async def test_the_message_that_kills_is_set_aside_and_its_neighbours_end_done(
    sandbox: Sandbox, tmp_path: Path, started: list[Process]
) -> None:
    """A daemon that is restarted sets the message aside after five recorded starts; all others are done."""
    sandbox.account.create("crash", {"VisibilityTimeout": "30"})
    for number in range(NEIGHBOURS):
        sandbox.put("crash", body(f"{number:032x}").decode())
        if number == NEIGHBOURS // 2:
            sandbox.put("crash", body("f" * 32, "VideoClip").decode())
    deaths = 0
    while sandbox.messages("crash"):
        daemon = Process(sandbox, tmp_path, f"notify_url={sandbox.notify_url('crash')}", handlers=HANDLERS)
        started.append(daemon)
        while daemon.process.poll() is None and sandbox.messages("crash"):  # noqa: ASYNC110 - both are of others
            await anyio.sleep(0.05)
        if daemon.process.poll() is None:
            assert await daemon.stop() == 0
        else:
            deaths += 1
            assert deaths <= 8
            show(sandbox)
    operators = operators_at(str(tmp_path / "ledger.db"))
    letters = await operators.list_letters(Filter(), limit=10)
    jobs = await operators.list_jobs(Filter(), limit=20)
    await operators.close()
    assert [(letter.letter.job.job_id, letter.letter.reason) for letter in letters] == [("f" * 32, Reason.CRASHING)]
    assert sum(not job.dead for job in jobs) == NEIGHBOURS
    # One start that is not written down, the first, and five that are.
    assert deaths == 6
