"""A right that the keys lack is named in the log, for each call that needs one."""

from __future__ import annotations

from typing import Any, Final

import anyio
import pytest
from structlog.testing import capture_logs

from consumer.plugin.handler import Job, Retry
from consumer.rights import RIGHTS, RUN
from consumer.sandbox import Fault, Sandbox, SandboxJob
from tests.engine.rig import QUEUE, Serve, body, handlers


async def wants_result(job: Job[object]) -> None:
    """Asks MPS for its result."""


async def fails(job: Job) -> None:
    """Is to be retried, so its message is hidden."""
    raise Retry("later", after_s=100)


NEEDED: Final = [action for call in RUN for action in RIGHTS[call].actions]


async def test_the_rights_of_the_readme_are_enough(sandbox: Sandbox, serve: Serve) -> None:
    """With the actions that the README names and no other, 1,000 jobs are handled, some of them at a second try."""
    sandbox.grants.set(NEEDED)
    done: list[str] = []

    async def cover(job: Job) -> None:
        if job.job_id.endswith("99") and job.attempt == 1:
            raise Retry("once more", after_s=1)
        done.append(job.job_id)

    async def asks(job: Job[Any]) -> None:
        done.append(job.job_id)

    for number in range(950):
        sandbox.put(QUEUE, body(f"job-{number}").decode())
    for number in range(50):
        sandbox.add_job(SandboxJob(job_id=f"asks-{number}", function="Asks", result="{}"))
        sandbox.put(QUEUE, body(f"asks-{number}", "Asks").decode())
    with capture_logs() as lines:
        async with serve(handlers(Cover=cover, Asks=asks)) as daemon:
            await daemon.emptied(15)
    assert len(done) == len(set(done)) == 1000
    # That the event loop was blocked for a moment says how busy the machine is.
    expected = ("comes back", "event loop")
    loud = [line["event"] for line in lines if line["log_level"] in {"warning", "error"}]
    assert [event for event in loud if not any(text in event for text in expected)] == []


@pytest.mark.parametrize("action", NEEDED)
async def test_a_missing_action_is_named(
    sandbox: Sandbox, serve: Serve, monkeypatch: pytest.MonkeyPatch, action: str
) -> None:
    """Within seconds one log line names every action that the refused call needs."""
    monkeypatch.setattr("consumer.engine.lane._ATTRIBUTES_AGAIN_S", 0.2)
    (call,) = [call for call in RUN if action in RIGHTS[call].actions]
    sandbox.grants.set(other for other in NEEDED if other != action)
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
    assert action in named()[0]


async def test_a_denied_renewal_is_logged_once(sandbox: Sandbox, serve: Serve) -> None:
    """A lease that can't be renewed for lack of a right is one line with the action, and one when it works again."""
    sandbox.faults.add(Fault(kind="error", operations=("hide",), status=403, code="AccessDenied", count=2))
    queue = sandbox.account.get(QUEUE).queue
    queue.attributes = queue.attributes.changed({"VisibilityTimeout": "3"})
    sandbox.put(QUEUE, body().decode())
    renewed = anyio.Event()

    async def slow(job: Job) -> None:
        await renewed.wait()

    with capture_logs() as lines:

        def about_leases() -> list[Any]:
            return [line for line in lines if "hidden" in line["event"] and line["log_level"] != "debug"]

        async with serve(handlers(Cover=slow)) as daemon:
            await daemon.until(lambda: len(about_leases()) == 2)
            renewed.set()
            await daemon.emptied()
    denied, again = about_leases()
    assert "grant mns:ChangeMessageVisibility" in denied["error"]
    assert (again["event"], again["faults"]) == ("messages can be hidden again", 2)
