"""A right that the keys lack is named in the log of the daemon, whichever call needs it."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from structlog.testing import capture_logs

from consumer.plugin.job import Job, Retry
from consumer.rights import RIGHTS, RUN
from consumer.sandbox import Fault, Sandbox
from tests.engine.rig import QUEUE, Serve, body, handlers


async def wants_result(job: Job[object]) -> None:
    """Asks MPS for its result."""


async def fails(job: Job) -> None:
    """Is to be retried, so its message is hidden."""
    raise Retry("later", after_s=100)


@pytest.mark.parametrize("call", RUN)
async def test_a_missing_right_is_named(
    sandbox: Sandbox, serve: Serve, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """Within seconds one log line names every action that the refused call needs; others do not."""
    monkeypatch.setattr("consumer.engine.upkeep._ATTRIBUTES_AGAIN_S", 0.2)
    code = "Forbidden.RAM" if RIGHTS[call].service == "mts" else "AccessDenied"
    sandbox.faults.add(Fault(kind="error", operations=(call,), status=403, code=code))
    function = {"QueryIProductionJob": "Asks", "ChangeMessageVisibility": "Fails"}.get(call, "Cover")
    sandbox.put(QUEUE, body(function=function).decode())

    async def nothing(job: Job) -> None:
        """Does nothing."""

    with capture_logs() as lines:

        def named() -> list[str]:
            return [str(line["error"]) for line in lines if "error" in line and line["log_level"] == "warning"]

        async with serve(handlers(Cover=nothing, Asks=wants_result, Fails=fails)) as daemon:
            await daemon.until(lambda: bool(named()))
    assert len(named()) == 1
    assert f"grant {' and '.join(RIGHTS[call].actions)} to the user or role of these keys" in named()[0]


async def test_a_denied_renewal_is_logged_once(sandbox: Sandbox, serve: Serve) -> None:
    """A lease that can't be renewed for want of a right is one line with the action, and one when it works again."""
    sandbox.faults.add(Fault(kind="error", operations=("hide",), status=403, code="AccessDenied", count=2))
    queue = sandbox.account.get(QUEUE).queue
    queue.attributes = queue.attributes.changed({"VisibilityTimeout": "3"})
    sandbox.put(QUEUE, body().decode())
    renewed = anyio.Event()

    async def slow(job: Job) -> None:
        await renewed.wait()

    with capture_logs() as lines:

        def about_leases() -> list[Any]:
            return [line for line in lines if "lease" in line["event"] and line["log_level"] != "debug"]

        async with serve(handlers(Cover=slow)) as daemon:
            await daemon.until(lambda: len(about_leases()) == 2)
            renewed.set()
            await daemon.emptied()
    denied, again = about_leases()
    assert "grant mns:ChangeMessageVisibility" in denied["error"]
    assert (again["event"], again["faults"]) == ("leases are renewed again", 2)
