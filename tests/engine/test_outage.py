"""What a queue says of itself."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import anyio
import pytest
from structlog.testing import capture_logs

from consumer.app import App
from consumer.cloud.messages import QueueAttributes
from consumer.engine import lane
from consumer.errors import UsageError
from consumer.plugin.handler import Job
from consumer.sandbox import Sandbox
from tests.engine.rig import QUEUE, Serve, body, handlers


async def nothing(job: Job) -> None:
    """Does nothing."""


async def test_a_dead_letter_policy_of_the_queue_is_warned_of(
    sandbox: Sandbox, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A queue with a dead-letter policy of its own is one warning in the log, however often it is read."""
    monkeypatch.setattr(lane, "_ATTRIBUTES_EVERY_S", 0.05)
    with capture_logs() as lines:
        async with serve(handlers(Cover=nothing)) as daemon:
            queue: Any = daemon.app.lanes[0].queue
            read = queue.attributes

            async def with_policy() -> QueueAttributes:
                found: QueueAttributes = await read()
                return replace(found, dlq_policy="DeadLetterTargetQueue=dead MaxReceiveCount=3")

            monkeypatch.setattr(queue, "attributes", with_policy)
            await anyio.sleep(0.5)
    (warned,) = [line for line in lines if line["log_level"] == "warning"]
    assert "dead-letter policy" in warned["event"]
    assert warned["policy"] == "DeadLetterTargetQueue=dead MaxReceiveCount=3"


async def test_backlog_and_what_runs_are_metrics(
    sandbox: Sandbox, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MNS's counts, the wait until the first receipt, what is in flight by function and how MPS's jobs ended."""
    go_on = anyio.Event()

    async def waits(job: Job) -> None:
        await go_on.wait()

    monkeypatch.setattr(lane, "_COUNTS_EVERY_S", 0.05)
    for name in "ab":
        sandbox.put(QUEUE, body(name * 32).decode())
    await anyio.sleep(0.1)
    async with serve(handlers(Cover=waits), slots=1) as daemon:
        await daemon.until(lambda: daemon.count("function_in_flight", queue=QUEUE, function="Cover") == 1)
        await daemon.until(lambda: daemon.count("queue_messages", queue=QUEUE, state="active") == 1)
        await daemon.until(lambda: daemon.count("queue_messages", queue=QUEUE, state="inactive") == 1)
        assert daemon.count("queue_wait_seconds_sum", queue=QUEUE) >= 0.1
        go_on.set()
        labels = {"queue": QUEUE, "function": "Cover", "state": "Success", "code": "success"}
        await daemon.until(lambda: daemon.count("mps_jobs_total", **labels) == 2)
        assert daemon.count("function_in_flight", queue=QUEUE, function="Cover") == 0


async def test_queues_of_one_name_have_metrics_and_log_lines_of_their_own(sandbox: Sandbox, serve: Serve) -> None:
    """Two queues of one name in two regions have their identities in metrics and log; another keeps its name."""
    sandbox.account.ensure("films")
    here = sandbox.notify_url(QUEUE)
    urls = [here, here.replace("cn-hangzhou", "cn-beijing"), sandbox.notify_url("films")]
    account = sandbox.settings.account
    names = [f"{account}/cn-hangzhou/{QUEUE}", f"{account}/cn-beijing/{QUEUE}", "films"]
    with capture_logs() as lines:
        async with serve(handlers(Cover=nothing), notify_url=urls, slots=7) as daemon:
            counts = [daemon.count("slots", queue=name) for name in (*names, QUEUE)]
    assert counts == [7, 7, 7, 0]
    (started,) = [line for line in lines if line["event"] == "started"]
    assert started["queues"] == names
    app = App(daemon.app.settings, handlers(Cover=nothing))
    with pytest.raises(UsageError, match=f"expected one of {', '.join(names)}"):
        await app.run_job("a" * 32, QUEUE)
    with pytest.raises(UsageError, match="not an intelligent production job"):
        await app.run_job("a" * 32, names[0])
