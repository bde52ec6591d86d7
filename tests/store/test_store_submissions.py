"""Submissions are recorded before they are sent, found when they are due, and closed once, on each engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import pytest

from consumer.errors import UsageError
from consumer.message.notification import job_key
from consumer.policy import SubmissionState
from consumer.store.ledger import DeadLetterRecord, JobRecord, Ledger
from consumer.store.open import open_submissions
from consumer.store.submissions import NewSubmission, Submission, Submissions
from consumer.store_address import parse_store_address

MakeRecord = Callable[..., JobRecord]
MakeLetter = Callable[..., DeadLetterRecord]
QUEUE = "1/cn-hangzhou/films"
COVER = NewSubmission(QUEUE, "Cover", '{"input": "oss://b.oss-cn-hangzhou.aliyuncs.com/f.mp4"}')


@pytest.fixture
async def submissions(target: str, ledger: Ledger) -> AsyncIterator[Submissions]:
    async with open_submissions(parse_store_address(target)) as opened:
        yield opened


async def submit(submissions: Submissions, job_id: str, *, next_in_s: float = 0.0, ref: str | None = None) -> int:
    """Record a submission that MPS accepts."""
    found, is_new = await submissions.record(replace(COVER, ref=ref))
    assert is_new
    await submissions.submitted(
        found.id, job_id=job_id, key=job_key(QUEUE, job_id), request_id="R", next_in_s=next_in_s
    )
    return found.id


async def get(submissions: Submissions, number: int) -> Submission:
    found = await submissions.get(number)
    assert found is not None
    return found


async def end(ledger: Ledger, record: JobRecord) -> None:
    await ledger.claim(record.key, 60)
    assert await ledger.done(record)


async def test_an_intent_is_recorded_and_gets_its_job(submissions: Submissions) -> None:
    """A submission is an intent before the call, and has its JobId and the time of MPS's first question after it."""
    found, is_new = await submissions.record(COVER)
    assert is_new
    assert (found.state, found.queue, found.function, found.request) == (
        SubmissionState.INTENT,
        QUEUE,
        "Cover",
        COVER.request,
    )
    assert found.job_id is None
    assert found.next_at is None
    await submissions.submitted(found.id, job_id="j", key=job_key(QUEUE, "j"), request_id="R", next_in_s=60)
    after = await get(submissions, found.id)
    assert (after.state, after.job_id, after.request_id) == (SubmissionState.SUBMITTED, "j", "R")
    assert after.submitted_at is not None
    assert after.next_at == pytest.approx(after.submitted_at + 60)
    assert await submissions.find_job("j") == after


async def test_submissions_without_a_ref_are_two(submissions: Submissions) -> None:
    """The same request twice without a ref is two submissions."""
    first, second = await submissions.record(COVER), await submissions.record(COVER)
    assert first[1]
    assert second[1]
    assert first[0].id != second[0].id


async def test_one_of_many_callers_sends_a_ref(submissions: Submissions) -> None:
    """Of several callers with one ref one sends, and all get the same submission."""
    found = await asyncio.gather(*(submissions.record(replace(COVER, ref="film-7")) for _ in range(8)))
    assert sum(is_new for _, is_new in found) == 1
    assert len({one.id for one, _ in found}) == 1
    assert (await submissions.find_ref("film-7")) is not None


async def test_a_ref_belongs_to_one_request(submissions: Submissions) -> None:
    """Another request with a ref that is taken is refused; the error names the submission and its function."""
    await submissions.record(replace(COVER, ref="film-7"))
    with pytest.raises(UsageError, match="ref 'film-7' belongs to submission 1 of Cover"):
        await submissions.record(replace(COVER, ref="film-7", request="{}"))


@pytest.mark.parametrize("ref", ["", "x" * 201, "a\nb", "a\x00b", "\ud800"])
async def test_a_ref_that_can_not_be_stored_is_refused(submissions: Submissions, ref: str) -> None:
    """A ref has 1 to 200 printable characters."""
    with pytest.raises(UsageError, match="expected 1 to 200 printable characters"):
        await submissions.record(replace(COVER, ref=ref))


