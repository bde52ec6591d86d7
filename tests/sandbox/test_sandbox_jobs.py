"""Jobs: submitted and queried by the vendor's MPS client unchanged, their results and their notifications."""

import asyncio
import base64
import hashlib
import json
import re
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any
from xml.etree.ElementTree import fromstring

import pytest
from alibabacloud_mts20140618.client import Client
from alibabacloud_mts20140618.models import QueryIProductionJobRequest, SubmitIProductionJobRequest
from alibabacloud_tea_openapi.exceptions import ClientException
from alibabacloud_tea_openapi.models import Config
from anyio.to_thread import run_sync
from darabonba.exceptions import UnretryableException

from consumer.functions.catalogue import find, names
from consumer.job_state import JobState
from consumer.sandbox import Fault, Sandbox, SandboxJob
from consumer.sandbox.jobs import object_keys
from consumer.sandbox.mps_api import orders_of
from consumer.sandbox.pipelines import MOST_QUEUED
from consumer.sandbox.protocol import RpcError

INPUT = "oss://bucket.oss-cn-hangzhou.aliyuncs.com/in/a film.mp4"
OUTPUT = "oss://bucket.oss-cn-hangzhou.aliyuncs.com/out/{source}-{timestamp}-{sequenceId}-{resultType}.x"


def client_of(sandbox: Sandbox) -> Client:
    endpoint = sandbox.url.removeprefix("http://")
    return Client(Config(access_key_id="sandbox", access_key_secret="sandbox", protocol="http", endpoint=endpoint))


def request_of(sandbox: Sandbox, function: str = "Cover", **changed: Any) -> SubmitIProductionJobRequest:
    values = {
        "function_name": function,
        "job_params": "{}",
        "input": INPUT,
        "output": OUTPUT,
        "notify_url": sandbox.notify_url("done"),
        **changed,
    }
    return SubmitIProductionJobRequest(**values)


async def submitted(sandbox: Sandbox, function: str = "Cover", **changed: Any) -> str:
    """Submit by the vendor's async client; return the JobId."""
    answer = await client_of(sandbox).submit_iproduction_job_async(request_of(sandbox, function, **changed))
    return str(answer.body.job_id)


async def queried(sandbox: Sandbox, job_id: str) -> dict[str, Any]:
    answer = await client_of(sandbox).query_iproduction_job_async(QueryIProductionJobRequest(job_id=job_id))
    return dict(answer.body.to_map())


async def ended(sandbox: Sandbox, job_id: str) -> dict[str, Any]:
    """Wait until the job has ended; query it."""
    while (job := sandbox.jobs.get(job_id)) is None or not job.has_ended:  # noqa: ASYNC110 - no event to wait on
        await asyncio.sleep(0.001)
    return await queried(sandbox, job_id)


def notifications(sandbox: Sandbox, queue: str = "done") -> list[dict[str, Any]]:
    return [json.loads(base64.b64decode(message.body, validate=True)) for message in sandbox.messages(queue)]


async def test_a_job_from_submit_to_notification(sandbox: Sandbox) -> None:
    """The async client submits, sees Queuing or Analysing, then Success; the queue it named gets the message."""
    user_data = '{"key": "wert ü"}'
    answer = await client_of(sandbox).submit_iproduction_job_async(
        request_of(sandbox, user_data=user_data, pipeline_id="p", job_params=ordering(job_s=0.2))
    )
    job_id = answer.body.job_id
    assert re.fullmatch("[0-9a-f]{32}", job_id)
    assert json.loads(answer.body.result)["JobId"] == job_id
    assert (await queried(sandbox, job_id))["State"] in ("Queuing", "Analysing")
    assert notifications(sandbox) == []
    job = await ended(sandbox, job_id)
    assert {name: job[name] for name in ("FunctionName", "Input", "Output", "PipelineId", "UserData", "State")} == {
        "FunctionName": "Cover",
        "Input": INPUT,
        "Output": OUTPUT,
        "PipelineId": "p",
        "UserData": user_data,
        "State": "Success",
    }
    (message,) = notifications(sandbox)
    assert list(message.items()) == [
        ("Code", "Success"),
        ("Details", []),
        ("FunctionName", "Cover"),
        ("JobId", job_id),
        ("Message", "success"),
        ("State", "Success"),
        ("Type", "IProduction"),
        ("UserData", user_data),
    ]


