"""Jobs that MPS fails for end as dead letters, and do not slow other jobs."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any, Final

import anyio
import pytest
from aiohttp import web
from structlog.testing import capture_logs

from consumer.plugin.handler import Job
from consumer.policy import Reason
from consumer.sandbox import Sandbox
from tests.engine.rig import QUEUE, Serve, body, handlers

GOOD: Final = 200
BAD: Final = 24
SLOTS: Final = 24
KINDS: Final = ("500", "html", "long", "hang")


async def answer(request: web.Request) -> web.StreamResponse:
    """MPS's answer to one query: the job's id decides how it fails."""
    job_id = request.query["JobId"]
    kind = job_id.partition("-")[0]
    if kind == "500":
        return web.json_response({"Code": "InternalError", "Message": "no", "RequestId": "R"}, status=500)
    if kind == "html":
        return web.Response(text="<html>no</html>", content_type="text/html")
    if kind == "long":
        return web.Response(body=b" " * (5 * 1024 * 1024), content_type="application/json")
    if kind == "hang":
        await asyncio.sleep(60)
    if job_id == "0" * 32:
        return web.json_response({"RequestId": "R", "JobId": job_id})
    result = {"Code": "Success", "Data": "{}"}
    fields = {"FunctionName": "Cover", "State": "Success", "Result": json.dumps(result)}
    return web.json_response({"RequestId": "R", "JobId": job_id, **fields})


@pytest.fixture
async def mps() -> AsyncIterator[str]:
    """The address of an MPS that fails for some jobs."""
    app = web.Application()
    app.router.add_post("/", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


@pytest.mark.timeout(60)
@pytest.mark.alone
async def test_bad_jobs_do_not_slow_the_good(sandbox: Sandbox, serve: Serve, mps: str) -> None:
    """With as many bad jobs as slots among them, the good take at most 1.2 times as long; no outage is logged.

    One pair of runs in three has to show it: a pause of the machine falls on one of them.
    """
    done: list[str] = []

    async def cover(job: Job[Any]) -> None:
        done.append(job.job_id)

    async def seconds(run: str, *, bad: int) -> float:
        done.clear()
        for number in range(GOOD):
            sandbox.put(QUEUE, body(f"{run}-{number}").decode())
            if bad and number % (GOOD // bad) == 0:
                sandbox.put(QUEUE, body(f"{KINDS[number // (GOOD // bad) % 4]}-{run}-{number}").decode())
        began_at = time.monotonic()
        async with serve(handlers(Cover=cover), mps_endpoint=mps, slots=SLOTS) as daemon:
            await daemon.until(lambda: len(done) == GOOD, 30)
            return time.monotonic() - began_at

    pairs: list[tuple[float, float]] = []
    while not any(among_s <= 1.2 * alone_s + 0.2 for alone_s, among_s in pairs):
        assert len(pairs) < 3, pairs
        alone_s = await seconds(f"alone{len(pairs)}", bad=0)
        with capture_logs() as lines:
            among_s = await seconds(f"among{len(pairs)}", bad=BAD)
        assert [line for line in lines if "does not answer" in line["event"]] == []
        pairs.append((alone_s, among_s))


@pytest.mark.parametrize("kind", ["500", "html", "long"])
async def test_a_bad_job_ends_as_a_dead_letter(sandbox: Sandbox, serve: Serve, mps: str, kind: str) -> None:
    """A message whose job MPS keeps failing for is released, counted, and set aside in the end; the job stays open."""

    async def cover(job: Job[Any]) -> None:
        raise AssertionError(job.job_id)

    sandbox.put(QUEUE, body(f"{kind}-1").decode())
    async with serve(
        handlers(Cover=cover), mps_endpoint=mps, max_failures=2, retry_base_s=0.1, retry_cap_s=0.1
    ) as daemon:
        await daemon.emptied()
        (letter,) = await daemon.letters()
        retries = daemon.count("retries_total", queue=QUEUE, function="Cover", cause="unanswered")
    assert letter.letter.reason is Reason.UNANSWERED
    assert "|MessageId|" in letter.letter.job.key
    assert retries == (0 if kind == "long" else 1)


async def test_eight_bad_jobs_in_eight_slots_stop_nothing(sandbox: Sandbox, serve: Serve, mps: str) -> None:
    """Bad jobs that fill all slots are released, and the good jobs are handled."""
    done: list[str] = []

    async def cover(job: Job[Any]) -> None:
        done.append(job.job_id)

    for number in range(8):
        sandbox.put(QUEUE, body(f"{('500', 'html')[number % 2]}-{number}").decode())
    for number in range(50):
        sandbox.put(QUEUE, body(f"good-{number}").decode())
    async with serve(handlers(Cover=cover), mps_endpoint=mps, slots=8, retry_base_s=30) as daemon:
        with anyio.fail_after(10):
            await daemon.until(lambda: len(done) == 50)
