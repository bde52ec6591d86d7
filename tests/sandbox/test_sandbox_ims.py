"""IMS: jobs submitted, queried and cancelled by the vendor's IMS client unchanged, and the events of their ends."""

import asyncio
import json
import re
from base64 import b64decode
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from alibabacloud_tea_openapi.exceptions import ClientException
from alibabacloud_tea_openapi.models import Config
from anyio.to_thread import run_sync
from darabonba.exceptions import UnretryableException

from consumer.message.notification import Notification, decode
from consumer.sandbox import Fault, Sandbox
from consumer.sandbox.ims_jobs import ImsJob, functions
from consumer.sandbox.settings import AccountKeys
from tests.missing import missing

try:
    from alibabacloud_ice20201109.client import Client
    from alibabacloud_ice20201109.models import (
        CancelIProductionJobRequest,
        QueryIProductionJobRequest,
        SetEventCallbackRequest,
        SubmitIProductionJobRequest,
        SubmitIProductionJobRequestInput,
        SubmitIProductionJobRequestOutput,
        SubmitIProductionJobRequestScheduleConfig,
    )
except ImportError:
    missing("alibabacloud-ice20201109 is not installed: make the environment again by bash tests/run.sh --quick")

QUEUE = "ice-callback-films"
INPUT = {"type": "OSS", "media": "oss://films/in/a film.mp4"}
OUTPUT = {"type": "OSS", "media": "oss://films/out/{source}-{sequenceId}.x"}


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    other = AccountKeys(access_key_id="other", access_key_secret="sandbox", account="99")
    async with Sandbox.on_free_port(job_s=0, more_keys=[other]) as running:
        running.account.create(QUEUE)
        yield running


def client_of(sandbox: Sandbox, key: str = "sandbox") -> Client:
    endpoint = sandbox.url.removeprefix("http://")
    return Client(Config(access_key_id=key, access_key_secret="sandbox", protocol="http", endpoint=endpoint))


def request_of(function: str = "Cover", **changed: Any) -> SubmitIProductionJobRequest:
    values = {
        "function_name": function,
        "job_params": "{}",
        "input": SubmitIProductionJobRequestInput(**INPUT),
        "output": SubmitIProductionJobRequestOutput(**OUTPUT),
        **changed,
    }
    return SubmitIProductionJobRequest(**values)


async def submitted(sandbox: Sandbox, function: str = "Cover", **changed: Any) -> str:
    answer = await client_of(sandbox).submit_iproduction_job_async(request_of(function, **changed))
    assert set(answer.body.to_map()) == {"RequestId", "JobId"}
    return str(answer.body.job_id)


async def queried(sandbox: Sandbox, job_id: str, key: str = "sandbox") -> dict[str, Any]:
    answer = await client_of(sandbox, key).query_iproduction_job_async(QueryIProductionJobRequest(job_id=job_id))
    return dict(answer.body.to_map())


async def ended(sandbox: Sandbox, job_id: str) -> dict[str, Any]:
    async with asyncio.timeout(10):
        while not sandbox.tenants.own.ims_jobs.all()[-1].has_ended:  # noqa: ASYNC110 - no event to wait on
            await asyncio.sleep(0.001)
    return await queried(sandbox, job_id)


async def listen(sandbox: Sandbox) -> None:
    """Let the events of the account come into its queue, as the vendor's client does it."""
    request = SetEventCallbackRequest(callback_type="MNS", callback_queue_name=QUEUE, event_type_list="Any")
    assert (await client_of(sandbox).set_event_callback_async(request)).body.success is True


def ordering(**orders: Any) -> str:
    return json.dumps({"sandbox": orders})


async def test_a_job_from_submit_to_event(sandbox: Sandbox) -> None:
    """The async client submits with all it can give, gets it back with files and signed URLs, and an event comes."""
    await listen(sandbox)
    schedule = SubmitIProductionJobRequestScheduleConfig(pipeline_id="p", priority=3)
    more = {"name": "a cover", "template_id": "t", "user_data": "é", "schedule_config": schedule}
    job_id = await submitted(sandbox, **more)
    assert re.fullmatch("[0-9a-f]{32}", job_id)
    job = await ended(sandbox, job_id)
    files, urls, created, finished = (
        job.pop(name) for name in ("OutputFiles", "OutputUrls", "CreateTime", "FinishTime")
    )
    assert files == [f"oss://films/out/a film-0000{number}.x" for number in range(1, 6)]
    assert len(urls) == 5
    assert re.fullmatch(r"https://films\.oss-cn-hangzhou\.aliyuncs\.com/out/a%20film-00001\.x\?Expires=.*", urls[0])
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", time) for time in (created, finished))
    assert json.loads(job.pop("Result"))[0]["Url"] == "out/a film-00001.x"
    assert job.pop("RequestId")
    assert job == {
        "JobId": job_id,
        "Name": "a cover",
        "FunctionName": "Cover",
        "Status": "Success",
        "Input": {"Type": "OSS", "Media": INPUT["media"]},
        "Output": {"Type": "OSS", "Media": OUTPUT["media"]},
        "JobParams": "{}",
        "TemplateId": "t",
        "ScheduleConfig": {"PipelineId": "p", "Priority": 3},
        "UserData": "é",
        "OutputMediaIds": [],
    }
    (message,) = sandbox.messages(QUEUE)
    event = json.loads(b64decode(message.body))
    assert event == {
        "EventType": "SandboxIProduction",
        "UserId": sandbox.settings.account,
        "EventTime": finished,
        "MessageBody": {"Status": "Success", "JobId": job_id, "UserData": "é"},
    }


