"""The vendor's own client submits a job, and the daemon handles it."""

from __future__ import annotations

from typing import Any

import anyio.to_thread
from alibabacloud_mts20140618.client import Client
from alibabacloud_mts20140618.models import QueryIProductionJobRequest, SubmitIProductionJobRequest
from alibabacloud_tea_openapi.utils_models import Config

from consumer.plugin.handler import Job
from consumer.sandbox import Sandbox
from tests.engine.rig import QUEUE, Serve, handlers


async def test_a_job_of_the_vendors_client_is_handled(sandbox: Sandbox, serve: Serve) -> None:
    """A job that Alibaba's own MPS SDK submits is handled with its result, and the same SDK finds it ended."""
    seen: list[Job[Any]] = []

    async def beats(job: Job[Any]) -> None:
        seen.append(job)

    client = Client(
        Config(
            access_key_id="sandbox",
            access_key_secret="sandbox",
            endpoint=sandbox.url.removeprefix("http://"),
            protocol="http",
        )
    )
    request = SubmitIProductionJobRequest(
        function_name="AudioBeatDetection",
        input="oss://bucket.oss-cn-hangzhou.aliyuncs.com/song.mp3",
        output="oss://bucket.oss-cn-hangzhou.aliyuncs.com/{source}.txt",
        job_params="{}",
        user_data='{"song": 1}',
        notify_url=sandbox.notify_url(QUEUE),
    )
    async with serve(handlers(AudioBeatDetection=beats)) as daemon:
        answer = await anyio.to_thread.run_sync(client.submit_iproduction_job, request)
        await daemon.until(lambda: bool(seen))
        await daemon.emptied()
    assert seen[0].job_id == answer.body.job_id
    assert seen[0].user_data == {"song": 1}
    query = QueryIProductionJobRequest(job_id=answer.body.job_id)
    found = await anyio.to_thread.run_sync(client.query_iproduction_job, query)
    assert found.body.state == "Success"
