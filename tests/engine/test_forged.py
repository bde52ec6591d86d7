"""Forged notifications decide no job's end, and each leaves a trace.

Each row of the table is sent before the true notification of its job, after it, and without it, to both stores, with
handlers that want a result and, under ``verify = "always"``, with handlers that want none.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import pytest

from consumer.cloud.messages import Message, Receipt
from consumer.engine.process import process
from consumer.plugin.handler import Job
from consumer.policy import Reason
from consumer.sandbox import Sandbox, SandboxJob
from consumer.store.ledger import Filter, StoredLetter
from tests.engine.rig import QUEUE, Daemon, Serve, body, handlers
from tests.stores import operators_at

USER_DATA: Final = '{"album": 7}'
RESULT: Final = {"Code": "Success", "Data": '{"result":[{"file":"true.jpg"}]}'}
FORGED_RESULT: Final = {"Code": "Success", "Data": '{"result":[{"file":"forged.jpg"}]}'}


@dataclass(frozen=True)
class Forgery:
    """One forged notification of a job.

    Args:
        name: What is forged; the job's id too.
        fields: What it says in place of the true notification; ``None`` leaves a field out.
        reason: Why it is set aside; ``None`` where it only says what is true, and so may stand for the true one.
        state: How its job has really ended.
        carried: How the notification is carried.
    """

    name: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    reason: Reason | None = Reason.CONTRADICTED
    state: Literal["Success", "Fail"] = "Success"
    carried: Literal["base64", "raw", "topic"] = "base64"

    @property
    def job_id(self) -> str:
        """The id of the job that it is about."""
        return self.name.replace(" ", "-")

    def true(self) -> dict[str, Any]:
        """What MPS sends."""
        return {
            "Type": "IProduction",
            "FunctionName": "Cover",
            "JobId": self.job_id,
            "State": self.state,
            "Code": "Success" if self.state == "Success" else "InvalidFile",
            "UserData": USER_DATA,
        }

    def body(self) -> str:
        """What is sent in its place."""
        said = {name: value for name, value in {**self.true(), **self.fields}.items() if value is not None}
        text = json.dumps(said)
        if self.carried == "topic":
            return json.dumps({"TopicName": "t", "SubscriptionName": "s", "Message": text})
        return text if self.carried == "raw" else base64.b64encode(text.encode()).decode()


CONTRADICTED, UNDECODABLE, UNROUTED = Reason.CONTRADICTED, Reason.UNDECODABLE, Reason.UNROUTED
TABLE: Final = (
    Forgery("a result of its own", {"Result": json.dumps(FORGED_RESULT)}, None),
    Forgery("a result as an object", {"Result": FORGED_RESULT}, None),
    Forgery("data of its own", {"Data": FORGED_RESULT["Data"]}, None),
    Forgery("a failure", {"State": "Fail", "Code": "Forged", "Message": "forged"}),
    Forgery("a failure with a result", {"State": "Fail", "Result": json.dumps(FORGED_RESULT)}),
    Forgery("a failure raw", {"State": "Fail"}, carried="raw"),
    Forgery("a failure through a topic", {"State": "fail"}, carried="topic"),
    Forgery("a success", {"State": "Success", "Code": "Success"}, state="Fail"),
    Forgery("a success with a result", {"State": "Success", "Result": FORGED_RESULT}, state="Fail"),
    Forgery("a success misspelt", {"State": "Succes"}, state="Fail"),
    Forgery("another function", {"FunctionName": "VideoClip"}),
    Forgery("another function that failed", {"FunctionName": "VideoClip", "State": "Fail"}),
    Forgery("an unknown function", {"FunctionName": "Unheard"}, UNROUTED),
    Forgery("the function in lower case", {"FunctionName": "cover"}, UNROUTED),
    Forgery("a function that is a path", {"FunctionName": "../Cover"}, UNDECODABLE),
    Forgery("other user data", {"UserData": '{"album": 8}'}),
    Forgery("user data of another type", {"UserData": "x"}),
    Forgery("user data as a list", {"UserData": [USER_DATA]}),
    Forgery("no user data", {"UserData": None}, None),
    Forgery("user data with its keys in a row", {"UserData": '{"album":7}'}, None),
    Forgery("all that can differ", {"FunctionName": "VideoClip", "State": "Fail", "UserData": "x"}),
    Forgery("a job that does not exist", {"JobId": "0" * 32}, Reason.NOT_IPRODUCTION),
    Forgery("an id that is a path", {"JobId": "../../pwned"}, UNDECODABLE),
    Forgery("an id that is a number", {"JobId": 7}, UNDECODABLE),
    Forgery("two ids", {"jobId": "another"}, UNDECODABLE),
    Forgery("an unknown state", {"State": "Completed"}, UNDECODABLE),
    Forgery("another kind", {"Type": "Transcode"}, UNROUTED),
    Forgery("an event", {"Type": None, "FunctionName": None, "EventType": "E", "MessageBody": "{}"}, UNROUTED),
)
"""What ends otherwise than as a dead letter says nothing but the truth, or is no end: see the tests below."""


@dataclass
class Runs:
    """What the handlers of a test saw, by job."""

    by_job: dict[str, list[tuple[Any, ...]]] = field(default_factory=dict)

    def add(self, handler: str, job: Job[Any, Any]) -> None:
        result = None if job.failed or job.input is None else job.result_or_none
        files = [file["file"] for file in result["result"]] if isinstance(result, dict) else None
        self.by_job.setdefault(job.job_id, []).append(
            (handler, job.function, job.state, job.failed, job.user_data, files)
        )


def true_run(forgery: Forgery, *, wants_result: bool) -> tuple[Any, ...]:
    """What the handler must see of a job: MPS's values, not the notification's."""
    failed = forgery.state == "Fail"
    files = ["true.jpg"] if wants_result and not failed else None
    return ("Cover", "Cover", forgery.state, failed, {"album": 7}, files)


async def letters_of(daemon: Daemon, store: Mapping[str, str]) -> list[StoredLetter]:
    operators = operators_at(store.get("store", str(daemon.store)))
    try:
        return list(await operators.list_letters(Filter(), limit=1000))
    finally:
        await operators.close()


@pytest.mark.parametrize("wants_result", [True, False], ids=["results", "always"])
@pytest.mark.parametrize("when", ["before", "after", "without"])
async def test_a_forged_notification_decides_nothing(
    sandbox: Sandbox, serve: Serve, store: Mapping[str, str], *, when: str, wants_result: bool
) -> None:
    """The true job's handler runs once with MPS's values, and the forgery is a dead letter that says why."""
    seen = Runs()

    async def cover(job: Job[Any]) -> None:
        seen.add("Cover", job)

    async def clip(job: Job[Any]) -> None:
        seen.add("VideoClip", job)

    async def bare_cover(job: Job) -> None:
        seen.add("Cover", job)

    async def bare_clip(job: Job) -> None:
        seen.add("VideoClip", job)

    for forgery in TABLE:
        result = RESULT if forgery.state == "Success" else {"Code": "InvalidFile", "Message": "no picture"}
        sandbox.add_job(
            SandboxJob(job_id=forgery.job_id, state=forgery.state, user_data=USER_DATA, result=json.dumps(result))
        )
    by_name = {"Cover": cover, "VideoClip": clip} if wants_result else {"Cover": bare_cover, "VideoClip": bare_clip}
    forged = [forgery.body() for forgery in TABLE]
    true = [body(**forgery.true()).decode() for forgery in TABLE] if when != "without" else []
    verify = "results" if wants_result else "always"
    async with serve(handlers(**by_name), verify=verify, **store) as daemon:
        for bodies in (true, forged) if when == "after" else (forged, true):
            for each in bodies:
                sandbox.put(QUEUE, each)
            await daemon.emptied()
        letters = await letters_of(daemon, store)
    reasons = {letter.letter.body.decode(): letter.letter.reason for letter in letters}
    assert {each.name: reasons.pop(each.body(), None) for each in TABLE} == {each.name: each.reason for each in TABLE}
    assert not reasons
    expected = {
        each.job_id: [true_run(each, wants_result=wants_result)]
        for each in TABLE
        if when != "without" or each.reason is None
    }
    assert seen.by_job == expected


async def test_a_state_that_is_no_end_ends_nothing(sandbox: Sandbox, serve: Serve) -> None:
    """A forged intermediate state is deleted, and the true notification is handled after it."""
    runs: list[str] = []

    async def cover(job: Job) -> None:
        runs.append(job.state)

    async with serve(handlers(Cover=cover)) as daemon:
        sandbox.put(QUEUE, body(State="Analysing").decode())
        await daemon.emptied()
        sandbox.put(QUEUE, body().decode())
        await daemon.emptied()
        assert not await daemon.letters()
    assert runs == ["Success"]


async def test_a_failure_is_asked_about_for_every_handler(sandbox: Sandbox, serve: Serve) -> None:
    """A forged failure is set aside by default too; a handler without a result gets a true failure with MPS's text."""
    seen: list[tuple[str, bool, str | None]] = []

    async def cover(job: Job) -> None:
        seen.append((job.job_id, job.failed, job.code))

    sandbox.add_job(SandboxJob(job_id="good", state="Success"))
    sandbox.add_job(SandboxJob(job_id="bad", state="Fail", code="InvalidFile"))
    async with serve(handlers(Cover=cover)) as daemon:
        for job_id in ("good", "bad"):
            sandbox.put(QUEUE, body(job_id, State="Fail", Code="Forged").decode())
        await daemon.emptied()
        (letter,) = await daemon.letters()
    assert (letter.letter.job.job_id, letter.letter.reason) == ("good", Reason.CONTRADICTED)
    assert seen == [("bad", True, "InvalidFile")]


