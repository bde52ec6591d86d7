"""Failing queries to MPS: an outage is waited for, the fault of one job is that job's. A test orders the answers."""

from __future__ import annotations

from collections.abc import Collection

import anyio
import pytest
from structlog.testing import capture_logs

from consumer.cloud.mps import JobStatus
from consumer.engine.complete import NO_JOB, JobQueries, UnansweredError
from consumer.errors import CloudError, Fault
from consumer.ops.metrics import Metrics


class Service:
    """Answers with the next fault of a list, then successfully; some jobs always fail."""

    def __init__(self, *faults: Fault, bad: Collection[str] = ()) -> None:
        self.faults = list(faults)
        self.bad = bad
        self.asked: list[str] = []
        self.at_once = self.most_at_once = 0

    async def query(self, job_id: str) -> JobStatus:
        self.asked.append(job_id)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await anyio.sleep(0.01)
        finally:
            self.at_once -= 1
        if self.faults or job_id in self.bad:
            fault = self.faults.pop(0) if self.faults else Fault.SERVER
            code = "InvalidParameter.JobId" if fault is Fault.REQUEST else "c"
            raise CloudError(fault, operation="Query", target="mps", code=code, detail="d")
        return JobStatus(job_id, "Cover", "Success", None, None, None, None, found=True)


def asking(service: Service, patience_s: float = 30) -> JobQueries:
    return JobQueries(service.query, "q", Metrics().result_queries, patience_s=patience_s)


async def test_one_probes_while_mps_is_down() -> None:
    """Once a query without a job has failed too, one probe is sent at a time; all queries are answered in the end."""
    service = Service(*[Fault.SERVER] * 5)
    results = asking(service)
    answers: list[str] = []

    async def ask(job_id: str) -> None:
        answers.append((await results.query(job_id)).job_id)

    with anyio.fail_after(15):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask, "first")
            await anyio.sleep(0.1)
            service.most_at_once = 0
            for number in range(30):
                tasks.start_soon(ask, str(number))
            await anyio.sleep(0.1)
            # No question is sent during the pause.
            assert service.asked == ["first", NO_JOB]
            while service.faults:  # noqa: ASYNC110 - the service is a stand-in without events
                await anyio.sleep(0.01)
            assert service.most_at_once == 1
    assert len(answers) == 31
    assert results.breaker.fault is None


async def test_the_probing_task_may_be_cancelled() -> None:
    """If the task that probes is cancelled, the next one probes; the pause is kept."""
    service = Service(Fault.NETWORK, Fault.NETWORK)
    results = asking(service)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(results.query, "cut")
            await anyio.sleep(0.1)
            tasks.cancel_scope.cancel()
        assert results.breaker.fault is not None
        assert (await results.query("other")).job_id == "other"
    assert service.asked == ["cut", NO_JOB, NO_JOB, "other"]


async def test_no_query_waits_for_ever() -> None:
    """After the patience every query fails with the fault, also those that were never sent."""
    service = Service(*[Fault.SERVER] * 100)
    results = asking(service, patience_s=1)
    failed: list[Fault] = []

    async def ask(number: int) -> None:
        try:
            await results.query(str(number))
        except CloudError as error:
            failed.append(error.fault)

    with anyio.fail_after(3):
        async with anyio.create_task_group() as tasks:
            for number in range(20):
                tasks.start_soon(ask, number)
    assert failed == [Fault.SERVER] * 20
    assert len(service.asked) <= 20 + 3


@pytest.mark.parametrize(("throttles", "asked", "logged"), [(2, 3, 0), (5, 7, 2)])
async def test_a_throttled_query_is_sent_again(throttles: int, asked: int, logged: int) -> None:
    """A few throttled answers are not logged; five in a row are an outage, logged at both ends."""
    service = Service(*[Fault.THROTTLED] * throttles)
    results = asking(service)
    with anyio.fail_after(10), capture_logs() as lines:
        assert (await results.query("j")).job_id == "j"
    assert len(service.asked) == asked
    assert len(lines) == logged


async def test_a_refused_id_is_no_outage() -> None:
    """A refused id is an answer: the fault is that query's own, and the outage is over."""
    service = Service(Fault.SERVER, Fault.SERVER, Fault.REQUEST, Fault.REQUEST)
    results = asking(service)
    with anyio.fail_after(5), pytest.raises(CloudError) as raised:
        await results.query("j")
    assert raised.value.fault is Fault.REQUEST
    assert results.breaker.fault is None


async def test_one_job_s_fault_is_that_job_s() -> None:
    """A job that MPS fails for while it answers others is ``Unanswered``, and no outage is logged."""
    service = Service(bad={"bad"})
    results = asking(service)
    with anyio.fail_after(5), capture_logs() as lines:
        with pytest.raises(UnansweredError) as raised:
            await results.query("bad")
        assert (await results.query("good")).job_id == "good"
    assert raised.value.error.fault is Fault.SERVER
    assert service.asked == ["bad", NO_JOB, "bad", NO_JOB, "good"]
    assert lines == []
    assert results.breaker.fault is None


async def test_a_query_that_failed_alone_is_sent_again() -> None:
    """A query that failed alone is sent again at once; if many fail, they are not."""
    service = Service(Fault.SERVER)
    results = asking(service)
    with anyio.fail_after(5):
        assert (await results.query("j")).job_id == "j"
        service.faults = [Fault.SERVER]
        with pytest.raises(UnansweredError):
            await results.query("k")


async def test_many_bad_jobs_cost_few_questions() -> None:
    """Of many bad jobs that are queried at once, each costs about one query while good ones are answered."""
    bad = {f"bad{number}" for number in range(50)}
    service = Service(bad=bad)
    results = asking(service)
    unanswered: list[str] = []

    async def ask(job_id: str) -> None:
        try:
            await results.query(job_id)
        except UnansweredError:
            unanswered.append(job_id)

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            for number in range(50):
                tasks.start_soon(ask, f"bad{number}")
                tasks.start_soon(ask, f"good{number}")
    assert set(unanswered) == bad
    assert len(service.asked) <= 100 + 5