async def test_the_sync_client_unchanged(sandbox: Sandbox) -> None:
    """The synchronous client submits and queries, and an unknown id answers only RequestId and JobId."""

    def drive() -> dict[str, Any]:
        client = client_of(sandbox)
        job_id = client.submit_iproduction_job(request_of(sandbox)).body.job_id
        assert client.query_iproduction_job(QueryIProductionJobRequest(job_id=job_id)).body.job_id == job_id
        return dict(client.query_iproduction_job(QueryIProductionJobRequest(job_id="other")).body.to_map())

    answer = await run_sync(drive)
    assert set(answer) == {"RequestId", "JobId"}
    assert answer["JobId"] == "other"


FILES = frozenset(
    {
        "VideoClip",
        "CaptionExtraction",
        "VideoGreenScreenMatting",
        "AudioMixing",
        "AudioBeatDetection",
        "ImageCartoonize",
    }
)


@pytest.mark.parametrize("function", [*names(), "MusicDemix"])
async def test_results_have_their_documented_shape(sandbox: Sandbox, function: str) -> None:
    """Each function's result is of its documented family, and its notification as the samples print it."""
    known = find(function)
    job_id = await submitted(sandbox, function, job_params=json.dumps(dict(known.sample.params) if known else {}))
    result = json.loads((await ended(sandbox, job_id))["Result"])
    (message,) = notifications(sandbox)
    assert result["Code"] == "Success"
    if function == "Cover":
        stills = json.loads(result["Data"])
        assert [set(still) for still in stills] == [{"Score", "Time", "Url"}] * 5
        assert all(isinstance(still["Score"], float) and float(still["Time"]) > 0 for still in stills)
        assert re.fullmatch(r"out/a film-\d{13}-00001-zh\.x\.x", stills[0]["Url"])
    elif function in FILES:
        files = json.loads(result["Data"])["result"]
        assert len(files) == (2 if function == "ImageCartoonize" else 1)
        for number, entry in enumerate(files, 1):
            assert re.fullmatch(rf"out/a film-\d{{13}}-0000{number}-zh\.x\.x", entry["file"])
    elif function == "MusicSegmentDetect":
        segments = json.loads(result["Data"])["result"]
        assert all(set(segment) == {"start", "end", "title"} for segment in segments)
        assert all(0 < segment["start"] < segment["end"] for segment in segments)
    elif function == "AudioQualityAssessment":
        assert all(
            channel["Tag"] == "Valid" and 0 <= channel["MOS(0-5)"] <= 5 for channel in json.loads(result["Data"])
        )
    else:
        assert result == {"Code": "Success", "Details": [], "Message": "success"}
    has_details = "Data" not in result or function in ("Cover", "AudioQualityAssessment")
    assert message["Message"] == ("success" if has_details else "Successful.")
    assert ("Details" in message) == has_details
    assert "UserData" not in message


def ended_job(function: str, job_id: str = "j", **media: str) -> SandboxJob:
    """A job as it is 5 ms after 1970."""
    job = SandboxJob(job_id=job_id, function=function, **media)
    job.end(5)
    return job


def test_files_without_placeholders_or_names() -> None:
    """Without {sequenceId} several files are one; without Output and Input there still are names."""
    fixed = ended_job("ImageCartoonize", output="oss://b.oss-r.aliyuncs.com/x.jpg")
    assert json.loads(json.loads(fixed.result_text)["Data"]) == {"result": [{"file": "x.jpg"}]}
    assert object_keys(ended_job("ImageCartoonize"), 2, "jpg") == [
        "iproduction/input-5-00001.jpg",
        "iproduction/input-5-00002.jpg",
    ]


@pytest.mark.parametrize(
    ("template", "key"),
    [("{source}-{resultType}.wav", "a-zh.wav.wav"), ("{resultType}/{source}", "zh/a"), ("{source}.wav", "a.wav")],
)
def test_an_extension_after_the_result_type_is_doubled(template: str, key: str) -> None:
    """The service doubles an extension that follows {resultType}, and no other."""
    media = {"input": "oss://b.oss-r.aliyuncs.com/in/a.mp4", "output": f"oss://b.oss-r.aliyuncs.com/{template}"}
    assert object_keys(ended_job("CaptionExtraction", **media), 1, "srt") == [key]


