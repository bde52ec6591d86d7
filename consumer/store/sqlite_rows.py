"""How records lie in SQLite's rows, both ways: one place knows the order of the columns.

Elsewhere: the tables (``store.sqlite_file``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from consumer.policy import Reason
from consumer.store.clip import fit_letter, fit_record, letter_bytes
from consumer.store.dead_letters import StoredJob, StoredLetter
from consumer.store.ledger import DeadLetter, JobRecord, LetterState, WaitingLetters
from consumer.store.sqlite_file import key_hash, marks

RECORD_COLUMNS: Final = (
    "key, queue, kind, function, message_id, job_id, state, code, message, user_data, result,"
    " attempts, enqueued_at, started_at, ended_at"
)
_RECORD_WIDTH: Final = 15
_LETTER_COLUMNS: Final = f"reason, error, traceback, body, dequeue_count, first_dequeued_at, {RECORD_COLUMNS}"

# Only column names and question marks are put into these texts.
INSERT_JOB: Final = f"INSERT INTO job (key_hash, id, dead, holder, stored_at, {RECORD_COLUMNS}) VALUES ({marks(20)})"  # noqa: S608 - constants only
INSERT_LETTER: Final = f"INSERT INTO letter (replay, stored_at, bytes, {_LETTER_COLUMNS}) VALUES ({marks(24)})"  # noqa: S608 - constants only
SELECT_LETTER: Final = f"SELECT id, replay, stored_at, replayed_at, {_LETTER_COLUMNS} FROM letter"  # noqa: S608 - constants only
SELECT_JOB: Final = f"SELECT id, dead, stored_at, {RECORD_COLUMNS} FROM job"  # noqa: S608 - constants only

SELECT_WAITING: Final = (
    "SELECT queue, reason, count(*), sum(bytes), min(stored_at) FROM letter"
    " WHERE replay <> 'replayed' GROUP BY queue, reason ORDER BY queue, reason"
)


def job_row(record: JobRecord, *, number: int, dead: bool, holder: str, now: float) -> tuple[Any, ...]:
    """The parameters of ``INSERT_JOB``; the hash and the id come first."""
    return (key_hash(record.key), number, dead, holder, now, *_record_row(fit_record(record)))


def letter_row(letter: DeadLetter, *, now: float) -> tuple[Any, ...]:
    """The parameters of ``INSERT_LETTER``."""
    letter = fit_letter(letter)
    return (
        LetterState.SET_ASIDE.value,
        now,
        letter_bytes(letter),
        letter.reason.value,
        letter.error,
        letter.traceback,
        letter.body,
        letter.dequeue_count,
        letter.first_dequeued_at,
        *_record_row(letter.job),
    )


def stored_letter(row: Sequence[Any]) -> StoredLetter:
    """A row of ``SELECT_LETTER``."""
    number, replay, stored_at, replayed_at, reason, error, traceback, body, count, first = row[:-_RECORD_WIDTH]
    letter = DeadLetter(
        job=_record(row[-_RECORD_WIDTH:]),
        reason=Reason(reason),
        error=error,
        traceback=traceback,
        body=body,
        dequeue_count=count,
        first_dequeued_at=first,
    )
    return StoredLetter(number, letter, LetterState(replay), stored_at, replayed_at)


def stored_job(row: Sequence[Any]) -> StoredJob:
    """A row of ``SELECT_JOB``."""
    return StoredJob(_record(row[3:]), dead=bool(row[1]), stored_at=row[2], cursor=str(row[0]))


def waiting_letters(row: Sequence[Any]) -> WaitingLetters:
    """A row of ``SELECT_WAITING``."""
    queue, reason, count, size_bytes, oldest_at = row
    return WaitingLetters(queue, Reason(reason), count, size_bytes, oldest_at)


def _record_row(record: JobRecord) -> tuple[Any, ...]:
    return (
        record.key,
        record.queue,
        record.kind,
        record.function,
        record.message_id,
        record.job_id,
        record.state,
        record.code,
        record.message,
        record.user_data,
        record.result,
        record.attempts,
        record.enqueued_at,
        record.started_at,
        record.ended_at,
    )


def _record(row: Sequence[Any]) -> JobRecord:
    key, queue, kind, function, message_id, job_id, state, code, message, user_data, result = row[:11]
    attempts, enqueued_at, started_at, ended_at = row[11:]
    return JobRecord(
        key=key,
        queue=queue,
        kind=kind,
        function=function,
        message_id=message_id,
        job_id=job_id,
        state=state,
        code=code,
        message=message,
        user_data=user_data,
        result=result,
        attempts=attempts,
        enqueued_at=enqueued_at,
        started_at=started_at,
        ended_at=ended_at,
    )