async def test_the_daemon_reads_the_event(sandbox: Sandbox) -> None:
    """The daemon's decoder finds JobId, end and failure in the event of a job that failed as ordered."""
    await listen(sandbox)
    job_id = await submitted(sandbox, job_params=ordering(fail={"code": "Bad.Input", "message": "no picture"}))
    job = await ended(sandbox, job_id)
    assert (job["Status"], job["Result"], job["OutputFiles"]) == ("Fail", "{}", [])
    decoded = decode(sandbox.messages(QUEUE)[0].body.encode())
    assert isinstance(decoded, Notification)
    assert (decoded.job_id, decoded.state) == (job_id, "Fail")


async def test_the_sync_client_unchanged(sandbox: Sandbox) -> None:
    """The synchronous client submits, queries, cancels, and reads back the callback that it set."""

    def drive() -> dict[str, Any]:
        client = client_of(sandbox)
        assert client.get_event_callback().body.callback_queue_name is None
        client.set_event_callback(SetEventCallbackRequest(callback_type="MNS", callback_queue_name=QUEUE))
        job_id = client.submit_iproduction_job(request_of(job_params=ordering(job_s=3600))).body.job_id
        assert client.query_iproduction_job(QueryIProductionJobRequest(job_id=job_id)).body.status == "Queuing"
        client.cancel_iproduction_job(CancelIProductionJobRequest(job_id=job_id))
        client.cancel_iproduction_job(CancelIProductionJobRequest(job_id=job_id))
        assert client.query_iproduction_job(QueryIProductionJobRequest(job_id=job_id)).body.status == "Fail"
        return dict(client.get_event_callback().body.to_map())

    shown = await run_sync(drive)
    assert (shown["CallbackType"], shown["CallbackQueueName"]) == ("MNS", QUEUE)
    (message,) = sandbox.messages(QUEUE)
    assert json.loads(b64decode(message.body))["MessageBody"]["ErrorCode"] == "Cancelled"
    assert sandbox.tenants.own.ims_jobs.pipeline("").queued == 0


@pytest.mark.parametrize("function", sorted(functions()))
async def test_results_are_bare(sandbox: Sandbox, function: str) -> None:
    """Each of the 14 functions answers a bare result without Code and Data, and names the files that it wrote."""
    job = await ended(sandbox, await submitted(sandbox, function))
    result = json.loads(job["Result"])
    match function:
        case "Cover":
            assert {frozenset(still) for still in result} == {frozenset({"Score", "Time", "Url"})}
        case "MusicSegmentDetect":
            assert all(set(segment) == {"start", "end", "title"} for segment in result)
        case "VideoClip":
            (part,) = result["VideoSummaryList"]
            assert float(part["StartTime"]) < float(part["EndTime"])
        case "AudioQualityAssessment":
            assert {"Tag", "MOS(0-5)", "MOS"} <= set(result[0])
        case _:
            assert result == {}
    assert bool(job["OutputFiles"]) == (function not in ("MusicSegmentDetect", "AudioQualityAssessment"))
    assert len(job["OutputFiles"]) == len(job["OutputUrls"])