def test_one_job_has_one_result() -> None:
    """The figures of a result come from the job's id: the same again for it, others for another."""
    for function in ("Cover", "MusicSegmentDetect"):
        one, again, other = (ended_job(function, job_id, input=INPUT, output=OUTPUT).result for job_id in "aab")
        assert one == again != other


def ordering(**orders: Any) -> str:
    return json.dumps({"sandbox": orders})


async def test_a_job_fails_as_ordered(sandbox: Sandbox) -> None:
    """JobParams can make a job fail: State, Code and Message in the query's result and the notification."""
    orders = ordering(fail={"code": "InvalidFile", "message": "no such file"}, job_s=0)
    job = await ended(sandbox, await submitted(sandbox, job_params=orders))
    assert (job["State"], json.loads(job["Result"])["Code"]) == ("Fail", "InvalidFile")
    (message,) = notifications(sandbox)
    assert [message[name] for name in ("State", "Code", "Message")] == ["Fail", "InvalidFile", "no such file"]


@pytest.mark.parametrize(
    ("orders", "expected"),
    [
        (
            {"fial": {}},
            "JobParams.sandbox.fial: unknown order 'fial'; known: fail, job_s, result, stuck, notify, answer.",
        ),
        (
            {"job_s": -1},
            "JobParams.sandbox.job_s must be right (Input should be greater than or equal to 0), not -1.",
        ),
        (
            {"fail": {"cod": "é"}},
            "JobParams.sandbox.fail.cod: unknown key of the order fail 'cod'; known: code, message.",
        ),
    ],
)
def test_a_wrong_order_is_named(orders: Mapping[str, object], expected: str) -> None:
    """A wrong order is refused with its name, what came, and what the sandbox knows."""
    with pytest.raises(RpcError) as caught:
        orders_of({"sandbox": orders})
    assert (caught.value.code, caught.value.message) == ("InvalidParameter", expected)


@pytest.mark.parametrize(
    ("ordered", "expected"), [("{not JSON", "{not JSON"), ({"Data": {"a": "副"}}, '{"Data":{"a":"副"}}')]
)
async def test_a_result_can_be_ordered_whole(sandbox: Sandbox, ordered: object, expected: str) -> None:
    """JobParams can order the whole Result, text untouched and anything else as JSON."""
    job_id = await submitted(sandbox, job_params=ordering(result=ordered))
    assert (await ended(sandbox, job_id))["Result"] == expected


@pytest.mark.parametrize(
    ("notify", "kind", "count"),
    [("lost", None, 0), ("twice", None, 2), (None, "notification_lost", 0), (None, "notification_twice", 2)],
)
async def test_notifications_lost_and_doubled(sandbox: Sandbox, notify: str | None, kind: Any, count: int) -> None:
    """A notification can be lost or sent twice, by the job's own order or by a fault."""
    if kind is not None:
        sandbox.faults.add(Fault(kind=kind))
    orders = ordering(notify=notify) if notify else "{}"
    await ended(sandbox, await submitted(sandbox, job_params=orders))
    messages = sandbox.messages("done")
    assert len({message.message_id for message in messages}) == len(messages) == count


async def lost_of(sandbox: Sandbox, count: int) -> list[int]:
    """Submit that many jobs; return the numbers of those that ended without a notification."""
    ids = [await submitted(sandbox) for _ in range(count)]
    for job_id in ids:
        await ended(sandbox, job_id)
    shown = {message["JobId"] for message in notifications(sandbox)}
    return [number for number, job_id in enumerate(ids) if job_id not in shown]


async def test_a_share_of_notifications_is_lost(make_sandbox: Callable[..., Any]) -> None:
    """With ``lose`` that share of jobs gets no message; one seed loses the same jobs, whatever faults there are."""
    first = await make_sandbox(lose=0.3, seed=7)
    again = await make_sandbox(lose=0.3, seed=7, faults=[Fault(kind="latency", probability=0.5)])
    other = await make_sandbox(lose=0.3, seed=8)
    lost = await lost_of(first, 40)
    assert 4 <= len(lost) <= 20
    assert await lost_of(again, 40) == lost != await lost_of(other, 40)
    assert first.faults.applied["notification_lost"] == len(lost)


