"""Accounts and regions: what one has, another does not see; asked by the vendor's clients unchanged."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from alibabacloud_mts20140618.client import Client
from alibabacloud_mts20140618.models import QueryIProductionJobRequest, SubmitIProductionJobRequest
from alibabacloud_tea_openapi.exceptions import ClientException
from alibabacloud_tea_openapi.models import Config
from anyio.to_thread import run_sync
from mns.account import Account as VendorAccount
from pydantic import ValidationError

from consumer.sandbox import Sandbox, SandboxSettings
from consumer.sandbox.pipelines import Pipeline, PipelineSettings
from consumer.sandbox.settings import AccountKeys

FOREIGN = AccountKeys(access_key_id="foreign", access_key_secret="f", account="99")
NORTH = AccountKeys(access_key_id="north", access_key_secret="n", account="1234567890123456", region="cn-beijing")
KEYS = {"sandbox": "sandbox", "foreign": "f", "north": "n"}


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    settings = {"job_s": 0, "more_keys": [FOREIGN, NORTH], "pipelines": {"p": {}}, "lenient": True}
    async with Sandbox.on_free_port(**settings) as running:
        yield running


def client_of(sandbox: Sandbox, key: str) -> Client:
    endpoint = sandbox.url.removeprefix("http://")
    return Client(Config(access_key_id=key, access_key_secret=KEYS[key], protocol="http", endpoint=endpoint))


async def submitted(sandbox: Sandbox, key: str, **more: str) -> str:
    request = SubmitIProductionJobRequest(function_name="VideoClip", job_params="{}", **more)
    return str((await client_of(sandbox, key).submit_iproduction_job_async(request)).body.job_id)


async def answered(sandbox: Sandbox, key: str, job_id: str) -> set[str]:
    """The names of what a query answers."""
    answer = await client_of(sandbox, key).query_iproduction_job_async(QueryIProductionJobRequest(job_id=job_id))
    return set(answer.body.to_map())


async def until(sandbox: Sandbox, expected: list[str]) -> None:
    """Wait until the jobs, oldest first, have these states."""
    async with asyncio.timeout(10):
        while [job.state for job in sandbox.jobs.all()] != expected:  # noqa: ASYNC110 - no event to wait on
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("other", ["foreign", "north"], ids=["another account", "another region"])
async def test_a_job_is_known_to_its_account_and_region_only(sandbox: Sandbox, other: str) -> None:
    """A query by the keys of another account, or of another region, answers as for a job that does not exist."""
    job_id = await submitted(sandbox, "sandbox")
    assert "State" in await answered(sandbox, "sandbox", job_id)
    assert await answered(sandbox, other, job_id) == {"RequestId", "JobId"}
    theirs = await submitted(sandbox, other)
    assert "State" in await answered(sandbox, other, theirs)
    assert await answered(sandbox, "sandbox", theirs) == {"RequestId", "JobId"}


@pytest.mark.parametrize("other", ["foreign", "north"], ids=["another account", "another region"])
async def test_a_queue_is_known_to_its_account_and_region_only(sandbox: Sandbox, other: str) -> None:
    """The queues of one account in one region are not listed by the vendor's client with other keys."""
    sandbox.put("q", "body")

    def listed(key: str) -> list[str]:
        vendor = VendorAccount(sandbox.url, key, KEYS[key])
        try:
            return [url.rpartition("/")[2] for url in vendor.list_queue()[0]]
        finally:
            vendor.get_client().close_connection()

    assert await run_sync(listed, "sandbox") == ["q"]
    assert await run_sync(listed, other) == []


async def test_a_notify_url_names_account_and_region(sandbox: Sandbox) -> None:
    """A job's message goes to the queue of the account and region that its NotifyUrl names, if the sandbox has them."""
    theirs = sandbox.tenants.get("99", "cn-hangzhou").queues
    theirs.create("q")
    sandbox.account.create("q")
    await submitted(sandbox, "sandbox", notify_url="mns://99.mns.cn-hangzhou.aliyuncs.com/queues/q")
    await until(sandbox, ["Success"])
    assert len(theirs.get("q").queue) == 1
    assert sandbox.messages("q") == []


async def test_a_host_names_the_region(
    sandbox: Sandbox, write_signed: Callable[..., bytes], send_bytes: Callable[[bytes], Any]
) -> None:
    """The region in a request's Host is stronger than that of its key."""
    sandbox.tenants.get(sandbox.settings.account, "cn-shanghai").queues.create("south")
    target = "/queues/south"
    found = await send_bytes(write_signed("GET", target, headers={"Host": "1.mns.cn-shanghai-internal.localhost:1"}))
    assert found.startswith(b"HTTP/1.1 200")
    assert (await send_bytes(write_signed("GET", target))).startswith(b"HTTP/1.1 404")


