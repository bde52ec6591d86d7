"""The life of a message against a real queue: what each end leads to."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import anyio
import pytest
from pydantic import BaseModel

from consumer.plugin.handler import Job, Limits, Note, Reject, Retry, Wait, build
from consumer.plugin.registry import Registry
from consumer.policy import Reason
from consumer.sandbox import Fault, Sandbox, SandboxJob
from consumer.sandbox.queue import Message
from consumer.store.open import make_operators
from tests.engine.rig import QUEUE, Serve, body, handlers
from tests.stores import ledger_at

FAILED_JOB = "f" * 32


class Album(BaseModel):
    """UserData of these tests."""

    album: int


async def nothing(job: Job) -> None:
    """Does nothing."""


async def test_a_handled_message_is_done_once_and_deleted(sandbox: Sandbox, serve: Serve) -> None:
    """A message whose handler returns is gone from its queue, and its handler ran once."""
    seen: list[Job[Any, Any]] = []

    async def cover(job: Job) -> None:
        seen.append(job)

    sandbox.put(QUEUE, body(UserData='{"album": 7}').decode())
    async with serve(handlers(Cover=cover)) as daemon:
        await daemon.emptied()
        assert [(job.function, job.attempt, job.user_data, job.queue) for job in seen] == [
            ("Cover", 1, {"album": 7}, QUEUE)
        ]
        assert daemon.count("jobs_total", queue=QUEUE, function="Cover", outcome="done") == 1


async def test_a_handler_that_asks_for_a_later_run_leaves_no_traceback(sandbox: Sandbox, serve: Serve) -> None:
    """The stored run of ``Retry`` and ``Wait`` has its text alone; that of a failure has a traceback as well."""

    async def cover(job: Job) -> None:
        raise {
            "retry": Retry("too early"),
            "wait": Wait("no film yet", until=datetime.now(UTC) + timedelta(hours=1)),
        }.get(job.user_data) or ValueError("no")

    for number, word in enumerate(("retry", "wait", "fails"), 1):
        sandbox.put(QUEUE, body(f"{number:032x}", UserData=word).decode())
    async with serve(handlers(Cover=cover), retry_base_s=300, retry_cap_s=300) as daemon:
        operators = make_operators(daemon.app.settings.store_address())

        def counted(cause: str) -> bool:
            return daemon.count("retries_total", queue=QUEUE, function="Cover", cause=cause) == 1

        for cause in ("failed", "asked", "waiting"):
            await daemon.until(partial(counted, cause))
        found = await operators.list_open(limit=9, running=False)
        runs = await operators.list_runs(*(one.key for one in found))
        await operators.close()
    assert {run.error: run.traceback is None for run in runs} == {
        "too early": True,
        "no film yet": True,
        "ValueError: no": False,
    }


async def test_the_same_job_twice_runs_once(sandbox: Sandbox, serve: Serve) -> None:
    """Two messages of one job lead to one run; both are deleted."""
    runs = 0

    async def cover(job: Job) -> None:
        nonlocal runs
        runs += 1

    for _ in range(2):
        sandbox.put(QUEUE, body().decode())
    async with serve(handlers(Cover=cover), lease_step_s=10) as daemon:
        await daemon.emptied()
    assert runs == 1


async def test_a_done_job_is_not_run_again_after_a_restart(sandbox: Sandbox, serve: Serve) -> None:
    """A job that ended before the restart is only deleted when its message comes back."""
    runs = 0

    async def cover(job: Job) -> None:
        nonlocal runs
        runs += 1

    sandbox.put(QUEUE, body().decode())
    async with serve(handlers(Cover=cover)) as daemon:
        await daemon.emptied()
    sandbox.put(QUEUE, body().decode())
    async with serve(handlers(Cover=cover)) as daemon:
        await daemon.emptied()
    assert runs == 1
    assert daemon.count("jobs_total", queue=QUEUE, function="Cover", outcome="duplicate") == 1


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        pytest.param(b"no notification at all", Reason.UNDECODABLE, id="not JSON"),
        pytest.param(body(function="Unheard"), Reason.UNROUTED, id="a FunctionName without a handler"),
        pytest.param(body(Type="Transcode"), Reason.UNROUTED, id="another kind of message"),
        pytest.param(body(UserData='{"album": "x"}'), Reason.ILL_TYPED, id="UserData of another shape"),
        pytest.param(body(FAILED_JOB, "Picky", State="Fail", Code="E"), Reason.JOB_FAILED, id="a failed job"),
        pytest.param(body(function="Picky"), Reason.NOT_IPRODUCTION, id="a job that MPS does not know"),
        pytest.param(body(function="Refused"), Reason.REJECTED, id="a refusal"),
        pytest.param(body(function="Broken"), Reason.EXHAUSTED, id="a handler that fails as often as it may"),
    ],
)
async def test_what_can_not_be_handled_is_kept(sandbox: Sandbox, serve: Serve, raw: bytes, reason: Reason) -> None:
    """A message that can't be handled becomes a dead letter with its reason and raw bytes, and is deleted."""

    async def cover(job: Job[None, Album]) -> None:
        assert job.user_data.album

    async def picky(job: Job[Any]) -> None:
        assert job.result

    async def refused(job: Job) -> None:
        raise Reject("never")

    async def broken(job: Job) -> None:
        raise ValueError("always")

    sandbox.add_job(SandboxJob(job_id=FAILED_JOB, function="Picky", state="Fail", code="E"))
    sandbox.put(QUEUE, raw.decode())
    async with serve(handlers(Cover=cover, Picky=picky, Refused=refused, Broken=broken), max_failures=1) as daemon:
        await daemon.emptied()
        (letter,) = await daemon.letters()
    assert letter.letter.reason is reason
    assert letter.letter.body == raw
    assert letter.letter.error


