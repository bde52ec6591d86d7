"""Everything the daemon says to PostgreSQL about keys: each batch of a kind is one statement, one transaction.

Rows are locked in the order of their keys' hashes, so that the batches of several daemons never wait for each
other in a circle. Time is the database's clock, so that daemons' clocks need not agree.

A claim's row may be missing, since a crash of the database may undo its lazy commit. Where the caller was told that
it has the claim (``told``), a renewal makes the row again and an end makes it closed, unless somebody else was there
first. A row that is there is believed.

Elsewhere: the tables (``store.postgres_schema``), gathering the batches (``store.postgres``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import asyncpg

from consumer.store.ledger import JobRecord

RECORD_TYPES: Final[Mapping[str, str]] = {
    "key": "text",
    "queue": "text",
    "kind": "text",
    "function": "text",
    "message_id": "text",
    "job_id": "text",
    "state": "text",
    "code": "text",
    "message": "text",
    "user_data": "text",
    "result": "text",
    "attempts": "bigint",
    "enqueued_at": "float8",
    "started_at": "float8",
    "ended_at": "float8",
}
LETTER_TYPES: Final[Mapping[str, str]] = {
    "reason": "text",
    "error": "text",
    "traceback": "text",
    "body": "bytea",
    "dequeue_count": "bigint",
    "first_dequeued_at": "float8",
}
_SIZE: Final = {"bytes": "bigint"}
TYPES: Final = sorted({"bytea", "boolean", *RECORD_TYPES.values(), *LETTER_TYPES.values()})
"""Every type of which statements take arrays."""
RECORD_COLUMNS: Final = ", ".join(RECORD_TYPES)
LETTER_COLUMNS: Final = ", ".join(LETTER_TYPES)


def _given(types: Mapping[str, str]) -> str:
    """The batch as a table ``given``: $1 is the holder, $2 the keys' hashes, the columns follow."""
    columns = {"key_id": "bytea", **types}
    arrays = ", ".join(f"${number}::{kind}[]" for number, kind in enumerate(columns.values(), start=2))
    return f"given AS (SELECT * FROM unnest({arrays}) AS given({', '.join(columns)}))"  # noqa: S608 - see below


# Only names and types of columns, all of them from this file, are put into these texts.
def _mine(which: str) -> str:
    """The rows of this holder that a condition chooses, locked."""
    return f"""mine AS MATERIALIZED (
  SELECT key_id, dead FROM mns_consumer_job JOIN given USING (key_id)
  WHERE holder = $1 AND {which} ORDER BY key_id FOR UPDATE OF mns_consumer_job)"""  # noqa: S608 - see above


_MINE: Final = _mine("dead IS NULL")
_TOLD: Final = {"told": "boolean"}
_MISSING: Final = """FROM given
  WHERE told AND NOT EXISTS (SELECT FROM mns_consumer_job AS job WHERE job.key_id = given.key_id)
  ORDER BY key_id ON CONFLICT (key_id) DO NOTHING RETURNING key_id"""

CLAIM: Final = f"""WITH {_given({"key": "text", "lease_s": "float8"})}, taken AS (
  INSERT INTO mns_consumer_job AS job (key_id, key, holder, held_until, claimed_at)
  SELECT key_id, key, $1, clock_timestamp() + make_interval(secs => lease_s), clock_timestamp()
  FROM given ORDER BY key_id
  ON CONFLICT (key_id) DO UPDATE SET holder = excluded.holder, held_until = excluded.held_until,
    claimed_at = excluded.claimed_at, started = false
  WHERE job.dead IS NULL
    AND (job.held_until IS NULL OR job.held_until <= clock_timestamp() OR job.holder = excluded.holder)
  RETURNING key_id, failures, starts)
SELECT key_id, taken.failures, taken.starts, job.dead, job.function, job.state, job.user_data,
  extract(epoch FROM job.held_until - clock_timestamp())::float8 AS remaining_s
FROM given LEFT JOIN taken USING (key_id) LEFT JOIN mns_consumer_job AS job USING (key_id)"""  # noqa: S608 - see above
"""Our own claim is taken again: the caller knows which ones it has, so this is one whose answer got lost. What
is told of a row that was not taken may be a moment old: it says when to come back, no more."""

RENEW: Final = f"""WITH {_given({"key": "text", "lease_s": "float8", **_TOLD})}, {_MINE}, renewed AS (
  UPDATE mns_consumer_job AS job SET held_until = clock_timestamp() + make_interval(secs => given.lease_s)
  FROM given JOIN mine USING (key_id) WHERE job.key_id = mine.key_id RETURNING job.key_id), anew AS (
  INSERT INTO mns_consumer_job (key_id, key, holder, held_until, claimed_at)
  SELECT key_id, key, $1, clock_timestamp() + make_interval(secs => lease_s), clock_timestamp() {_MISSING})
SELECT key_id FROM renewed UNION ALL SELECT key_id FROM anew"""  # noqa: S608 - see above

START: Final = f"""WITH {_given({})}, {_MINE}, begun AS (
  UPDATE mns_consumer_job AS job SET starts = starts + (NOT started)::integer, started = true
  FROM mine WHERE job.key_id = mine.key_id RETURNING job.key_id, job.starts)
SELECT key_id, coalesce(begun.starts, CASE WHEN job.dead IS NULL THEN job.starts END, 0) AS number
FROM given LEFT JOIN begun USING (key_id) LEFT JOIN mns_consumer_job AS job USING (key_id)"""  # noqa: S608 - see above

TAKE_BACK: Final = f"""WITH {_given({})}, {_MINE}
UPDATE mns_consumer_job AS job SET starts = starts - started::integer, started = false
FROM mine WHERE job.key_id = mine.key_id"""  # noqa: S608 - see above