async def test_a_pipeline_of_another_account_is_unknown(sandbox: Sandbox) -> None:
    """A pipeline belongs to one account; where pipelines are named a job for any other is refused, and none starts."""
    await submitted(sandbox, "sandbox", pipeline_id="p")
    for key, pipeline_id in (("foreign", "p"), ("north", "p"), ("sandbox", "other")):
        with pytest.raises(ClientException) as caught:
            await submitted(sandbox, key, pipeline_id=pipeline_id)
        assert (caught.value.code, f"'{pipeline_id}' does not exist" in str(caught.value)) == ("InvalidParameter", True)
    assert [len(tenant.jobs) for tenant in sandbox.tenants] == [1, 0, 0]
    await submitted(sandbox, "foreign")


async def test_the_control_api_shows_other_tenants(sandbox: Sandbox, control: Callable[..., Any]) -> None:
    """By account and region in the query the control API creates queues of others, and lists who there is."""
    await control("PUT", "/queues/q?account=99")
    assert sandbox.tenants.get("99", "cn-hangzhou").queues.has("q")
    assert not sandbox.account.has("q")
    assert list((await control("GET", "/state?account=99"))[1]["queues"]) == ["q"]
    assert (await control("GET", "/tenants"))[1] == [
        {"account": "1234567890123456", "region": "cn-hangzhou"},
        {"account": "99", "region": "cn-hangzhou"},
        {"account": "1234567890123456", "region": "cn-beijing"},
    ]


def test_one_key_has_one_account() -> None:
    """An AccessKey that is given twice is refused, with its id and no secret."""
    with pytest.raises(ValidationError, match="given once; twice came foreign") as caught:
        SandboxSettings(more_keys=(FOREIGN, FOREIGN))
    assert "secret" not in json.dumps(
        caught.value.errors(include_input=False, include_context=False, include_url=False)
    )


# Pipelines.


async def test_a_paused_pipeline_starts_no_job(sandbox: Sandbox, control: Callable[..., Any]) -> None:
    """In a paused pipeline a running job ends and the next stays Queuing; another pipeline and a later start go on."""
    stay = json.dumps({"sandbox": {"job_s": 0.2}})
    request = SubmitIProductionJobRequest(function_name="VideoClip", job_params=stay, pipeline_id="p")
    sandbox.jobs.change_pipeline("p", PipelineSettings(concurrency=1))
    client = client_of(sandbox, "sandbox")
    await client.submit_iproduction_job_async(request)
    await until(sandbox, ["Analysing"])
    await control("PUT", "/pipelines/p", {"state": "Paused"})
    await submitted(sandbox, "sandbox", pipeline_id="p")
    await submitted(sandbox, "sandbox")
    await until(sandbox, ["Success", "Queuing", "Success"])
    shown = (await control("GET", "/pipelines"))[1]
    assert (shown["p"]["state"], shown["p"]["queued"], shown["p"]["running"]) == ("Paused", 1, 0)
    assert shown["p"]["concurrency"] == 1
    await control("PUT", "/pipelines/p", {"state": "Active"})
    await until(sandbox, ["Success"] * 3)
    assert (await control("PUT", "/pipelines/p", {"state": "Asleep"}))[0] == 400


async def test_the_slots_of_a_pipeline_are_given_in_order() -> None:
    """Who waits for a slot gets one in order; more slots let the next ones start; who gives up takes none with it."""
    pipeline = Pipeline(PipelineSettings(concurrency=1))
    begun: list[int] = []
    ends = asyncio.Event()

    async def job(number: int) -> None:
        async with pipeline.slot():
            begun.append(number)
            await ends.wait()

    tasks = [asyncio.create_task(job(number)) for number in range(5)]
    await asyncio.sleep(0)
    assert (begun, pipeline.running) == ([0], 1)
    tasks[1].cancel()
    pipeline.change(PipelineSettings(concurrency=2))
    await asyncio.wait(tasks[1:2])
    await asyncio.sleep(0)
    assert (begun, pipeline.running) == ([0, 2], 2)
    tasks[2].cancel()
    await asyncio.wait(tasks[2:3])
    await asyncio.sleep(0)
    assert (begun, pipeline.running) == ([0, 2, 3], 2)
    ends.set()
    await asyncio.wait(tasks)
    assert (begun, pipeline.running) == ([0, 2, 3, 4], 0)


async def test_a_pipeline_has_a_queue_of_its_own(sandbox: Sandbox) -> None:
    """A job without NotifyUrl notifies the queue of its pipeline; one that names a queue notifies that one alone."""
    sandbox.jobs.change_pipeline("p", PipelineSettings(notify_queue="piped"))
    sandbox.account.create("piped")
    sandbox.account.create("named")
    await submitted(sandbox, "sandbox", pipeline_id="p")
    await submitted(sandbox, "sandbox", pipeline_id="p", notify_url=sandbox.notify_url("named"))
    await until(sandbox, ["Success", "Success"])
    assert [len(sandbox.messages(queue)) for queue in ("piped", "named")] == [1, 1]
