"""Failing deletes are tried while their receipt handles are valid, logged once, and cause no second run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import anyio
from structlog.testing import capture_logs

from consumer.plugin.handler import Job
from consumer.sandbox import Fault, Sandbox
from tests.engine.rig import QUEUE, Serve, body, handlers

BEGINS = "deletes fail; the outcomes are persisted, so redeliveries will only be deleted"
ENDS = "deletes work again"


async def nothing(job: Job) -> None:
    """Does nothing."""


def outage_lines(lines: Sequence[Mapping[str, object]]) -> list[object]:
    return [line["event"] for line in lines if line["event"] in {BEGINS, ENDS} and line["log_level"] != "debug"]


async def test_deletes_outlast_an_outage(sandbox: Sandbox, serve: Serve) -> None:
    """While deletes are answered by 503 few are sent; afterwards the same handles work. One line logs the start."""
    sandbox.faults.add(Fault(kind="error", status=503, operations=("delete",)))
    for number in range(60):
        sandbox.put(QUEUE, body(f"{number:032x}").decode())
    with capture_logs() as lines:
        async with serve(handlers(Cover=nothing)) as daemon:
            await daemon.until(lambda: daemon.count("jobs_total", queue=QUEUE, function="Cover", outcome="done") == 60)
            await anyio.sleep(4)
            assert sandbox.log.by_operation["BatchDeleteMessage"] <= 32
            sandbox.faults.clear()
            await daemon.emptied()
            assert daemon.count("messages_received_total", queue=QUEUE) == 60
    # Its end is logged by the first success that is five seconds after the last fault.
    assert outage_lines(lines) in ([BEGINS], [BEGINS, ENDS])
