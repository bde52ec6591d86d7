"""A job is checked, recorded, sent once and followed to its end, against a real sandbox and both stores."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from pydantic import BaseModel

from consumer.client import Client, SyncClient
from consumer.errors import CloudError, SettingsError, StoreError, UsageError
from consumer.functions.caption_extraction import CaptionExtractionParams
from consumer.functions.cover import CoverParams, CoverResult
from consumer.message.notification import job_key
from consumer.policy import SubmissionState
from consumer.sandbox import Fault, Sandbox
from consumer.store.submissions import Submissions
from consumer.submissions.submitter import RequestRefusedError, SubmissionUnknown

MakeClient = Callable[..., Client]
FILM = "oss://b.oss-cn-hangzhou.aliyuncs.com/film.mp4"
STILLS = "oss://b.oss-cn-hangzhou.aliyuncs.com/{source}-{sequenceId}.jpg"
FILES: Any = {"input": FILM, "output": STILLS}


async def test_a_job_is_recorded_sent_and_followed(
    make_client: MakeClient, submissions: Submissions, sandbox: Sandbox
) -> None:
    """A submitted job is in the store with its JobId, notifies the client's queue, and its result is typed."""
    async with make_client() as client:
        job = await client.submit(CoverParams(), **FILES, user_data={"film": 7})
        recorded = await submissions.get(job.number)
        assert recorded is not None
        assert (recorded.state, recorded.job_id, recorded.function) == (
            SubmissionState.SUBMITTED,
            job.job_id,
            "Cover",
        )
        assert await submissions.find_job(job.job_id) == recorded
        end = await client.wait(job)
    assert (end.job_id, end.function, end.failed, end.user_data) == (job.job_id, "Cover", False, {"film": 7})
    assert isinstance(end.result, CoverResult)
    assert len(sandbox.messages("films")) == 1
    assert job.is_new
    assert job.queue == recorded.queue
    assert job_key(job.queue, job.job_id).startswith("1")


async def test_a_name_and_a_dict_work_too(make_client: MakeClient) -> None:
    """A function may be given by its name with its parameters as they are documented."""
    async with make_client() as client:
        job = await client.submit("Cover", {"Model": "gif"}, **FILES)
        end = await client.query(job)
        assert end is None or end.function == "Cover"
        assert (await client.wait(job.job_id)).function == "Cover"


async def test_a_wrong_request_is_refused_before_anything(
    make_client: MakeClient, submissions: Submissions, sandbox: Sandbox
) -> None:
    """Each problem is named with its field; nothing is recorded or sent. An inferred rule can be forced."""
    async with make_client() as client:
        with pytest.raises(RequestRefusedError) as caught:
            await client.submit("Cover", {"Model": "png"}, input="film.mp4", output=STILLS)
        assert {finding.field for finding in caught.value.findings} == {"Input", "JobParams.Model"}
        assert await submissions.get(1) is None
        assert not sandbox.jobs.all()
        with pytest.raises(RequestRefusedError):
            await client.submit("Covre", {}, **FILES)
        job = await client.submit("Covre", {}, **FILES, force=True)
        assert (await client.wait(job)).problem == "no model for FunctionName 'Covre'"


async def test_a_ref_is_submitted_once(make_client: MakeClient, sandbox: Sandbox) -> None:
    """Two processes that submit with the same ref at once, and one that does so later, get the same one job."""
    async with make_client() as one, make_client() as other:
        jobs = await asyncio.gather(
            *(client.submit(CoverParams(), **FILES, ref="film-7") for client in (one, other, one, other))
        )
        later = await one.submit(CoverParams(), **FILES, ref="film-7")
    assert {job.job_id for job in jobs} == {later.job_id}
    assert sum(job.is_new for job in jobs) == 1
    assert not later.is_new
    assert len(sandbox.jobs.all()) == 1


async def test_a_ref_of_another_request_is_refused(make_client: MakeClient) -> None:
    """A ref belongs to one request."""
    async with make_client() as client:
        await client.submit(CoverParams(), **FILES, ref="film-7")
        with pytest.raises(UsageError, match="ref 'film-7' belongs to submission 1"):
            await client.submit(CoverParams(model="gif"), **FILES, ref="film-7")


async def test_a_refusal_of_mps_is_recorded_and_may_be_repeated(
    make_client: MakeClient, submissions: Submissions, sandbox: Sandbox
) -> None:
    """A submission that MPS refuses is recorded as refused, and its ref can be sent again."""
    sandbox.faults.add(Fault(kind="error", status=400, code="InvalidParameter", operations=("submit",), count=1))
    async with make_client() as client:
        with pytest.raises(CloudError, match="InvalidParameter"):
            await client.submit(CoverParams(), **FILES, ref="film-7")
        refused = await submissions.find_ref("film-7")
        assert refused is not None
        assert refused.state is SubmissionState.REFUSED
        assert "InvalidParameter" in (refused.error or "")
        job = await client.submit(CoverParams(), **FILES, ref="film-7")
        assert job.number == refused.id
        assert job.is_new