async def test_a_failed_handler_runs_again_and_knows_it(sandbox: Sandbox, serve: Serve) -> None:
    """A failure hides the same message for the time asked; the next run is attempt 2."""
    attempts: list[int] = []

    async def cover(job: Job) -> None:
        attempts.append(job.attempt)
        if job.attempt == 1:
            raise Retry("not yet", after_s=1)

    sandbox.put(QUEUE, body().decode())
    async with serve(handlers(Cover=cover)) as daemon:
        await daemon.emptied()
        assert daemon.count("retries_total", queue=QUEUE, function="Cover", cause="asked") == 1
    assert attempts == [1, 2]


async def test_what_would_come_back_too_late_is_set_aside(sandbox: Sandbox, serve: Serve) -> None:
    """Near the end of the queue's retention a failed message becomes a dead letter instead of being hidden."""

    async def broken(job: Job) -> None:
        raise Retry("later", after_s=8)

    sandbox.account.create("brief", {"MessageRetentionPeriod": "60"})
    now_ms = sandbox.clock.now_ms()
    async with serve(handlers(Cover=broken), notify_url=sandbox.notify_url("brief")) as daemon:
        await daemon.until(lambda: daemon.app.lanes[0].retention_s == 60)
        queue = sandbox.account.get("brief").queue
        queue.enqueue(Message(body("1" * 32).decode()), now_ms, enqueue_ms=now_ms - 40_000)
        queue.enqueue(Message(body("2" * 32).decode()), now_ms, enqueue_ms=now_ms - 48_000)
        await daemon.until(lambda: len(sandbox.messages("brief")) == 1)
        (letter,) = await daemon.letters()
    assert (letter.letter.job.job_id, letter.letter.reason) == ("2" * 32, Reason.EXPIRING)
    assert "its queue keeps 60 s" in letter.letter.error


async def test_intermediate_states_are_deleted_without_a_run(sandbox: Sandbox, serve: Serve) -> None:
    """A state that is no end is counted and deleted; the job's end is still handled afterwards."""
    runs = 0

    async def cover(job: Job) -> None:
        nonlocal runs
        runs += 1

    sandbox.put(QUEUE, body(State="Analysing").decode())
    async with serve(handlers(Cover=cover)) as daemon:
        await daemon.emptied()
        assert runs == 0
        sandbox.put(QUEUE, body().decode())
        await daemon.emptied()
    assert runs == 1


async def test_unrouted_messages_are_dropped_when_the_settings_say_so(sandbox: Sandbox, serve: Serve) -> None:
    """With ``unrouted = "drop"`` a message without a handler is counted and deleted, and no letter is kept."""
    sandbox.put(QUEUE, body(function="Unheard").decode())
    async with serve(handlers(Cover=nothing), unrouted="drop") as daemon:
        await daemon.emptied()
        assert daemon.count("jobs_total", queue=QUEUE, function="other", outcome="dropped") == 1
        assert not await daemon.letters()


async def test_a_fallback_takes_whatever_has_no_handler(sandbox: Sandbox, serve: Serve) -> None:
    """The handler for ``*`` gets unknown functions, other kinds and unknown kinds; own handlers come first."""
    seen: list[str] = []

    async def rest(job: Job) -> None:
        seen.append(job.function)

    for raw in (body("1" * 32, "Cover"), body("2" * 32, "New"), body("3" * 32, Type="Transcode"), b'{"Type":"Cover"}'):
        sandbox.put(QUEUE, raw.decode())
    async with serve(Registry({**handlers(Cover=nothing).handlers, "*": build(rest, Note("*", Limits()))})) as daemon:
        await daemon.emptied()
    assert sorted(seen) == ["New", "Transcode", "unknown"]


async def test_a_handler_past_its_time_has_failed(sandbox: Sandbox, serve: Serve) -> None:
    """An async handler is cancelled at its time limit, which counts as a failure."""
    cancelled = False

    async def cover(job: Job) -> None:
        nonlocal cancelled
        try:
            await anyio.sleep(60)
        finally:
            cancelled = True

    sandbox.put(QUEUE, body().decode())
    async with serve(handlers(Cover=cover), handler_timeout_s=0.1, max_failures=1) as daemon:
        await daemon.emptied()
        (letter,) = await daemon.letters()
    assert cancelled
    assert "longer than its 0.1 s" in letter.letter.error