async def test_a_media_asset_comes_out(sandbox: Sandbox) -> None:
    """An Output of type Media names its file in OutputUrl, and its asset in OutputMediaIds."""
    output = SubmitIProductionJobRequestOutput(type="Media", media="asset", output_url="oss://films/x.mp4", biz="IMS")
    job = await ended(sandbox, await submitted(sandbox, "VideoDetext", output=output))
    assert (job["OutputFiles"], job["OutputMediaIds"]) == (["oss://films/x.mp4"], ["asset"])


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        pytest.param({"function_name": "ImageH2V"}, "InvalidParameter.FunctionNotSupported", id="a function of MPS"),
        pytest.param({"function_name": ""}, "MissingFunctionName", id="no function"),
        pytest.param({"input": None}, "MissingInput", id="no input"),
        pytest.param({"output": None}, "MissingOutput", id="no output"),
        pytest.param(
            {"input": SubmitIProductionJobRequestInput(type="OSS", media="a.mp4")}, "InvalidParameter", id="no URL"
        ),
        pytest.param(
            {"input": SubmitIProductionJobRequestInput(type="File", media="oss://b/a")},
            "InvalidParameter",
            id="no type",
        ),
        pytest.param(
            {"schedule_config": SubmitIProductionJobRequestScheduleConfig(priority=11)},
            "InvalidParameter",
            id="priority",
        ),
        pytest.param({"name": "x" * 101}, "InvalidParameter", id="a long name"),
        pytest.param({"user_data": "x" * 257}, "InvalidParameter", id="long UserData"),
        pytest.param({"job_params": "[]"}, "InvalidParameter", id="JobParams no object"),
    ],
)
async def test_bad_parameters(sandbox: Sandbox, changed: dict[str, Any], code: str) -> None:
    """A wrong parameter is refused with its code, and no job starts."""
    with pytest.raises(ClientException) as caught:
        await submitted(sandbox, **changed)
    assert caught.value.code == code
    assert len(sandbox.tenants.own.ims_jobs) == 0


@pytest.mark.parametrize(
    ("kind", "queue"), [("HTTP", QUEUE), ("MNS", "films"), ("MNS", "ice-callback-ü"), ("MNS", "")], ids=str
)
async def test_a_wrong_callback_is_refused(sandbox: Sandbox, kind: str, queue: str) -> None:
    """A callback over HTTP, or into a queue that is not named for it, is refused."""
    request = SetEventCallbackRequest(callback_type=kind, callback_queue_name=queue)
    with pytest.raises(ClientException, match=r"InvalidParameter|MissingCallbackQueueName"):
        await client_of(sandbox).set_event_callback_async(request)
    assert sandbox.tenants.own.callback is None


async def test_unknown_jobs(sandbox: Sandbox) -> None:
    """A job of another account, or one that does not exist, is refused as JobNotFound, by query and cancel."""
    job_id = await submitted(sandbox)
    for key, asked in (("other", job_id), ("sandbox", "0" * 32)):
        with pytest.raises(ClientException) as caught:
            await queried(sandbox, asked, key)
        assert caught.value.code == "InvalidParameter.JobNotFound"
    with pytest.raises(ClientException) as caught:
        await client_of(sandbox).cancel_iproduction_job_async(CancelIProductionJobRequest(job_id="x"))
    assert caught.value.code == "InvalidParameter.JobNotFound"
    assert sandbox.jobs.get(job_id) is None


async def test_throttling_and_missing_rights(sandbox: Sandbox) -> None:
    """Too many calls are RequestsTooFrequent with 403; a missing right is named, and MPS's does not count."""
    job_id = await submitted(sandbox)
    limit = sandbox._ims.limit(sandbox.settings.account, "ice:QueryIProductionJob")
    limit._now = lambda: 1.0
    while limit.admits():
        pass
    with pytest.raises(ClientException) as caught:
        await queried(sandbox, job_id)
    assert (caught.value.code, caught.value.status_code) == ("RequestsTooFrequent", 403)
    sandbox.grants.set(deny=["ice:SubmitIProductionJob", "mts:QueryIProductionJob"])
    limit._now = lambda: 3.0
    await queried(sandbox, job_id)
    with pytest.raises(ClientException) as caught:
        await submitted(sandbox)
    assert (caught.value.code, caught.value.access_denied_detail["AuthAction"]) == (
        *("Forbidden.RAM", "ice:SubmitIProductionJob"),
    )


async def test_faults_hit_ims(sandbox: Sandbox, control: Callable[..., Any]) -> None:
    """A lost answer, a lost event and an error are drawn for the jobs of IMS too, and named for it alone."""
    await listen(sandbox)
    sandbox.faults.set([Fault(kind="submit_answer_lost", count=1, operations=("ims",))])
    with pytest.raises(UnretryableException, match="Server disconnected"):
        await submitted(sandbox)
    (job,) = sandbox.tenants.own.ims_jobs.all()
    await ended(sandbox, job.job_id)
    assert len(sandbox.messages(QUEUE)) == 1
    sandbox.faults.set([Fault(kind="notification_lost", operations=("ice:SubmitIProductionJob",))])
    await ended(sandbox, await submitted(sandbox))
    assert len(sandbox.messages(QUEUE)) == 1
    assert len((await control("GET", "/ims-jobs"))[1]) == 2
    assert (await control("GET", "/jobs"))[1] == []


def test_a_job_of_ims_is_submitted_by_its_own_operation() -> None:
    """The operation that faults name is one of IMS."""
    assert ImsJob.operation == "ice:SubmitIProductionJob"
