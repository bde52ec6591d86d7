"""What a handler gets besides the message: results of MPS, typed, only when wanted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import anyio
from pydantic import BaseModel
from structlog.testing import capture_logs

from consumer.app import App
from consumer.functions.request import JobRequest
from consumer.plugin.handler import Job
from consumer.policy import Reason
from consumer.sandbox import Fault, Sandbox
from tests.engine.rig import QUEUE, Daemon, Serve, body, handlers

OUTPUT = "oss://bucket.oss-cn-hangzhou.aliyuncs.com/out/{source}-{sequenceId}.mp4"


class File(BaseModel):
    """One file."""

    file: str


class Files(BaseModel):
    """A result that names files."""

    result: list[File]


async def submit(daemon: Daemon, function: str = "VideoClip", **more: str) -> str:
    request = JobRequest(
        function=function,
        params=more.pop("params", "{}"),
        input="oss://bucket.oss-cn-hangzhou.aliyuncs.com/in/film.mp4",
        output=OUTPUT,
        notify_url=daemon.sandbox.notify_url(QUEUE),
        **more,
    )
    submitted = await daemon.app.lanes[0].mps.submit(request.parameters())
    return submitted.job_id


async def test_a_wanted_result_is_fetched_and_typed(serve: Serve) -> None:
    """A handler that asks for a model gets it, with full URLs, and the job's Input and Output."""
    seen: list[Job[Files]] = []

    async def clip(job: Job[Files]) -> None:
        seen.append(job)

    async with serve(handlers(VideoClip=clip)) as daemon:
        job_id = await submit(daemon)
        await daemon.until(lambda: bool(seen))
        assert seen[0].job_id == job_id
        assert seen[0].output == OUTPUT
        assert seen[0].result.result[0].file.startswith("oss://bucket.oss-cn-hangzhou.aliyuncs.com/out/film-")
        assert daemon.count("result_queries_total", result="ended") == 1


async def test_mps_is_not_asked_when_no_result_is_wanted(sandbox: Sandbox, serve: Serve) -> None:
    """A handler without a result type costs no call to MPS; reading the result raises an error that says so."""
    errors: list[str] = []

    async def clip(job: Job) -> None:
        try:
            _ = job.result
        except Exception as error:  # noqa: BLE001 - the test looks at whatever comes
            errors.append(str(error))

    async with serve(handlers(VideoClip=clip)) as daemon:
        await submit(daemon)
        await daemon.until(lambda: bool(errors))
        await daemon.emptied()
    assert "Job[CoverResult]" in errors[0]
    assert sandbox.log.by_operation["QueryIProductionJob"] == 0


async def test_a_result_that_does_not_fit_is_set_aside(serve: Serve) -> None:
    """A result that does not fit the handler's model is a dead letter that names the place."""

    async def clip(job: Job[list[int]]) -> None:
        assert job.result

    async with serve(handlers(VideoClip=clip)) as daemon:
        await submit(daemon)
        await daemon.until(lambda: daemon.count("messages_received_total", queue=QUEUE) == 1)
        await daemon.emptied()
        (letter,) = await daemon.letters()
    assert letter.letter.reason is Reason.ILL_TYPED
    assert "list[int]" in letter.letter.error


class Film(BaseModel):
    """UserData that a handler wants."""

    film: int


async def test_what_did_not_fit_is_named_as_its_author_knows_it(serve: Serve) -> None:
    """The error names the class, its file, the field, and that there was no UserData at all."""

    async def cover(job: Job[None, Film]) -> None:
        assert job.user_data.film

    async with serve(handlers(Cover=cover)) as daemon:
        for number, more in enumerate(({}, {"UserData": '{"song": 7}'})):
            daemon.sandbox.put(QUEUE, body(str(number) * 32, **more).decode())
        await daemon.emptied()
        errors = [one.letter.error for one in await daemon.letters()]
    begins = f"the UserData does not fit Film ({__file__}): "
    assert all(error.startswith(begins) for error in errors)
    ends = sorted(error.removeprefix(begins) for error in errors)
    assert ends[0] == "Field required at film"
    assert ends[1].endswith("(this job was submitted without UserData)")


async def test_a_failed_job_reaches_a_handler_that_looks(serve: Serve) -> None:
    """A handler that asks ``job.failed`` gets code and message and ends the job as done."""
    seen: list[tuple[bool, str | None, str | None]] = []

    async def clip(job: Job[Files]) -> None:
        seen.append((job.failed, job.code, job.message))

    async with serve(handlers(VideoClip=clip)) as daemon:
        await submit(daemon, params='{"sandbox": {"fail": {"code": "InvalidFile", "message": "no video"}}}')
        await daemon.until(lambda: bool(seen))
        await daemon.emptied()
        assert not await daemon.letters()
    assert seen == [(True, "InvalidFile", "no video")]


async def test_a_refusal_that_is_not_about_the_job_buries_nothing(sandbox: Sandbox, serve: Serve) -> None:
    """A wrong endpoint's answer sets no message aside: it is an outage, which is logged and waited for."""
    seen: list[int] = []

    async def clip(job: Job[Any]) -> None:
        seen.append(job.attempt)

    sandbox.faults.add(Fault(kind="error", status=404, code="InvalidAction.NotFound", operations=("query",), count=2))
    with capture_logs() as lines:
        async with serve(handlers(VideoClip=clip)) as daemon:
            await submit(daemon)
            await daemon.until(lambda: bool(seen))
            await daemon.emptied()
            assert not await daemon.letters()
    assert seen == [1]
    assert "MPS does not answer; results wait until it does" in [line["event"] for line in lines]


async def test_a_job_without_its_message_is_handled_once(
    sandbox: Sandbox, serve: Serve, store: Mapping[str, str]
) -> None:
    """``run_job`` handles a job whose notification was lost; its late message is then only deleted."""
    seen: list[Job[Files]] = []

    async def clip(job: Job[Files]) -> None:
        seen.append(job)

    registry = handlers(VideoClip=clip)
    sandbox.faults.add(Fault(kind="notification_lost", count=1))
    async with serve(registry, **store) as daemon:
        job_id = await submit(daemon, user_data='{"album": 1}')
        await anyio.sleep(0.3)
        settings = daemon.app.settings

    assert await App(settings, registry).run_job(job_id) == "done"
    assert await App(settings, registry).run_job(job_id) == "duplicate"
    assert [job.user_data for job in seen] == [{"album": 1}]
    sandbox.put(QUEUE, body(job_id, "VideoClip").decode())
    async with serve(registry, **store) as daemon:
        await daemon.emptied()
    assert len(seen) == 1
