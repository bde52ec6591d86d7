"""Every kind of outage: no hot loop, one line at its start and one with its length, and a prompt recovery.

Each lasts ``OUTAGE_SECONDS`` (4 by default; 30 for the long run), with messages waiting in the queue and handlers at
work when it begins.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path

import anyio
import pytest
from structlog.testing import capture_logs

from consumer.engine.lease_state import Stage
from consumer.plugin.handler import Job
from consumer.sandbox import Fault, Sandbox
from tests.certificates import make_certificate, serving
from tests.engine.rig import QUEUE, Daemon, Serve, body, handlers
from tests.postgres import store_through
from tests.tcp_proxy import TcpProxy

OUTAGE_S = float(os.environ.get("OUTAGE_SECONDS", "4"))
READ_DEADLINE_S = 12
"""The rig's long poll of 2 s and the client's margin of 10 s."""

pytestmark = pytest.mark.timeout(OUTAGE_S + READ_DEADLINE_S + 90)


BOTH_ENDS = ["polling failed; retrying until it works", "polling works again"]
"""What is logged of an outage of MNS, and nothing else above info."""


LOUD = {"warning", "error", "critical"}


async def slow(job: Job) -> None:
    """Is at work when the outage begins."""
    await anyio.sleep(1.5)


async def nothing(job: Job) -> None:
    """Does nothing."""


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    return make_certificate(tmp_path)


@pytest.fixture
async def secure(certificate: Path) -> AsyncIterator[Sandbox]:
    """A sandbox that speaks https."""
    async with Sandbox.on_free_port(tls=serving(certificate)) as running:
        running.account.ensure(QUEUE)
        yield running


def calls(daemon: Daemon) -> int:
    """Requests that the daemon began, answered or not."""
    return int(
        sum(
            sample.value
            for metric in daemon.app.metrics.registry.collect()
            if metric.name == "mns_consumer_api_requests"
            for sample in metric.samples
            if sample.name.endswith("_total")
        )
    )


async def outage(daemon: Daemon, begin: Callable[[], Awaitable[None]]) -> int:
    """Let an outage last while jobs run; returns the calls that were made in it, without its first second."""
    sandbox = daemon.sandbox
    await daemon.until(lambda: all(check.ok for check in daemon.app.vitals.ready()))
    for number in range(20):
        sandbox.put(QUEUE, body(f"{number:032x}", "Slow").decode())
    await daemon.until(lambda: sum(one.stage is Stage.RUNNING for one in daemon.app.lanes[0].deliveries) == 20)
    await begin()
    for number in range(20, 40):
        sandbox.put(QUEUE, body(f"{number:032x}").decode())
    await anyio.sleep(1)
    before = calls(daemon)
    await anyio.sleep(OUTAGE_S - 1)
    return calls(daemon) - before


async def recovers(daemon: Daemon, within_s: float) -> None:
    """A message that is sent after the outage is handled in time, and so are all earlier ones."""
    daemon.sandbox.put(QUEUE, body("f" * 32).decode())
    began_at = time.monotonic()
    await daemon.until(lambda: daemon.count("jobs_total", queue=QUEUE, function="Cover", outcome="done") >= 1, 60)
    assert time.monotonic() - began_at < within_s
    # What was hidden or deleted just before the outage, its answer lost, comes back when its lease is over.
    await daemon.until(lambda: daemon.count("jobs_total", queue=QUEUE, function="Cover", outcome="done") == 21, 70)
    assert daemon.count("jobs_total", queue=QUEUE, function="Slow", outcome="done") == 20


def outage_lines(lines: Sequence[Mapping[str, object]]) -> list[object]:
    """The events above info, and the one that ends an outage."""
    return [line["event"] for line in lines if line["log_level"] in LOUD or "outage_seconds" in line]


def fault(text: str) -> Callable[[Sandbox], Awaitable[None]]:
    async def begin(sandbox: Sandbox) -> None:
        sandbox.faults.add(Fault.parse(text))

    return begin


async def refused(sandbox: Sandbox) -> None:
    await sandbox.refuse_connections(OUTAGE_S)


@pytest.mark.parametrize(
    "begin",
    [
        pytest.param(refused, id="refused connections"),
        pytest.param(fault("html:status=200,operations=mns+mps"), id="200 HTML"),
        pytest.param(fault("error:status=403,code=InvalidAccessKeyId,operations=mns"), id="wrong keys"),
    ],
)
async def test_mns_is_gone(sandbox: Sandbox, serve: Serve, begin: Callable[[Sandbox], Awaitable[None]]) -> None:
    """While MNS is gone at most a few calls a second are made; 5 s after its return the next message is handled."""
    with capture_logs() as lines:
        async with serve(handlers(Cover=nothing, Slow=slow)) as daemon:
            made = await outage(daemon, lambda: begin(sandbox))
            sandbox.faults.clear()
            assert made <= 3 * OUTAGE_S
            await recovers(daemon, 5.5)
    assert outage_lines(lines) == BOTH_ENDS
    (end,) = [line for line in lines if "outage_seconds" in line]
    assert OUTAGE_S - 3 <= float(end["outage_seconds"]) <= OUTAGE_S + 6


async def test_sockets_hang_over_https(secure: Sandbox, serve: Serve, certificate: Path) -> None:
    """A socket that never answers, over https too, costs its read deadline; messages are handled within 5 s after."""
    async with serve(
        handlers(Cover=nothing, Slow=slow),
        endpoint=secure.url,
        notify_url=secure.notify_url(QUEUE),
        ca_file=str(certificate),
    ) as daemon:
        daemon.sandbox = secure
        made = await outage(daemon, lambda: fault("hang:operations=mns+mps")(secure))
        secure.faults.clear()
        assert made <= 3 * OUTAGE_S
        await recovers(daemon, READ_DEADLINE_S + 5)


async def test_the_database_is_gone(sandbox: Sandbox, serve: Serve, proxy: TcpProxy, schema: str) -> None:
    """While the database is gone there is no poll; within 5 s of its return each message is handled once."""
    with capture_logs() as lines:
        async with serve(handlers(Cover=nothing, Slow=slow), store=store_through(proxy, schema)) as daemon:
            before = sandbox.log.by_operation["BatchReceiveMessage"]
            await outage(daemon, proxy.refuse)
            # What was under way when it began, and perhaps one that met the fault.
            assert sandbox.log.by_operation["BatchReceiveMessage"] - before <= 8
            await proxy.accept()
            await recovers(daemon, 5.5)
        await proxy.refuse()
    assert outage_lines(lines) == ["store failed; polling pauses until it works", "store works again"]


async def test_an_untrusted_certificate_is_a_fault(secure: Sandbox, serve: Serve) -> None:
    """No request goes to a server with an untrusted certificate, and the fault names the setting to change."""
    async with serve(handlers(Cover=nothing), endpoint=secure.url, notify_url=secure.notify_url(QUEUE)) as daemon:
        await daemon.until(lambda: daemon.app.lanes[0].progress.fault is not None)
        assert "ca_file" in (daemon.app.lanes[0].progress.fault or "")
    assert secure.log.by_operation.total() == 0
