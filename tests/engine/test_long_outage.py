"""Outages of the network kind: refused connections, hung sockets over http and https, wrong keys, a missing queue.

Each lasts ``OUTAGE_SECONDS`` (4 by default; 30 for the long run).
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

import anyio
import pytest
from structlog.testing import capture_logs

from consumer.plugin.job import Job
from consumer.sandbox import Fault, Sandbox, SandboxSettings
from tests.certificates import make_certificate, serving
from tests.engine.rig import QUEUE, Daemon, Serve, body, handlers

OUTAGE_S = float(os.environ.get("OUTAGE_SECONDS", "4"))
READ_DEADLINE_S = 12
"""The rig's long poll of 2 s and the client's margin of 10 s."""

pytestmark = pytest.mark.timeout(OUTAGE_S + READ_DEADLINE_S + 25)


async def nothing(job: Job) -> None:
    """Does nothing."""


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    return make_certificate(tmp_path)


@pytest.fixture
async def secure(certificate: Path) -> AsyncIterator[Sandbox]:
    """A sandbox that speaks https."""
    async with Sandbox(SandboxSettings(port=0, tls=serving(certificate))) as running:
        running.account.ensure(QUEUE)
        yield running


async def outage(daemon: Daemon, fault: Fault | None) -> int:
    """Let a fault last; returns the calls that were made meanwhile."""
    sandbox = daemon.sandbox
    await daemon.until(lambda: all(check.ok for check in daemon.app.vitals.ready()))
    before = sandbox.log.by_operation.total()
    if fault is None:
        await sandbox.refuse_connections(OUTAGE_S)
    else:
        sandbox.faults.add(fault)
    await anyio.sleep(OUTAGE_S)
    sandbox.faults.clear()
    return sandbox.log.by_operation.total() - before


async def recovers(daemon: Daemon, within_s: float) -> None:
    """The next message is handled in time."""
    daemon.sandbox.put(QUEUE, body().decode())
    began_at = time.monotonic()
    await daemon.emptied(within_s + 2)
    assert time.monotonic() - began_at < within_s


def told(lines: Sequence[Mapping[str, object]]) -> list[object]:
    return [line["event"] for line in lines if str(line["event"]).startswith("polling")]


BOTH_ENDS = ["polling failed; trying on until it works", "polling works again"]


async def test_refused_connections(sandbox: Sandbox, serve: Serve) -> None:
    """While connections are refused nothing spins; within 5 s of their return the next message is handled."""
    with capture_logs() as lines:
        async with serve(handlers(Cover=nothing)) as daemon:
            await outage(daemon, None)
            await recovers(daemon, 5)
            faults = daemon.count("api_requests_total", operation="BatchReceiveMessage", result="network")
            assert faults <= 3 + 2 * OUTAGE_S
    assert told(lines) == BOTH_ENDS


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(Fault(kind="error", status=429, operations=("mns",)), id="429"),
        pytest.param(Fault(kind="error", status=403, code="InvalidAccessKeyId", operations=("mns",)), id="wrong keys"),
        pytest.param(Fault(kind="error", status=404, code="QueueNotExist", operations=("mns",)), id="missing queue"),
    ],
)
async def test_answers_that_refuse(sandbox: Sandbox, serve: Serve, fault: Fault) -> None:
    """While every call is refused few are made, and within 5 s of its end work goes on."""
    with capture_logs() as lines:
        async with serve(handlers(Cover=nothing)) as daemon:
            calls = await outage(daemon, fault)
            assert calls <= 6 + 2 * OUTAGE_S
            await recovers(daemon, 5.5)
    assert told(lines) == BOTH_ENDS


async def test_hung_sockets(sandbox: Sandbox, serve: Serve) -> None:
    """A socket that never answers costs its read deadline, then work goes on within 5 s."""
    async with serve(handlers(Cover=nothing)) as daemon:
        calls = await outage(daemon, Fault(kind="hang", operations=("receive",)))
        assert calls <= 6
        await recovers(daemon, READ_DEADLINE_S + 5)


async def test_hung_sockets_over_https(secure: Sandbox, serve: Serve, certificate: Path) -> None:
    """The same over https, where the vendor's SDK has no time limit at all."""
    async with serve(
        handlers(Cover=nothing), endpoint=secure.url, notify_url=secure.notify_url(QUEUE), ca_file=str(certificate)
    ) as daemon:
        daemon.sandbox = secure
        await outage(daemon, Fault(kind="hang", operations=("receive",)))
        await recovers(daemon, READ_DEADLINE_S + 5)


async def test_an_untrusted_certificate_is_told(secure: Sandbox, serve: Serve) -> None:
    """A server whose certificate nobody vouches for is not talked to, and the fault names the setting to change."""
    async with serve(handlers(Cover=nothing), endpoint=secure.url, notify_url=secure.notify_url(QUEUE)) as daemon:
        await daemon.until(lambda: daemon.app.lanes[0].progress.fault is not None)
        assert "ca_file" in (daemon.app.lanes[0].progress.fault or "")
    assert secure.log.by_operation.total() == 0