async def test_a_refused_submission_is_sent_again(submissions: Submissions) -> None:
    """A ref whose submission was refused may be sent again, even with a corrected request; another state may not."""
    first, _ = await submissions.record(replace(COVER, ref="film-7"))
    await submissions.close_as(first.id, SubmissionState.REFUSED, "InvalidParameter: Input")
    refused = await get(submissions, first.id)
    assert (refused.state, refused.error) == (SubmissionState.REFUSED, "InvalidParameter: Input")
    again, is_new = await submissions.record(replace(COVER, ref="film-7", request="{}"))
    assert is_new
    assert (again.id, again.state, again.error, again.request) == (first.id, SubmissionState.INTENT, None, "{}")
    await submissions.close_as(first.id, SubmissionState.UNKNOWN, "no answer")
    _, is_new = await submissions.record(replace(COVER, ref="film-7", request="{}"))
    assert not is_new


async def test_an_old_intent_is_unknown(submissions: Submissions, monkeypatch: pytest.MonkeyPatch) -> None:
    """An intent whose process must have ended counts as unknown; a young one stays, and a late answer still counts."""
    found, _ = await submissions.record(COVER)
    assert await submissions.lose_intents(QUEUE) == 0
    monkeypatch.setattr("consumer.store.submissions.CALL_LIMIT_S", -1.0)
    assert await submissions.lose_intents("1/cn-hangzhou/other") == 0
    assert await submissions.lose_intents(QUEUE) == 1
    lost = await get(submissions, found.id)
    assert lost.state is SubmissionState.UNKNOWN
    assert "may exist and be billed" in (lost.error or "")
    await submissions.submitted(found.id, job_id="j", key=job_key(QUEUE, "j"), request_id="R", next_in_s=60)
    assert (await get(submissions, found.id)).state is SubmissionState.SUBMITTED


async def test_a_due_submission_is_taken_once(submissions: Submissions) -> None:
    """Only what is due is taken, the longest due first, and no other caller gets it until its lease ends."""
    first = await submit(submissions, "a")
    second = await submit(submissions, "b")
    await submit(submissions, "later", next_in_s=60)
    taken = await asyncio.gather(*(submissions.take_due(QUEUE, limit=1, lease_s=30) for _ in range(4)))
    assert sorted(one.id for found in taken for one in found) == [first, second]
    assert await submissions.take_due("1/cn-hangzhou/other", limit=9, lease_s=30) == []
    await submissions.ask_again(first, after_s=0, asked=True)
    (again,) = await submissions.take_due(QUEUE, limit=9, lease_s=0)
    assert (again.id, again.asked) == (first, 1)


async def test_a_due_submission_whose_job_has_ended_is_closed(
    submissions: Submissions, ledger: Ledger, make_record: MakeRecord, make_letter: MakeLetter
) -> None:
    """A job that the ledger has closed, done or dead, is not asked for; its submission has ended."""
    done, dead, still = [await submit(submissions, job) for job in ("done", "dead", "still")]
    await end(ledger, make_record(job_key(QUEUE, "done")))
    await ledger.claim(job_key(QUEUE, "dead"), 60)
    await ledger.set_aside(make_letter(job_key(QUEUE, "dead")))
    await ledger.claim(job_key(QUEUE, "still"), 60)
    assert [one.id for one in await submissions.take_due(QUEUE, limit=9, lease_s=30)] == [still]
    for number in (done, dead):
        closed = await get(submissions, number)
        assert closed.state is SubmissionState.ENDED
        assert closed.closed_at is not None