async def test_a_lost_answer_is_unknown_and_never_repeated(
    make_client: MakeClient, submissions: Submissions, sandbox: Sandbox
) -> None:
    """Without an answer the submission is unknown, and the same ref raises the same instead of sending again."""
    sandbox.faults.add(Fault(kind="error", status=500, code="InternalError", operations=("submit",), count=1))
    async with make_client() as client:
        for _ in range(2):
            with pytest.raises(SubmissionUnknown, match="may exist and be billed"):
                await client.submit(CoverParams(), **FILES, ref="film-7")
        unknown = await submissions.find_ref("film-7")
    assert unknown is not None
    assert unknown.state is SubmissionState.UNKNOWN
    assert not sandbox.jobs.all()


async def test_a_cancelled_submission_is_unknown(
    make_client: MakeClient, submissions: Submissions, sandbox: Sandbox
) -> None:
    """A call that is cancelled before MPS answers is recorded as unknown."""
    sandbox.faults.add(Fault(kind="hang", operations=("submit",), count=1))
    async with make_client() as client:
        with anyio.move_on_after(1) as scope:
            await client.submit(CoverParams(), **FILES, ref="film-7")
        assert scope.cancelled_caught
    unknown = await submissions.find_ref("film-7")
    assert unknown is not None
    assert unknown.state is SubmissionState.UNKNOWN
    assert "interrupted" in (unknown.error or "")


async def test_what_can_not_be_recorded_is_not_sent(make_client: MakeClient, sandbox: Sandbox, tmp_path: Any) -> None:
    """Without a store nothing is sent."""
    async with make_client(store=str(tmp_path / "none.db")) as client:
        with pytest.raises(StoreError, match="no such file"):
            await client.submit(CoverParams(), **FILES)
    assert not sandbox.jobs.all()


async def test_a_failed_job_and_a_running_one(make_client: MakeClient) -> None:
    """A job that fails has MPS's code; one that runs on is a TimeoutError."""
    async with make_client() as client:
        fails = {"sandbox": {"fail": {"code": "InvalidFile", "message": "no film"}}}
        failed = await client.wait(await client.submit("Cover", fails, **FILES))  # type: ignore[arg-type]  # nested
        assert failed.failed
        stuck = await client.submit("Cover", {"sandbox": {"stuck": True}}, **FILES)
        with pytest.raises(TimeoutError, match="is still"):
            await client.wait(stuck, timeout_s=0.5)


class Film(BaseModel):
    """UserData of a model."""

    title: str


@pytest.mark.parametrize(
    ("given", "expected"),
    [("text", "text"), ({"a": "é"}, {"a": "é"}), ([1], [1]), (Film(title="Heat"), {"title": "Heat"}), (None, None)],
)
async def test_user_data_comes_back(make_client: MakeClient, given: Any, expected: object) -> None:
    """UserData is text, JSON or a model, and comes back decoded."""
    async with make_client() as client:
        end = await client.wait(await client.submit(CoverParams(), **FILES, user_data=given))
    assert end.user_data == expected


async def test_user_data_that_is_no_json_is_refused(make_client: MakeClient) -> None:
    """UserData that JSON can't hold is refused before anything is recorded."""
    async with make_client() as client:
        with pytest.raises(UsageError, match="user_data: expected text, JSON"):
            await client.submit(CoverParams(), **FILES, user_data={"a": object()})  # type: ignore[dict-item]


async def test_a_client_without_async_does_the_same(settings: dict[str, Any]) -> None:
    """SyncClient submits and waits from plain code, and its errors are the same."""

    def plain_code() -> None:
        with SyncClient(**settings) as client:
            job = client.submit(CoverParams(), **FILES, ref="film-7")
            assert client.wait(job).job_id == job.job_id
            with pytest.raises(RequestRefusedError):
                client.submit(CaptionExtractionParams(), input="x")
        with pytest.raises(RuntimeError, match="not open"):
            client.submit(CoverParams(), **FILES)

    await anyio.to_thread.run_sync(plain_code)


def test_a_queue_must_be_clear() -> None:
    """Without a queue, or with several and no name, the error lists them."""
    two = "mns://1.mns.cn-hangzhou.aliyuncs.com/queues/a mns://1.mns.cn-hangzhou.aliyuncs.com/queues/b"
    with pytest.raises(UsageError, match="none in the settings"):
        Client()
    with pytest.raises(UsageError, match=r"expected one of 1/cn-hangzhou/a, 1/cn-hangzhou/b"):
        Client(notify_url=two)
    Client(notify_url=two, queue="b")
    with pytest.raises(SettingsError, match="slots"):
        Client(notify_url=two, slots=0)
