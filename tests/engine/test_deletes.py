"""Deletes that fail: tried while their receipts live, told once, and without them nothing runs again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import anyio
import pytest
from structlog.testing import capture_logs

from consumer.plugin.job import Job
from consumer.sandbox import Fault, Sandbox
from tests.engine.rig import QUEUE, Serve, body, handlers

BEGINS = "deletes fail; the outcomes are persisted, so redeliveries will only be deleted"
ENDS = "deletes work again"


async def nothing(job: Job) -> None:
    """Does nothing."""


def told(lines: Sequence[Mapping[str, object]]) -> list[object]:
    return [line["event"] for line in lines if line["event"] in {BEGINS, ENDS} and line["log_level"] != "debug"]


async def test_deletes_outlast_an_outage(sandbox: Sandbox, serve: Serve) -> None:
    """While deletes are answered by 503 few are made; afterwards the same handles delete. One line logs the start."""
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
    assert told(lines) in ([BEGINS], [BEGINS, ENDS])


@pytest.mark.timeout(90)
@pytest.mark.alone
async def test_refused_deletes_are_told_once(sandbox: Sandbox, serve: Serve) -> None:
    """Deletes that MNS refuses for good are one line at the start and one, with its length, at the end."""
    sandbox.account.create("brief", {"VisibilityTimeout": "1"})
    sandbox.faults.add(Fault(kind="error", status=403, code="AccessDenied", operations=("delete",)))
    with capture_logs() as lines:
        async with serve(handlers(Cover=nothing), notify_url=sandbox.notify_url("brief")) as daemon:
            for number in range(40):
                sandbox.put("brief", body(f"{number:032x}").decode())
            await daemon.until(lambda: daemon.count("deletes_total", queue="brief", result="failed") >= 40, 40)
            sandbox.faults.clear()
            await daemon.until(lambda: not sandbox.messages("brief"), 20)
            # Told of as over only when nothing has failed for a while.
            await anyio.sleep(5)
            sandbox.put("brief", body(f"{39:032x}").decode())
            await daemon.until(lambda: not sandbox.messages("brief"))
            assert daemon.count("jobs_total", queue="brief", function="Cover", outcome="done") == 40
    assert told(lines) == [BEGINS, ENDS]


async def test_a_stop_tries_its_deletes_until_the_deadline(sandbox: Sandbox, serve: Serve) -> None:
    """A stop while deletes fail tries on; one that works before the deadline deletes, and the stop ends with it."""
    sandbox.faults.add(Fault(kind="error", status=503, operations=("delete",)))
    sandbox.put(QUEUE, body().decode())
    async with serve(handlers(Cover=nothing), stop_deadline_s=8) as daemon:
        await daemon.until(lambda: daemon.count("jobs_total", queue=QUEUE, function="Cover", outcome="done") == 1)

        async def mend() -> None:
            await anyio.sleep(2)
            sandbox.faults.clear()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(mend)
            assert 1.5 < await daemon.stop() < 5
    assert not sandbox.messages(QUEUE)


async def test_many_that_can_not_be_deleted_hold_the_polls_back(sandbox: Sandbox, serve: Serve) -> None:
    """While deletes fail and many wait for it, no more is taken from the queue; afterwards all is handled once."""
    sandbox.faults.add(Fault(kind="error", status=503, operations=("delete",)))
    for number in range(900):
        sandbox.put(QUEUE, body(f"{number:032x}").decode())
    async with serve(handlers(Cover=nothing)) as daemon:
        await daemon.until(lambda: daemon.app.lanes[0].deletes.crowded)
        await anyio.sleep(1)
        # What was asked for already may still come: as many as there are places, and a poll's more.
        taken = daemon.count("messages_received_total", queue=QUEUE)
        assert taken <= 256 + 2 * 64 + 64
        assert not all(check.ok for check in daemon.app.vitals.ready())
        assert all(check.ok for check in daemon.app.vitals.live())
        await anyio.sleep(2)
        assert daemon.count("messages_received_total", queue=QUEUE) == taken
        sandbox.faults.clear()
        await daemon.emptied(15)
        assert daemon.count("jobs_total", queue=QUEUE, function="Cover", outcome="done") == 900
