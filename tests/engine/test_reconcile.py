"""The ends of submitted jobs whose notifications are lost are found by asking MPS, with a real sandbox and store."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import anyio

from consumer.functions.request import JobRequest
from consumer.message.notification import job_key
from consumer.plugin.handler import Job, Retry
from consumer.policy import SubmissionState
from consumer.sandbox import Fault, Sandbox
from consumer.store.open import open_submissions
from consumer.store.submissions import NewSubmission, Submission
from tests.engine.rig import QUEUE, Daemon, Serve, body, handlers


async def submit(daemon: Daemon) -> Submission:
    """Submit a Cover job as a client does, and record it."""
    lane = daemon.app.lanes[0]
    async with open_submissions(daemon.app.settings.store_address()) as submissions:
        one, _ = await submissions.record(NewSubmission(lane.identity, "Cover", "{}"))
        request = JobRequest(
            function="Cover",
            input="oss://b.oss-cn-hangzhou.aliyuncs.com/f.mp4",
            output="oss://b.oss-cn-hangzhou.aliyuncs.com/{source}-{sequenceId}.jpg",
            user_data=json.dumps({"film": one.id}),
            notify_url=daemon.sandbox.notify_url(QUEUE),
        )
        answer = await lane.mps.submit(request.parameters())
        key = job_key(lane.identity, answer.job_id)
        await submissions.submitted(one.id, job_id=answer.job_id, key=key, request_id=answer.request_id, next_in_s=0.5)
        found = await submissions.get(one.id)
        assert found is not None
        return found


async def state(daemon: Daemon, submission: Submission) -> SubmissionState:
    async with open_submissions(daemon.app.settings.store_address()) as submissions:
        found = await submissions.get(submission.id)
        assert found is not None
        return found.state


async def ended(daemon: Daemon, submission: Submission) -> None:
    with anyio.fail_after(20):
        while await state(daemon, submission) is not SubmissionState.ENDED:  # noqa: ASYNC110 - it is the daemon's affair
            await anyio.sleep(0.1)


async def test_a_lost_notification_is_found(sandbox: Sandbox, serve: Serve, store: Mapping[str, str]) -> None:
    """A job whose notification is lost is handled all the same, once; a late notification is a duplicate."""
    seen: list[Job[Any]] = []

    async def cover(job: Job[Any]) -> None:
        seen.append(job)

    sandbox.faults.add(Fault(kind="notification_lost", count=1))
    async with serve(handlers(Cover=cover), reconcile_after_s=1, **store) as daemon:
        one = await submit(daemon)
        await daemon.until(lambda: daemon.count("reconciled_total", queue=QUEUE, function="Cover") == 1)
        await ended(daemon, one)
        assert [(job.job_id, job.user_data, job.attempt) for job in seen] == [(one.job_id, {"film": one.id}, 1)]
        sandbox.put(QUEUE, body(one.job_id or "").decode())
        await daemon.emptied()
    assert len(seen) == 1


async def test_a_notification_ends_its_submission(sandbox: Sandbox, serve: Serve, store: Mapping[str, str]) -> None:
    """A job that is handled by its message closes its submission; MPS is not asked for it."""
    seen: list[str] = []

    async def cover(job: Job) -> None:
        seen.append(job.job_id)

    async with serve(handlers(Cover=cover), reconcile_after_s=1, **store) as daemon:
        one = await submit(daemon)
        await ended(daemon, one)
        assert seen == [one.job_id]
        assert daemon.count("reconciled_total", queue=QUEUE, function="Cover") == 0
        await daemon.until(lambda: daemon.count("submissions", queue=QUEUE, state="submitted") == 0)


async def test_a_found_job_is_retried_like_a_message(sandbox: Sandbox, serve: Serve, store: Mapping[str, str]) -> None:
    """A handler that fails on a found job runs again with the next attempt's number, after its own delay."""
    attempts: list[int] = []

    async def cover(job: Job) -> None:
        attempts.append(job.attempt)
        if job.attempt < 3:
            raise Retry("not yet", after_s=1)

    sandbox.faults.add(Fault(kind="notification_lost", count=1))
    async with serve(handlers(Cover=cover), reconcile_after_s=1, **store) as daemon:
        one = await submit(daemon)
        await ended(daemon, one)
    assert attempts == [1, 2, 3]