async def test_the_lost_share_is_changed_while_it_runs(sandbox: Sandbox, control: Callable[..., Any]) -> None:
    """The control API shows and sets the share beside the rules, and refuses what is no share."""
    assert await control("GET", "/lose") == (200, {"share": 0.0})
    assert await control("PUT", "/lose", {"share": 1}) == (200, {"share": 1.0})
    await control("DELETE", "/faults")
    assert await lost_of(sandbox, 3) == [0, 1, 2]
    assert (await control("PUT", "/lose", {"share": 1.1}))[0] == 400
    await control("PUT", "/lose", {"share": 0})
    assert await lost_of(sandbox, 3) == []


@pytest.mark.parametrize("is_ordered", [True, False], ids=["ordered", "by a fault"])
async def test_the_answer_of_a_submit_is_lost(sandbox: Sandbox, is_ordered: bool) -> None:  # noqa: FBT001 - a case
    """The vendor's client gets no answer, by JobParams or by a fault; the job exists, runs and notifies."""
    if not is_ordered:
        sandbox.faults.add(Fault(kind="submit_answer_lost", count=1))
    with pytest.raises(UnretryableException, match="Server disconnected"):
        await submitted(sandbox, job_params=ordering(answer="lost") if is_ordered else "{}")
    (job,) = sandbox.jobs.all()
    assert (await ended(sandbox, job.job_id))["State"] == "Success"
    assert [message["JobId"] for message in notifications(sandbox)] == [job.job_id]
    assert sandbox.log.latest[0]["fault"] == "submit_answer_lost"
    await submitted(sandbox)


@pytest.mark.parametrize("is_ordered", [True, False], ids=["ordered", "by a fault"])
async def test_a_stuck_job_stays_analysing_and_stops_no_other(sandbox: Sandbox, is_ordered: bool) -> None:  # noqa: FBT001 - a case
    """More stuck jobs than the pipeline has places stay Analysing while another one ends."""
    if not is_ordered:
        sandbox.faults.add(Fault(kind="job_stuck", count=12))
    orders = ordering(stuck=True) if is_ordered else "{}"
    stuck = [await submitted(sandbox, job_params=orders) for _ in range(12)]
    while [job.state for job in sandbox.jobs.all()] != ["Analysing"] * 12:  # noqa: ASYNC110 - no event to wait on
        await asyncio.sleep(0.005)
    assert (await ended(sandbox, await submitted(sandbox)))["State"] == "Success"
    assert (await queried(sandbox, stuck[0]))["State"] == "Analysing"


async def test_no_notify_url_no_message(sandbox: Sandbox) -> None:
    """A job without NotifyUrl ends without any message."""
    await ended(sandbox, await submitted(sandbox, notify_url=None))
    assert sandbox.account.all() == []


