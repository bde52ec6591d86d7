"""A forged message that was handled unverified does not keep the true one from being handled."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

import pytest

from consumer.app import App
from consumer.plugin.handler import Job, Limits, Note, build
from consumer.plugin.registry import Registry
from consumer.policy import Reason
from consumer.sandbox import Sandbox, SandboxJob
from tests.engine.rig import QUEUE, Daemon, Serve, body, handlers

JOB_ID = "a" * 32


def true_job(sandbox: Sandbox, state: Any = "Success", **more: Any) -> None:
    sandbox.add_job(SandboxJob(job_id=JOB_ID, state=state, user_data="true", result=more.pop("result", "{}"), **more))


async def send(daemon: Daemon, *bodies: bytes) -> None:
    for each in bodies:
        daemon.sandbox.put(QUEUE, each.decode())
        await daemon.emptied()


TRUE = body(JOB_ID, UserData="true")


async def test_a_handler_that_checks_nothing_steals_no_job(
    sandbox: Sandbox, serve: Serve, store: Mapping[str, str]
) -> None:
    """After a forged FunctionName was handled unchecked, the true message's own handler runs, once."""
    runs: list[tuple[str, object]] = []

    async def cover(job: Job[Any]) -> None:
        runs.append(("Cover", job.user_data))

    async def rest(job: Job) -> None:
        runs.append(("*", job.user_data))

    true_job(sandbox)
    async with serve(handlers(**{"Cover": cover, "*": rest}), **store) as daemon:
        await send(daemon, body(JOB_ID, "Whatever", UserData="forged"), TRUE, TRUE)
        assert not await daemon.letters() if not store else True
    assert runs == [("*", "forged"), ("Cover", "true")]


async def test_forged_user_data_hides_no_true_one(sandbox: Sandbox, serve: Serve) -> None:
    """A handler that ran unchecked with forged UserData runs once more with MPS's UserData, and then no more."""
    runs: list[object] = []

    async def cover(job: Job) -> None:
        runs.append(job.user_data)

    true_job(sandbox)
    async with serve(handlers(Cover=cover)) as daemon:
        await send(daemon, body(JOB_ID, UserData="forged"), TRUE, TRUE, body(JOB_ID, UserData="another"))
        (letter,) = await daemon.letters()
    assert runs == ["forged", "true"]
    assert (letter.letter.reason, letter.letter.body) == (Reason.CONTRADICTED, body(JOB_ID, UserData="another"))


async def test_jobs_run_brings_the_true_job_back(sandbox: Sandbox, serve: Serve) -> None:
    """A job that a forged message ended can be handled by its id, from MPS's own answer."""
    runs: list[object] = []

    async def cover(job: Job) -> None:
        runs.append(job.user_data)

    true_job(sandbox)
    registry = handlers(Cover=cover)
    async with serve(registry) as daemon:
        await send(daemon, body(JOB_ID, UserData="forged"))
        settings = daemon.app.settings
    assert await App(settings, registry).run_job(JOB_ID) == "done"
    assert runs == ["forged", "true"]


async def test_a_stuck_handler_ends_its_job(sandbox: Sandbox, serve: Serve) -> None:
    """While its thread still runs, another message of the same job starts no second one."""
    runs: list[str] = []

    def stuck(job: Job) -> None:
        runs.append(job.job_id)
        time.sleep(2)

    registry = Registry({"Cover": build(stuck, Note("Cover", Limits(timeout_s=0.1, max_hold_s=1)))})
    async with serve(registry, stuck_limit=9) as daemon:
        await send(daemon, body(JOB_ID), body(JOB_ID))
    assert runs == [JOB_ID]


@pytest.mark.parametrize("type_", ["Cover", "../../pwned", "-rf"])
async def test_an_unknown_type_passes_for_no_function(sandbox: Sandbox, serve: Serve, type_: str) -> None:
    """The Type of an unknown message is not used as FunctionName, and its result is not used."""
    seen: list[tuple[str, str, object]] = []

    async def rest(job: Job[Any]) -> None:
        seen.append((job.function, job.kind, job.result))

    forged: dict[str, Any] = {"Type": type_, "JobId": JOB_ID, "State": "Success", "Result": '{"Data":"{}"}'}
    async with serve(handlers(**{"*": rest}), verify="always") as daemon:
        await send(daemon, json.dumps(forged).encode())
    assert seen == [("unknown", "unknown", forged)]


async def test_the_code_of_a_checked_job_is_mps_s(sandbox: Sandbox, serve: Serve) -> None:
    """A forged Code of a job that succeeded, or failed with a Result, reaches no handler."""
    seen: list[tuple[str | None, str | None]] = []

    async def cover(job: Job[Any]) -> None:
        seen.append((job.code, job.message))

    true_job(sandbox, result='{"Code": "Success", "Message": "well", "Data": "{}"}')
    failed = SandboxJob(job_id="f", state="Fail", result='{"Code": "InvalidFile", "Message": "no video"}')
    sandbox.add_job(failed)
    async with serve(handlers(Cover=cover)) as daemon:
        await send(daemon, body(JOB_ID, UserData="true", Code="Forged", Message="forged"))
        await send(daemon, body("f", State="Fail", Code="Forged", Message="forged"))
    assert seen == [("Success", "well"), ("InvalidFile", "no video")]


async def test_progress_of_an_event_is_no_end(sandbox: Sandbox, serve: Serve) -> None:
    """Each event of one job that is no end is handled, and the end that follows too."""
    seen: list[str] = []

    async def event(job: Job) -> None:
        seen.append(job.state)

    def event_body(status: str) -> bytes:
        return json.dumps({"EventType": "E", "MessageBody": {"JobId": "j", "Status": status}}).encode()

    async with serve(handlers(ImsEvent=event)) as daemon:
        await send(daemon, *(event_body(status) for status in ("Processing", "Processing", "Success", "Success")))
        assert not await daemon.letters()
    assert seen == ["Processing", "Processing", "Success"]