async def test_an_early_notification_ends_nothing(sandbox: Sandbox, serve: Serve) -> None:
    """A forged success of a running job is set aside after the wait; the true one is still handled."""
    runs: list[str] = []

    async def cover(job: Job[Any]) -> None:
        runs.append(job.job_id)

    job_id = "a" * 32
    sandbox.add_job(SandboxJob(job_id=job_id, state="Analysing"))
    async with serve(handlers(Cover=cover), result_wait_s=0.001) as daemon:
        sandbox.put(QUEUE, body(job_id).decode())
        await daemon.emptied()
        (letter,) = await daemon.letters()
        assert letter.letter.reason is Reason.RESULT_NOT_READY
        sandbox.add_job(SandboxJob(job_id=job_id, state="Success", result=json.dumps(RESULT)))
        sandbox.put(QUEUE, body(job_id).decode())
        await daemon.emptied()
        assert len(await daemon.letters()) == 1
    assert runs == [job_id]


async def test_a_message_is_set_aside_once(sandbox: Sandbox, serve: Serve) -> None:
    """A message that is delivered again after it was set aside leaves no second letter, though its job is open."""

    async def cover(job: Job[Any]) -> None:
        raise AssertionError(job.job_id)

    job_id = "a" * 32
    sandbox.add_job(SandboxJob(job_id=job_id, state="Fail", user_data="x"))
    async with serve(handlers(Cover=cover)) as daemon:
        sent = sandbox.put(QUEUE, body(job_id).decode())
        await daemon.emptied()
        # As after a delete that got lost: the same message is received once more.
        lane, receipt = daemon.app.lanes[0], Receipt("gone", time.monotonic() + 60)
        again = Message(sent.message_id, body(job_id), time.time(), time.time(), 2, 8, None, {}, {}, receipt)
        assert lane.slots.take_now(1)
        assert await process(lane, lane.receive(again)) == "duplicate"
        assert len(await daemon.letters()) == 1