async def test_a_notification_without_its_queue_is_lost(
    control: Callable[..., Any], sandbox: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    """A NotifyUrl of a missing queue creates none: the message is lost, and the log says how to create the queue."""
    sandbox.settings = sandbox.settings.model_copy(update={"create_queues": False})
    job_id = await submitted(sandbox)
    assert (await ended(sandbox, job_id))["State"] == "Success"
    assert not sandbox.account.has("done")
    (line,) = [record.getMessage() for record in caplog.records if record.name == "consumer.sandbox.server"]
    assert f"notification of job {job_id} lost: queue 'done' of {sandbox.tenants.own} does not exist" in line
    assert line.endswith(f"curl -X PUT '{sandbox.url}/_sandbox/queues/done'")
    assert (await control("GET", "/state"))[1]["notifications_without_queue"] == 1
    await control("PUT", "/queues/done")
    later = await submitted(sandbox)
    await ended(sandbox, later)
    assert [message["JobId"] for message in notifications(sandbox)] == [later]


async def test_a_pipeline_runs_ten_at_once() -> None:
    """Of 30 jobs in one pipeline ten are Analysing at a time; another pipeline doesn't wait for them."""
    async with Sandbox.on_free_port(job_s=0.1, pipeline_concurrency=10) as sandbox:
        jobs = [SandboxJob(job_id=f"a{number}", pipeline_id="a") for number in range(30)]
        other = SandboxJob(job_id="b", pipeline_id="b")
        for job in (*jobs, other):
            sandbox.jobs.submit(job)
        while not other.has_ended:
            assert sum(job.state is JobState.ANALYSING for job in jobs) <= 10
            await asyncio.sleep(0.001)
        assert sum(job.has_ended for job in jobs) <= 10
        while not all(job.has_ended for job in jobs):
            assert sum(job.state is JobState.ANALYSING for job in jobs) <= 10
            await asyncio.sleep(0.001)


async def test_a_pipeline_is_full_at_10000(sandbox: Sandbox) -> None:
    """A pipeline with 10,000 queued jobs takes no more."""
    await submitted(sandbox, pipeline_id="p", job_params=ordering(job_s=3600))
    sandbox.jobs.pipelines["p"].queued = MOST_QUEUED
    with pytest.raises(ClientException) as caught:
        await submitted(sandbox, pipeline_id="p")
    assert caught.value.code == "Throttling"


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        pytest.param({"function_name": ""}, "MissingFunctionName", id="no FunctionName"),
        pytest.param({"job_params": ""}, "MissingJobParams", id="no JobParams"),
        pytest.param({"job_params": "[]"}, "InvalidParameter", id="JobParams no object"),
        pytest.param({"job_params": "{a"}, "InvalidParameter", id="JobParams no JSON"),
        pytest.param({"job_params": "[" * 20_000}, "InvalidParameter", id="JobParams too deep"),
        pytest.param({"job_params": ordering(fial=1)}, "InvalidParameter", id="an unknown order"),
        pytest.param({"notify_url": "http://x/queues/q"}, "InvalidParameter", id="NotifyUrl no mns URL"),
        pytest.param(
            {"notify_url": "mns://1.mns.cn-x.aliyuncs.com/queues/a_b"}, "InvalidParameter", id="NotifyUrl's queue"
        ),
        pytest.param({"input": "film.mp4"}, "InvalidParameter", id="Input no URL"),
        pytest.param({"output": "oss://b"}, "InvalidParameter", id="Output without a key"),
        pytest.param({"user_data": "x" * 32_769}, "InvalidParameter", id="UserData too long"),
    ],
)
async def test_bad_parameters(sandbox: Sandbox, changed: dict[str, str], code: str) -> None:
    """A wrong parameter is refused with its code, and no job starts."""
    with pytest.raises(ClientException) as caught:
        await submitted(sandbox, **changed)
    assert caught.value.code == code
    assert len(sandbox.jobs) == 0


@pytest.mark.parametrize(
    "url",
    [
        "mns://9.mns.cn-beijing.aliyuncs.com/queues/other",
        "mns://9.mns.cn-beijing-internal.aliyuncs.com/queues/other",
        "mns://9.mns.cn-beijing-internal-vpc.aliyuncs.com/queues/other",
    ],
)
async def test_any_account_and_region_in_a_notify_url(sandbox: Sandbox, url: str) -> None:
    """A NotifyUrl's account and region are taken as they are; its queue is the local one of that name."""
    await ended(sandbox, await submitted(sandbox, notify_url=url))
    assert len(notifications(sandbox, "other")) == 1


async def test_more_than_100_a_second_are_throttled(sandbox: Sandbox) -> None:
    """Of 120 queries in under a second 100 pass; submits have a limit of their own."""

    def drive() -> list[str]:
        client = client_of(sandbox)
        codes = []
        for _ in range(120):
            try:
                client.query_iproduction_job(QueryIProductionJobRequest(job_id="x"))
            except ClientException as error:
                codes.append(str(error.code))
        client.submit_iproduction_job(request_of(sandbox))
        return codes

    # Time stands still for the limit alone: the vendor's client may need longer than a second for 120.
    sandbox._mps.limit(sandbox.settings.account, "QueryIProductionJob")._now = lambda: 1.0
    codes = await run_sync(drive)
    assert codes == ["Throttling.User"] * 20
    sandbox._mps.limit(sandbox.settings.account, "QueryIProductionJob")._now = lambda: 2.0
    assert set(await queried(sandbox, "x")) == {"RequestId", "JobId"}


async def test_the_limit_can_be_lifted() -> None:
    """With mps_calls_per_s 0 nothing is throttled."""
    async with Sandbox.on_free_port(mps_calls_per_s=0) as sandbox:
        limit = sandbox._mps.limit(sandbox.settings.account, "QueryIProductionJob")
        assert all(limit.admits() for _ in range(1000))


@pytest.fixture
async def make_sandbox() -> AsyncIterator[Callable[..., Any]]:
    running: list[Sandbox] = []

    async def make(**values: Any) -> Sandbox:
        sandbox = Sandbox.on_free_port(job_s=0, create_queues=True, **values)
        running.append(await sandbox.__aenter__())
        return sandbox

    yield make
    for sandbox in running:
        await sandbox.__aexit__(None, None, None)


