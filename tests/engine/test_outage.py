"""Outages: paced, told once at each end, over as soon as their cause."""

from __future__ import annotations

import time

import anyio
import pytest
from structlog.testing import capture_logs

from consumer.engine.pacing import Outage
from consumer.errors import CloudError, StoreError
from consumer.errors import Fault as Why
from consumer.plugin.job import Job
from consumer.sandbox import Fault, Sandbox
from tests.engine.rig import QUEUE, Serve, body, handlers


async def nothing(job: Job) -> None:
    """Does nothing."""


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(Fault(kind="error", status=503, xml=False, operations=("receive",)), id="503 without XML"),
        pytest.param(Fault(kind="html", status=502, operations=("receive",)), id="502 HTML"),
        pytest.param(Fault(kind="html", status=200, operations=("receive",)), id="200 HTML"),
        pytest.param(Fault(kind="drop", operations=("receive",)), id="dropped connections"),
        pytest.param(
            Fault(kind="error", status=403, code="SignatureDoesNotMatch", operations=("receive",)), id="wrong keys"
        ),
    ],
)
async def test_an_outage_is_paced_and_told_twice(sandbox: Sandbox, serve: Serve, fault: Fault) -> None:
    """During an outage few calls are made, one line tells its start, one its end, and work resumes within 5 s."""
    sandbox.faults.add(fault)
    with capture_logs() as lines:
        async with serve(handlers(Cover=nothing)) as daemon:
            await anyio.sleep(2)
            calls = sandbox.log.by_operation["BatchReceiveMessage"]
            assert 1 <= calls <= 8
            assert not all(check.ok for check in daemon.app.vitals.ready())
            assert all(check.ok for check in daemon.app.vitals.live())
            sandbox.faults.clear()
            sandbox.put(QUEUE, body().decode())
            over_at = time.monotonic()
            await daemon.emptied(7)
            assert time.monotonic() - over_at < 5.5
            assert all(check.ok for check in daemon.app.vitals.ready())
    told = [line["event"] for line in lines if line["event"].startswith("polling")]
    assert told == ["polling failed; trying on until it works", "polling works again"]


async def test_shed_polls_lower_their_number(sandbox: Sandbox, serve: Serve) -> None:
    """Empty answers that come at once lead to pauses instead of a hot loop, and are counted."""
    sandbox.faults.add(Fault(kind="early_empty"))
    async with serve(handlers(Cover=nothing), wait_s=30) as daemon:
        await anyio.sleep(2.5)
        assert sandbox.log.by_operation["BatchReceiveMessage"] <= 4
        assert daemon.count("polls_total", queue=QUEUE, result="shed") >= 1
        sandbox.faults.clear()
        sandbox.put(QUEUE, body().decode())
        await daemon.emptied()


async def test_joining_polls_empty_a_full_queue(sandbox: Sandbox, serve: Serve) -> None:
    """While answers come full, more polls join; all messages are handled in full batches."""
    for number in range(320):
        sandbox.put(QUEUE, body(f"{number:032x}").decode())
    async with serve(handlers(Cover=nothing)) as daemon:
        await daemon.emptied()
        assert daemon.count("jobs_total", queue=QUEUE, function="Cover", outcome="done") == 320
        assert sandbox.log.by_operation["BatchReceiveMessage"] <= 320 / 16 + 8


def test_pauses_grow_and_slow_faults_are_tried_slowly() -> None:
    """Pauses for passing faults grow to at most 4 s; faults that wait for a person are tried every 5 s at first."""
    outage = Outage("begins", "ends")
    refused = CloudError(Why.NETWORK, operation="x", target="q", code="c", detail="d")
    pauses = [outage.failed(refused) for _ in range(20)]
    assert pauses[0] <= 0.5
    assert max(pauses) <= 4
    assert min(pauses[8:]) >= 2
    wrong = CloudError(Why.CREDENTIALS, operation="x", target="q", code="c", detail="d")
    assert outage.failed(wrong) == 5
    assert outage.failed(StoreError("disk full")) <= 4