async def test_a_plain_function_runs_in_a_thread(sandbox: Sandbox, serve: Serve) -> None:
    """A plain function does not hold up the loop: another job is handled while it sleeps."""
    order: list[str] = []

    def slow(job: Job) -> None:
        time.sleep(0.5)
        order.append("slow")

    async def quick(job: Job) -> None:
        order.append("quick")

    sandbox.put(QUEUE, body("1" * 32, "Slow").decode())
    sandbox.put(QUEUE, body("2" * 32, "Quick").decode())
    async with serve(handlers(Slow=slow, Quick=quick)) as daemon:
        await daemon.emptied()
    assert order == ["quick", "slow"]


async def test_a_stuck_plain_function_is_set_aside_and_counted(sandbox: Sandbox, serve: Serve) -> None:
    """A plain function past the most that a message is held is set aside as stuck; at the limit liveness fails."""
    release = False

    def stuck(job: Job) -> None:
        while not release:
            time.sleep(0.02)

    sandbox.put(QUEUE, body().decode())
    registry = Registry({"Cover": build(stuck, Note("Cover", Limits(timeout_s=0.1, max_hold_s=1)))})
    async with serve(registry, stuck_limit=1) as daemon:
        await daemon.emptied()
        (letter,) = await daemon.letters()
        assert letter.letter.reason is Reason.STUCK
        assert daemon.count("stuck_handlers", queue=QUEUE) == 1
        assert not all(check.ok for check in daemon.app.vitals.live())
        release = True
        await daemon.until(lambda: daemon.app.lanes[0].threads.left_behind == 0)


async def test_stuck_handlers_of_all_queues_count_together(sandbox: Sandbox, serve: Serve) -> None:
    """``stuck_limit`` is one limit for the whole daemon: one stuck handler in each of two queues reaches 2."""
    release = False

    def stuck(job: Job) -> None:
        while not release:
            time.sleep(0.02)

    queues = [sandbox.notify_url(QUEUE), sandbox.notify_url("second")]
    sandbox.account.ensure("second")
    registry = Registry({"Cover": build(stuck, Note("Cover", Limits(timeout_s=0.1, max_hold_s=1)))})
    async with serve(registry, stuck_limit=2, notify_url=queues) as daemon:
        sandbox.put(QUEUE, body("1" * 32).decode())
        first, second = daemon.app.lanes
        await daemon.until(lambda: first.threads.left_behind == 1)
        assert all(check.ok for check in daemon.app.vitals.live())
        sandbox.put("second", body("2" * 32).decode())
        await daemon.until(lambda: second.threads.left_behind == 1)
        assert not all(check.ok for check in daemon.app.vitals.live())
        release = True
        await daemon.until(lambda: first.threads.left_behind + second.threads.left_behind == 0)


async def test_a_handler_runs_no_more_often_at_once_than_it_says(sandbox: Sandbox, serve: Serve) -> None:
    """A handler with concurrency 2 never runs three times at once, and all its jobs are done."""
    running = most = 0

    async def cover(job: Job) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await anyio.sleep(0.05)
        running -= 1

    for number in range(8):
        sandbox.put(QUEUE, body(f"{number:032x}").decode())
    async with serve(Registry({"Cover": build(cover, Note("Cover", Limits(concurrency=2)))})) as daemon:
        await daemon.emptied()
    assert most == 2


async def test_a_failing_delete_does_not_run_the_job_again(sandbox: Sandbox, serve: Serve) -> None:
    """When every delete fails, the job is still done once: its redelivery is only deleted."""
    runs = 0

    async def cover(job: Job) -> None:
        nonlocal runs
        runs += 1

    sandbox.account.create("short", {"VisibilityTimeout": "1"})
    sandbox.put("short", body().decode())
    sandbox.faults.add(Fault(kind="error", operations=("delete",), status=400, code="InvalidArgument", count=1))
    async with serve(handlers(Cover=cover), notify_url=sandbox.notify_url("short")) as daemon:
        await daemon.until(lambda: not sandbox.messages("short"))
    assert runs == 1
    assert daemon.count("deletes_total", queue="short", result="failed") == 1


async def test_a_crashing_message_is_set_aside_after_five_starts(sandbox: Sandbox, serve: Serve) -> None:
    """A message that was started five times without an end is set aside without a sixth run."""
    runs = 0

    async def cover(job: Job) -> None:
        nonlocal runs
        runs += 1

    sandbox.put(QUEUE, body().decode())
    async with serve(handlers(Cover=cover)) as daemon:
        await daemon.emptied()
    key = f"{daemon.app.lanes[0].identity}|IProduction|{'b' * 32}"
    for _ in range(5):
        ledger = ledger_at(str(daemon.store))
        await ledger.open()
        await ledger.claim(key, 60)
        await ledger.start(key)
        await ledger.close()
    sandbox.put(QUEUE, body("b" * 32).decode())
    async with serve(handlers(Cover=cover)) as daemon:
        await daemon.emptied()
        (letter,) = await daemon.letters()
    assert letter.letter.reason is Reason.CRASHING
    assert runs == 1