async def test_jobs_that_end_close_their_submissions(
    submissions: Submissions, ledger: Ledger, make_record: MakeRecord
) -> None:
    """Each look closes what has ended since the last one, also what is not due."""
    one, other = await submit(submissions, "one", next_in_s=600), await submit(submissions, "other", next_in_s=600)
    first = await submissions.newest_end()
    await end(ledger, make_record(job_key(QUEUE, "one")))
    second = await submissions.newest_end()
    # A stretch of no length, and one that is too long for one statement.
    await submissions.note_ended(second, second)
    await submissions.note_ended(second - 1e9, second)
    assert (await get(submissions, one)).state is SubmissionState.SUBMITTED
    await submissions.note_ended(first, second)
    assert (await get(submissions, one)).state is SubmissionState.ENDED
    assert (await get(submissions, other)).state is SubmissionState.SUBMITTED
    await end(ledger, make_record(job_key(QUEUE, "other")))
    await submissions.note_ended(second, await submissions.newest_end())
    assert (await get(submissions, other)).state is SubmissionState.ENDED


async def test_open_submissions_are_counted_by_state(submissions: Submissions) -> None:
    """A queue's open submissions are counted by state; closed ones are not."""
    await submissions.record(COVER)
    await submit(submissions, "a")
    refused, _ = await submissions.record(COVER)
    await submissions.close_as(refused.id, SubmissionState.REFUSED)
    unknown, _ = await submissions.record(COVER)
    await submissions.close_as(unknown.id, SubmissionState.UNKNOWN)
    assert await submissions.count(QUEUE) == {
        SubmissionState.INTENT: 1,
        SubmissionState.SUBMITTED: 1,
        SubmissionState.UNKNOWN: 1,
    }
    assert set((await submissions.count("1/cn-hangzhou/other")).values()) == {0}


async def test_closed_submissions_are_pruned(submissions: Submissions) -> None:
    """Only what was closed long ago is removed, in steps."""
    still = await submit(submissions, "a")
    for _ in range(3):
        found, _ = await submissions.record(COVER)
        await submissions.close_as(found.id, SubmissionState.REFUSED)
    assert await submissions.prune(older_than_s=60, limit=9) == 0
    assert await submissions.prune(older_than_s=-1, limit=2) == 2
    assert await submissions.prune(older_than_s=-1, limit=2) == 1
    assert (await get(submissions, still)).state is SubmissionState.SUBMITTED


async def test_a_closed_submission_stays_closed(submissions: Submissions) -> None:
    """Nothing opens or changes a submission that has ended."""
    number = await submit(submissions, "a")
    await submissions.close_as(number, SubmissionState.ENDED)
    ended = await get(submissions, number)
    await submissions.ask_again(number, after_s=0, asked=True)
    await submissions.close_as(number, SubmissionState.EXPIRED)
    await submissions.submitted(number, job_id="b", key=job_key(QUEUE, "b"), request_id="R", next_in_s=1)
    assert await get(submissions, number) == ended


async def test_open_submissions_are_listed(submissions: Submissions) -> None:
    """Open submissions are listed by pages, the latest first, of all queues or of one; closed ones are not."""
    first = await submit(submissions, "a")
    other, _ = await submissions.record(replace(COVER, queue="1/cn-hangzhou/other"))
    closed = await submit(submissions, "b")
    await submissions.close_as(closed, SubmissionState.ENDED)
    unknown, _ = await submissions.record(COVER)
    await submissions.close_as(unknown.id, SubmissionState.UNKNOWN)
    assert [one.id for one in await submissions.list_open(limit=2)] == [unknown.id, other.id]
    assert [one.id for one in await submissions.list_open(limit=2, before=other.id)] == [first]
    assert [one.id for one in await submissions.list_open(limit=9, queue=QUEUE)] == [unknown.id, first]


async def test_a_job_of_another_program_is_tracked_once(submissions: Submissions) -> None:
    """A job that another program submitted is recorded once and is due at once; one that is recorded stays as it is."""
    own = await submit(submissions, "own", next_in_s=600)
    assert not await submissions.track(QUEUE, "own", "Cover")
    assert await submissions.track(QUEUE, "other", "Cover")
    assert not await submissions.track(QUEUE, "other", "Cover")
    (due,) = await submissions.take_due(QUEUE, limit=9, lease_s=30)
    assert (due.job_id, due.function, due.state) == ("other", "Cover", SubmissionState.SUBMITTED)
    assert (await get(submissions, own)).state is SubmissionState.SUBMITTED
