"""What a queue says of itself."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import anyio
import pytest
from structlog.testing import capture_logs

from consumer.cloud.messages import QueueAttributes
from consumer.engine import lane
from consumer.plugin.handler import Job
from consumer.sandbox import Sandbox
from tests.engine.rig import QUEUE, Serve, handlers


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
