"""A handler submits the job that follows its own, once, however often it runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from consumer.functions.request import JobRequest
from consumer.plugin.handler import Job, Retry
from consumer.plugin.submission import SubmittedJob
from consumer.sandbox import Sandbox
from tests.engine.rig import QUEUE, Daemon, Serve, handlers

FILES: Any = {
    "input": "oss://b.oss-cn-hangzhou.aliyuncs.com/a.jpg",
    "output": "oss://b.oss-cn-hangzhou.aliyuncs.com/{source}-{sequenceId}.jpg",
}


async def start(daemon: Daemon, user_data: str | None = None) -> str:
    """Submit a Cover job."""
    url = daemon.sandbox.notify_url(QUEUE)
    cover = JobRequest(
        function="Cover",
        input="oss://b.oss-cn-hangzhou.aliyuncs.com/film.mp4",
        output=FILES["output"],
        user_data=user_data,
        notify_url=url,
    )
    answer = await daemon.app.lanes[0].mps.submit(cover.parameters())
    return answer.job_id


async def test_a_follow_up_is_submitted_once(sandbox: Sandbox, serve: Serve, store: Mapping[str, str]) -> None:
    """A handler that fails four times after its submission has submitted one job, with its own UserData and queue."""
    followed: list[SubmittedJob] = []
    cartoons: list[Job] = []

    async def cover(job: Job) -> None:
        followed.append(await job.submit("ImageCartoonize", {"Style": "cartoon"}, key="cartoon", **FILES))
        if job.attempt < 5:
            raise Retry("not yet", after_s=1)

    async def cartoon(job: Job) -> None:
        cartoons.append(job)

    async with serve(handlers(Cover=cover, ImageCartoonize=cartoon), **store) as daemon:
        parent = await start(daemon, '{"film": 7}')
        await daemon.until(lambda: len(followed) == 5 and bool(cartoons), within_s=30)
        await daemon.emptied()
    assert [job.function for job in sandbox.jobs.all()] == ["Cover", "ImageCartoonize"]
    assert [one.is_new for one in followed] == [True, False, False, False, False]
    assert {one.job_id for one in followed} == {cartoons[0].job_id}
    assert {one.ref for one in followed} == {f"{parent}/cartoon"}
    assert [job.user_data for job in cartoons] == [{"film": 7}]


async def test_a_job_of_no_daemon_submits_nothing() -> None:
    """A job that a test has made says plainly that it can submit nothing."""
    job: Job = Job(function="Cover", job_id="1", state="Success", failed=False, code=None, message=None, user_data=None)
    with pytest.raises(RuntimeError, match="does not come from a daemon"):
        await job.submit("ImageCartoonize", {}, key="cartoon", **FILES)