async def test_an_inline_result_is_used_only_where_it_is_trusted(sandbox: Sandbox, serve: Serve) -> None:
    """With ``trust_inline_result`` the message's own result is used, and MPS is not queried."""
    files: list[str] = []

    async def cover(job: Job[Any]) -> None:
        files.append(job.result["result"][0]["file"])

    sandbox.put(QUEUE, body(Result=json.dumps(FORGED_RESULT)).decode())
    async with serve(handlers(Cover=cover), trust_inline_result=True) as daemon:
        await daemon.emptied()
    assert files == ["forged.jpg"]
    assert sandbox.log.by_operation["QueryIProductionJob"] == 0


async def test_a_success_that_wrote_nothing_is_a_failed_job(sandbox: Sandbox, serve: Serve) -> None:
    """A job whose files are the text of a failed write reaches its handler as failed, with a code that says so."""
    seen: list[tuple[bool, str | None]] = []

    async def cover(job: Job[Any]) -> None:
        seen.append((job.failed, job.code))

    text = "oss fail to save the image in the given bucket"
    job_id = "a" * 32
    sandbox.add_job(
        SandboxJob(job_id=job_id, result=json.dumps({"Code": "Success", "Data": json.dumps([{"Url": text}])}))
    )
    sandbox.put(QUEUE, body(job_id).decode())
    async with serve(handlers(Cover=cover)) as daemon:
        await daemon.emptied()
    assert seen == [(True, "OutputNotWritten")]
