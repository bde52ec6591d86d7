"""What the reconciler does with a due submission, by what MPS answers and what became of its job."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from consumer.cloud.mps import JobStatus
from consumer.errors import CloudError, Fault
from consumer.message.notification import job_key
from consumer.policy import SubmissionState
from consumer.store.open import open_submissions
from consumer.store.submissions import NewSubmission, Submission, Submissions
from consumer.store_address import parse_store_address
from consumer.submissions.reconcile import MPS_KEEPS_S, Counts, Handled, Reconciler, backoff_s
from tests.stores import new_file

QUEUE = "1/cn-hangzhou/films"
RUNS = JobStatus("j", "Cover", "Analysing", None, None, None, None, found=True)
ENDED = replace(RUNS, state="Success")
UNKNOWN = replace(RUNS, function=None, state=None, found=False)
DOWN = CloudError(Fault.SERVER, operation="QueryIProductionJob", target="mps", code="Http500", detail="down")


@dataclass
class World:
    """MPS's answer, and what handling an ended job comes to."""

    submissions: Submissions
    answer: JobStatus | CloudError = RUNS
    handled_as: Handled = Handled(None, was_lost=True)  # noqa: RUF009 - frozen
    asked: list[str] = field(default_factory=list)
    handled: list[str] = field(default_factory=list)
    found: list[str] = field(default_factory=list)
    counts: Counts = field(default_factory=dict)

    async def query(self, job_id: str) -> JobStatus:
        self.asked.append(job_id)
        if isinstance(self.answer, CloudError):
            raise self.answer
        return self.answer

    async def handle(self, answer: JobStatus) -> Handled:
        self.handled.append(answer.job_id)
        return self.handled_as

    def set_counts(self, counts: Counts) -> None:
        self.counts = counts

    def reconciler(self) -> Reconciler:
        return Reconciler(
            self.submissions,
            QUEUE,
            "films",
            query=self.query,
            handle=self.handle,
            is_ready=lambda: True,
            on_counts=self.set_counts,
            on_found=self.found.append,
        )

    async def submit(self, job_id: str = "j") -> int:
        one, _ = await self.submissions.record(NewSubmission(QUEUE, "Cover", "{}"))
        key = job_key(QUEUE, job_id)
        await self.submissions.submitted(one.id, job_id=job_id, key=key, request_id="R", next_in_s=0)
        return one.id

    async def one_pass(self) -> list[Submission]:
        """Take what is due, ask for it, and return it as it is afterwards."""
        reconciler = self.reconciler()
        taken = await reconciler.look()
        for one in taken:
            await reconciler.ask(one)
        after = [await self.submissions.get(one.id) for one in taken]
        return [one for one in after if one is not None]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    path = tmp_path / "store" / "s.db"
    new_file(path).close()
    async with open_submissions(parse_store_address(str(path))) as submissions:
        yield World(submissions)


async def test_a_running_job_is_asked_for_again_later(world: World) -> None:
    """A job that still runs is asked for again after a minute, then after two, and is not handled."""
    await world.submit()
    (one,) = await world.one_pass()
    assert one.state is SubmissionState.SUBMITTED
    assert one.asked == 1
    assert one.next_at is not None
    assert 47 < one.next_at - time.time() <= 60
    assert not world.handled
    assert await world.one_pass() == []


async def test_an_ended_job_is_handled_and_its_submission_has_ended(world: World) -> None:
    """A job that has ended is handled like a message; once the ledger has closed it, so is the submission."""
    world.answer = ENDED
    await world.submit()
    with capture_logs() as lines:
        (one,) = await world.one_pass()
    assert one.state is SubmissionState.ENDED
    assert (world.handled, world.found) == (["j"], ["Cover"])
    (line,) = [line for line in lines if line["event"] == "end found by asking"]
    assert (line["queue"], line["function"], line["job_id"]) == ("films", "Cover", "j")


async def test_a_job_that_a_message_ended_was_not_lost(world: World) -> None:
    """A job that a message has ended meanwhile closes its submission, and does not count as lost."""
    world.answer, world.handled_as = ENDED, Handled(None, was_lost=False)
    await world.submit()
    (one,) = await world.one_pass()
    assert one.state is SubmissionState.ENDED
    assert not world.found


async def test_a_job_whose_handler_failed_is_tried_again(world: World) -> None:
    """A job whose handler asks for a retry stays open until then, and does not count as found."""
    world.answer, world.handled_as = ENDED, Handled(300.0, was_lost=False)
    await world.submit()
    (one,) = await world.one_pass()
    assert (one.state, one.asked) == (SubmissionState.SUBMITTED, 0)
    assert one.next_at is not None
    assert 290 < one.next_at - time.time() <= 300
    assert not world.found


@pytest.mark.parametrize("answer", [DOWN, UNKNOWN])
async def test_a_job_that_mps_says_nothing_of_stays_open(world: World, answer: JobStatus | CloudError) -> None:
    """A fault of MPS, and a job that it does not know, end no submission: it is asked for again."""
    world.answer = answer
    await world.submit()
    (one,) = await world.one_pass()
    assert one.state is SubmissionState.SUBMITTED
    assert one.next_at is not None
    assert one.next_at > time.time() + 40


@pytest.mark.parametrize("answer", [RUNS, UNKNOWN, DOWN])
async def test_a_submission_expires_with_mps_memory(
    world: World, answer: JobStatus | CloudError, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the three months for which MPS keeps a job its submission is expired, with an error in the log."""
    world.answer = answer
    await world.submit()
    monkeypatch.setattr("consumer.submissions.reconcile.MPS_KEEPS_S", -1.0)
    with capture_logs() as lines:
        (one,) = await world.one_pass()
    assert one.state is SubmissionState.EXPIRED
    assert [line["log_level"] for line in lines if line["event"] == "submission expired"] == ["error"]


async def test_an_ended_job_is_handled_however_old(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job whose end MPS still knows is handled, whatever its age."""
    world.answer = ENDED
    await world.submit()
    monkeypatch.setattr("consumer.submissions.reconcile.MPS_KEEPS_S", -1.0)
    (one,) = await world.one_pass()
    assert one.state is SubmissionState.ENDED


async def test_the_counts_of_open_submissions_are_given(world: World) -> None:
    """Each pass gives the number of open submissions by state."""
    await world.submit()
    await world.reconciler().look()
    assert world.counts[SubmissionState.SUBMITTED] == 1


@pytest.mark.parametrize(
    ("asked", "least", "most"), [(1, 48, 60), (2, 96, 120), (6, 1536, 1920), (7, 2880, 3600), (99, 2880, 3600)]
)
def test_the_pause_doubles_from_a_minute_to_an_hour(asked: int, least: float, most: float) -> None:
    """The pause between two questions doubles from a minute to an hour, with 20 % jitter."""
    assert all(least <= backoff_s(asked) <= most for _ in range(100))


def test_mps_keeps_jobs_for_three_months() -> None:
    """A submission expires no sooner than MPS drops its job."""
    assert MPS_KEEPS_S >= 90 * 86_400