FAIL: Final = f"""WITH {_given({"error": "text"})}, {_MINE}, failed AS (
  UPDATE mns_consumer_job AS job SET failures = failures + 1, starts = starts - started::integer, started = false,
    holder = NULL, held_until = NULL, error = given.error
  FROM given JOIN mine USING (key_id) WHERE job.key_id = mine.key_id RETURNING job.key_id, job.failures)
SELECT key_id, coalesce(failed.failures, CASE WHEN job.dead IS NULL THEN job.failures END, 0) AS number
FROM given LEFT JOIN failed USING (key_id) LEFT JOIN mns_consumer_job AS job USING (key_id)"""  # noqa: S608 - see above

RELEASE: Final = f"""WITH {_given({})}, {_MINE}
UPDATE mns_consumer_job AS job SET starts = starts - started::integer, started = false, holder = NULL, held_until = NULL
FROM mine WHERE job.key_id = mine.key_id"""  # noqa: S608 - see above


def _ended(dead: str) -> str:
    copied = ", ".join(f"{name} = given.{name}" for name in RECORD_TYPES if name != "key")
    return f"""closed AS (
  UPDATE mns_consumer_job AS job SET dead = {dead}, stored_at = clock_timestamp(), held_until = NULL, error = NULL,
    failures = 0, starts = 0, started = false, {copied}
  FROM given JOIN mine USING (key_id) WHERE job.key_id = mine.key_id AND mine.dead IS NULL
  RETURNING job.key_id), anew AS (
  INSERT INTO mns_consumer_job (key_id, holder, claimed_at, dead, stored_at, {RECORD_COLUMNS})
  SELECT key_id, $1, clock_timestamp(), {dead}, clock_timestamp(), {RECORD_COLUMNS} {_MISSING}), ended AS (
  SELECT key_id FROM closed UNION ALL SELECT key_id FROM anew)"""  # noqa: S608 - see above


def _mine_or_ended(dead: str) -> str:
    """The rows that are ended now, and those that were by an earlier call whose answer got lost.

    The lock is a write, so this commit waits for a synchronous standby even if all rows were ended before: the wait of
    the earlier commit may have been cut short.
    """
    return _mine(f"(dead IS NULL OR dead = {dead})")


_IS_ENDED: Final = """SELECT key_id, ended.key_id IS NOT NULL OR mine.dead IS NOT NULL AS ours
FROM given LEFT JOIN ended USING (key_id) LEFT JOIN mine USING (key_id)"""

_GIVEN_RECORDS: Final = _given({**RECORD_TYPES, **_TOLD})
DONE: Final = f"WITH {_GIVEN_RECORDS}, {_mine_or_ended('false')}, {_ended('false')} {_IS_ENDED}"

_GIVEN_LETTERS: Final = _given({**RECORD_TYPES, **LETTER_TYPES, **_SIZE, **_TOLD})
BURY: Final = f"""WITH {_GIVEN_LETTERS}, {_mine_or_ended("true")}, {_ended("true")}, filed AS (
  INSERT INTO mns_consumer_letter (stored_at, {RECORD_COLUMNS}, {LETTER_COLUMNS}, bytes)
  SELECT clock_timestamp(), {RECORD_COLUMNS}, {LETTER_COLUMNS}, bytes
  FROM given JOIN ended USING (key_id) ORDER BY key_id)
{_IS_ENDED}"""  # noqa: S608 - see above

PRUNE: Final = (
    """DELETE FROM mns_consumer_job WHERE key_id IN (
  SELECT key_id FROM mns_consumer_job WHERE dead IS NOT NULL
    AND stored_at <= clock_timestamp() - make_interval(secs => $1)
    ORDER BY stored_at LIMIT $2 FOR UPDATE SKIP LOCKED)""",
    """DELETE FROM mns_consumer_job WHERE key_id IN (
  SELECT key_id FROM mns_consumer_job WHERE dead IS NULL
    AND claimed_at <= clock_timestamp() - make_interval(secs => $1)
    AND (held_until IS NULL OR held_until <= clock_timestamp())
    ORDER BY claimed_at LIMIT $2 FOR UPDATE SKIP LOCKED)""",
    """DELETE FROM mns_consumer_letter WHERE id IN (
  SELECT id FROM mns_consumer_letter WHERE replay = 'replayed'
    AND replayed_at <= clock_timestamp() - make_interval(secs => $1) ORDER BY replayed_at LIMIT $2
    FOR UPDATE SKIP LOCKED)""",
)
"""$1 is the age in seconds, $2 the most rows."""

PRUNE_LETTERS: Final = """DELETE FROM mns_consumer_letter WHERE id IN (
  SELECT id FROM mns_consumer_letter WHERE stored_at <= clock_timestamp() - make_interval(secs => $1)
  ORDER BY stored_at LIMIT $2 FOR UPDATE SKIP LOCKED)"""
"""The same for letters that nobody replayed."""

WAITING: Final = """SELECT queue, reason, count(*) AS count, sum(bytes)::bigint AS size_bytes,
  extract(epoch FROM min(stored_at))::float8 AS oldest_at
FROM mns_consumer_letter WHERE replay <> 'replayed' GROUP BY queue, reason ORDER BY queue, reason"""

NOW: Final = "SELECT extract(epoch FROM clock_timestamp())::float8"

PING: Final = "UPDATE mns_consumer_schema SET version = version"


def columns(rows: Sequence[Any], names: Mapping[str, str]) -> list[list[Any]]:
    """Turn records or letters into the arrays of a statement, in the order of its columns."""
    return [[getattr(row, name) for row in rows] for name in names]


def record_of(row: asyncpg.Record) -> JobRecord:
    """The record in a row that has its columns."""
    return JobRecord(**{name: row[name] for name in RECORD_TYPES})