@pytest.mark.parametrize("encoding", ["base64", "raw"])
@pytest.mark.parametrize("envelope", ["none", "json", "xml", "simplified"])
async def test_encodings_and_envelopes(make_sandbox: Callable[..., Any], encoding: str, envelope: str) -> None:
    """A notification comes base64 or raw, bare or in a topic's JSON or XML with a right MessageMD5."""
    sandbox = await make_sandbox(notification_encoding=encoding, envelope=envelope)
    job_id = await submitted(sandbox, user_data="<ü&>")
    await ended(sandbox, job_id)
    body = sandbox.messages("done")[0].body
    if envelope in ("json", "xml"):
        if envelope == "json":
            outer = json.loads(body)
        else:
            outer = {child.tag.rpartition("}")[2]: child.text for child in fromstring(body)}  # noqa: S314 - our own
        body = outer["Message"]
        assert outer["MessageMD5"] == hashlib.md5(body.encode(), usedforsecurity=False).hexdigest().upper()
        assert re.fullmatch(r"\d{13}", outer["PublishTime"])
        assert set(outer) >= {"TopicOwner", "TopicName", "Subscriber", "SubscriptionName", "MessageId"}
    text = base64.b64decode(body, validate=True).decode() if encoding == "base64" else body
    message = json.loads(text)
    assert (message["JobId"], message["UserData"]) == (job_id, "<ü&>")


async def test_a_notification_into_a_fifo_queue(make_sandbox: Callable[..., Any]) -> None:
    """A notification reaches a FIFO queue too, its function as the group."""
    sandbox = await make_sandbox(fifo_queues=["done"])
    await ended(sandbox, await submitted(sandbox))
    assert [message.group_id for message in sandbox.messages("done")] == ["Cover"]


async def test_old_jobs_make_room(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """If there are too many jobs the oldest ended ones are forgotten, running ones never."""
    monkeypatch.setattr("consumer.sandbox.jobs._MOST_KEPT", 2)
    first = await submitted(sandbox, job_params=ordering(job_s=0))
    await ended(sandbox, first)
    later = [await submitted(sandbox, job_params=ordering(job_s=3600)) for _ in range(3)]
    assert sandbox.jobs.get(first) is None
    assert all(sandbox.jobs.get(job_id) is not None for job_id in later)


async def test_a_job_as_it_ended(sandbox: Sandbox) -> None:
    """A job that is put in is answered by a query as it was given, and notifies the queue that was named."""
    sandbox.add_job(SandboxJob(job_id="a-1", state="Fail", user_data="u", result='{"Code":"Oops"}'))
    sandbox.add_job(SandboxJob(job_id="b-2", function="VideoClip", code="Success", notify_queue="done"))
    failed, succeeded = await queried(sandbox, "a-1"), await queried(sandbox, "b-2")
    assert [failed[name] for name in ("FunctionName", "State", "UserData", "Result")] == [
        *("Cover", "Fail", "u", '{"Code":"Oops"}')
    ]
    assert json.loads(json.loads(succeeded["Result"])["Data"])["result"]
    (message,) = notifications(sandbox)
    assert (message["JobId"], message["State"], message["FunctionName"]) == ("b-2", "Success", "VideoClip")


async def test_a_job_in_the_place_of_a_running_one(sandbox: Sandbox) -> None:
    """A job that is put in the place of a running one stays as given: the running one never ends, never notifies."""
    job_id = await submitted(sandbox)
    sandbox.add_job(SandboxJob(job_id=job_id, state="Analysing"))
    other = await submitted(sandbox)
    await ended(sandbox, other)
    assert (await queried(sandbox, job_id))["State"] == "Analysing"
    assert [message["JobId"] for message in notifications(sandbox)] == [other]


async def test_a_job_as_it_ended_by_control(sandbox: Sandbox, control: Callable[..., Any]) -> None:
    """The control API puts a job in, and refuses a state that no job has."""
    status, shown = await control("POST", "/jobs", {"job_id": "c", "state": "Fail", "code": "X", "message": "why"})
    assert (status, shown["state"]) == (200, "Fail")
    assert json.loads((await queried(sandbox, "c"))["Result"]) == {"Code": "X", "Details": [], "Message": "why"}
    status, shown = await control("POST", "/jobs", {"job_id": "d", "state": "Lost"})
    assert (status, shown["error"][0]["loc"]) == (400, ["state"])
