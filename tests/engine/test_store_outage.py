"""While the store is gone messages stay in their queue and polling pauses; both recover without a restart."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import pytest
from structlog.testing import capture_logs

from consumer.plugin.handler import Job
from consumer.sandbox import Sandbox
from tests.engine.rig import QUEUE, Serve, body, handlers
from tests.postgres import store_through
from tests.tcp_proxy import TcpProxy


@pytest.fixture
async def target(proxy: TcpProxy, schema: str) -> AsyncIterator[str]:
    """The store's address through the proxy, in a schema of the test's own."""
    yield store_through(proxy, schema)
    # A test that failed half-way may leave a session in a transaction: without its connection it ends.
    await proxy.refuse()


async def test_a_database_that_goes_away_pauses_the_polls(
    sandbox: Sandbox, serve: Serve, proxy: TcpProxy, target: str
) -> None:
    """While the database is gone nothing is polled or lost; two lines are logged; afterwards each job runs once."""
    runs: dict[str, int] = {}

    async def cover(job: Job) -> None:
        runs[job.job_id] = runs.get(job.job_id, 0) + 1

    with capture_logs() as lines:
        async with serve(handlers(Cover=cover), store=target) as daemon:
            sandbox.put(QUEUE, body("1" * 32).decode())
            await daemon.emptied()
            await proxy.refuse()
            sandbox.put(QUEUE, body("2" * 32).decode())
            await daemon.until(lambda: not all(check.ok for check in daemon.app.vitals.ready()))
            before = sandbox.log.by_operation["BatchReceiveMessage"]
            sandbox.put(QUEUE, body("3" * 32).decode())
            await anyio.sleep(2.5)
            assert sandbox.log.by_operation["BatchReceiveMessage"] - before <= 1
            assert len(sandbox.messages(QUEUE)) == 2
            assert all(check.ok for check in daemon.app.vitals.live())
            await proxy.accept()
            await daemon.emptied(13)
            assert all(check.ok for check in daemon.app.vitals.ready())
    assert runs == {"1" * 32: 1, "2" * 32: 1, "3" * 32: 1}
    events = [line["event"] for line in lines if line["event"].startswith("store")]
    assert events == ["store failed; polling pauses until it works", "store works again"]
