"""What the commands of a batch do on PostgreSQL: each kind is one statement, one transaction.

Rows are locked in the order of their keys' hashes, so that the batches of several daemons never deadlock. Times are
those of the database's clock, so that the daemons' clocks need not agree.

A claim whose row is gone is lost, as after a failover to a standby that lacked it: its renewal and its end say so, and
its message comes again.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import partial
from typing import Final

import asyncpg

from consumer.store.commands import (
    A,
    AnyCommand,
    ClaimCommand,
    DoneCommand,
    EndRunCommand,
    KeyedCommand,
    ReleaseCommand,
    RenewCommand,
    Reply,
    SetAsideCommand,
    StartCommand,
    only,
)
from consumer.store.ledger import (
    ClaimAnswer,
    Claimed,
    DeadLetterRecord,
    Elsewhere,
    Ended,
    JobRecord,
    RunRecord,
    StoredLetter,
    WaitingLetters,
)
from consumer.store.rows import (
    ENDED_COLUMNS,
    ENDED_COLUMNS_SQL,
    JOB_COLUMNS,
    JOB_COLUMNS_SQL,
    LETTER_COLUMNS,
    LETTER_COLUMNS_SQL,
    OPEN_COLUMNS,
    RUN_COLUMNS,
    RUNS_KEPT,
    STORED_LETTER_COLUMNS,
    count_waiting_sql,
    fit_letter,
    fit_record,
    fit_run,
    job_values,
    key_id,
    letter_values,
    read_letter,
    read_waiting,
    run_values,
)

_UNKNOWN_REMAINING_S: Final = 1.0  # when to retry a key that another holder took while we asked

_NOW_SQL: Final = "extract(epoch FROM clock_timestamp())::float8"

_SQL_TYPES: Final = {
    "str": "text",
    "str | None": "text",
    "Reason": "text",
    "int": "bigint",
    "float": "float8",
    "float | None": "float8",
    "bytes": "bytea",
}
_ANNOTATIONS: Final = {
    field.name: str(field.type) for record in (JobRecord, DeadLetterRecord) for field in fields(record)
}
_JOB_TYPES: Final = {name: _SQL_TYPES[_ANNOTATIONS[name]] for name in JOB_COLUMNS}
_LETTER_TYPES: Final = {name: _SQL_TYPES[_ANNOTATIONS[name]] for name in LETTER_COLUMNS}
_RUN_TYPES: Final = {field.name: _SQL_TYPES[str(field.type)] for field in fields(RunRecord)}
_RUN_COLUMNS_SQL: Final = ", ".join(RUN_COLUMNS)


def _given(types: Mapping[str, str]) -> str:
    """The batch as a table ``given``: $1 is the holder, $2 the hashes of the keys, the columns follow."""
    columns = {"key_id": "bytea", **types}
    arrays = ", ".join(f"${number}::{kind}[]" for number, kind in enumerate(columns.values(), start=2))
    return f"given AS (SELECT * FROM unnest({arrays}) AS given({', '.join(columns)}))"  # noqa: S608 - see below


# Only names and types of columns, all of them from this file, are put into these texts.
def _mine(which: str) -> str:
    """This holder's rows that meet a condition, locked."""
    return f"""mine AS MATERIALIZED (
  SELECT key_id, dead FROM mns_consumer_job JOIN given USING (key_id)
  WHERE holder = $1 AND {which} ORDER BY key_id FOR UPDATE OF mns_consumer_job)"""  # noqa: S608 - see above


_MINE: Final = _mine("dead IS NULL")
CLAIM: Final = f"""WITH {_given({"key": "text", "lease_s": "float8"})}, taken AS (
  INSERT INTO mns_consumer_job AS job (key_id, key, holder, held_until, claimed_at)
  SELECT key_id, key, $1, {_NOW_SQL} + lease_s, {_NOW_SQL}
  FROM given ORDER BY key_id
  ON CONFLICT (key_id) DO UPDATE SET holder = excluded.holder, held_until = excluded.held_until,
    claimed_at = excluded.claimed_at, started = false
  WHERE job.dead IS NULL
    AND (job.held_until IS NULL OR job.held_until <= {_NOW_SQL}
      OR job.holder = excluded.holder AND job.key_id <> ALL ($5::bytea[]))
  RETURNING key_id, failures, starts, trace_parent)
SELECT key_id, taken.failures, taken.starts, taken.trace_parent, {ENDED_COLUMNS_SQL},
  job.held_until - {_NOW_SQL} AS remaining_s
FROM given LEFT JOIN taken USING (key_id) LEFT JOIN mns_consumer_job AS job USING (key_id)"""  # noqa: S608 - see above
"""$5 are the confirmed claims of this holder. What the answer says of a row that was not taken may be outdated: it only
says when to retry."""

RENEW: Final = f"""WITH {_given({"lease_s": "float8"})}, {_MINE}
UPDATE mns_consumer_job AS job SET held_until = {_NOW_SQL} + given.lease_s
FROM given JOIN mine USING (key_id) WHERE job.key_id = mine.key_id RETURNING job.key_id"""  # noqa: S608 - see above

START: Final = f"""WITH {_given({})}, {_MINE}, begun AS (
  UPDATE mns_consumer_job AS job SET starts = starts + (NOT started)::integer, started = true
  FROM mine WHERE job.key_id = mine.key_id RETURNING job.key_id, job.starts)
SELECT key_id, coalesce(begun.starts, CASE WHEN job.dead IS NULL THEN job.starts END, 0) AS number
FROM given LEFT JOIN begun USING (key_id) LEFT JOIN mns_consumer_job AS job USING (key_id)"""  # noqa: S608 - see above

_UNDO_START: Final = f"""WITH {_given({})}, {_MINE}
UPDATE mns_consumer_job AS job SET starts = starts - started::integer, started = false
FROM mine WHERE job.key_id = mine.key_id"""  # noqa: S608 - see above

END_RUN: Final = f"""WITH {_given({**_RUN_TYPES, "is_counted": "boolean"})}, {_MINE}, left_open AS (
  UPDATE mns_consumer_job AS job SET failures = failures + is_counted::integer, starts = starts - started::integer,
    started = false, holder = NULL, held_until = NULL, {", ".join(f"{name} = given.{name}" for name in OPEN_COLUMNS)}
  FROM given JOIN mine USING (key_id) WHERE job.key_id = mine.key_id RETURNING job.key_id, job.failures),
dropped AS (
  DELETE FROM mns_consumer_run WHERE id IN (SELECT id FROM (
    SELECT id, row_number() OVER (PARTITION BY key_id ORDER BY id DESC) AS place
    FROM mns_consumer_run JOIN mine USING (key_id)) AS earlier WHERE place >= {RUNS_KEPT}) RETURNING id),
shortened AS (
  UPDATE mns_consumer_run AS run SET traceback = NULL FROM given JOIN mine USING (key_id)
  WHERE run.key_id = mine.key_id AND run.error = given.error AND run.traceback IS NOT NULL
    AND given.traceback IS NOT NULL AND run.id NOT IN (SELECT id FROM dropped)),
added AS (
  INSERT INTO mns_consumer_run (key_id, stored_at, {_RUN_COLUMNS_SQL})
  SELECT key_id, {_NOW_SQL}, {_RUN_COLUMNS_SQL} FROM given JOIN mine USING (key_id) ORDER BY key_id)
SELECT key_id, coalesce(left_open.failures, CASE WHEN job.dead IS NULL THEN job.failures END, 0) AS number
FROM given LEFT JOIN left_open USING (key_id) LEFT JOIN mns_consumer_job AS job USING (key_id)"""  # noqa: S608 - see above
"""All parts see the rows as they were before: the run that is added is not among those that are dropped."""

RELEASE: Final = f"""WITH {_given({})}, {_MINE}
UPDATE mns_consumer_job AS job SET starts = starts - started::integer, started = false, holder = NULL, held_until = NULL
FROM mine WHERE job.key_id = mine.key_id"""  # noqa: S608 - see above


def _ended(dead: str) -> str:
    copied = ", ".join(f"{name} = given.{name}" for name in _JOB_TYPES if name != "key")
    return f"""ended AS (
  UPDATE mns_consumer_job AS job SET dead = {dead}, stored_at = {_NOW_SQL}, held_until = NULL, error = NULL,
    failures = 0, starts = 0, started = false, retry_at = NULL, trace_parent = NULL, {copied}
  FROM given JOIN mine USING (key_id) WHERE job.key_id = mine.key_id AND mine.dead IS NULL
  RETURNING job.key_id)"""  # noqa: S608 - see above


def _mine_or_ended(dead: str) -> str:
    """The rows that end now, and those that an earlier call has ended whose answer got lost.

    The lock is a write, so this commit waits for a synchronous standby even if all rows were ended before: the earlier
    commit may not have waited to the end.
    """
    return _mine(f"(dead IS NULL OR dead = {dead})")


_IS_ENDED: Final = """SELECT key_id, ended.key_id IS NOT NULL OR mine.dead IS NOT NULL AS ours
FROM given LEFT JOIN ended USING (key_id) LEFT JOIN mine USING (key_id)"""

DONE: Final = f"WITH {_given(_JOB_TYPES)}, {_mine_or_ended('false')}, {_ended('false')} {_IS_ENDED}"

_GIVEN_LETTERS: Final = _given({**_JOB_TYPES, **_LETTER_TYPES, "bytes": "bigint"})
SET_ASIDE: Final = f"""WITH {_GIVEN_LETTERS}, {_mine_or_ended("true")}, {_ended("true")}, filed AS (
  INSERT INTO mns_consumer_letter (stored_at, {JOB_COLUMNS_SQL}, {LETTER_COLUMNS_SQL}, bytes)
  SELECT {_NOW_SQL}, {JOB_COLUMNS_SQL}, {LETTER_COLUMNS_SQL}, bytes
  FROM given JOIN ended USING (key_id) ORDER BY key_id)
{_IS_ENDED}"""  # noqa: S608 - see above


def _prune_sql(table: str, column: str, time_column: str, condition: str) -> str:
    """Remove the oldest rows; $1 is the age in seconds, $2 the most rows.

    By the time at which the statement began: an index finds rows by a time that stays.
    """
    return f"""DELETE FROM {table} WHERE {column} IN (SELECT {column} FROM {table}
  WHERE {time_column} <= extract(epoch FROM statement_timestamp())::float8 - $1 AND {condition}
  ORDER BY {time_column} LIMIT $2 FOR UPDATE SKIP LOCKED)"""  # noqa: S608 - constants only


_OPEN_AND_FREE: Final = f"dead IS NULL AND (held_until IS NULL OR held_until <= {_NOW_SQL})"
_PRUNE: Final = (
    _prune_sql("mns_consumer_job", "key_id", "stored_at", "dead IS NOT NULL"),
    _prune_sql("mns_consumer_run", "id", "stored_at", "true"),
    _prune_sql("mns_consumer_job", "key_id", "claimed_at", _OPEN_AND_FREE),
    _prune_sql("mns_consumer_letter", "id", "replayed_at", "replay = 'replayed'"),
)
_PRUNE_LETTERS: Final = _prune_sql("mns_consumer_letter", "id", "stored_at", "true")

COUNT_WAITING: Final = count_waiting_sql("mns_consumer_letter")

_LETTERS_COLUMNS_SQL: Final = ", ".join(f"letter.{name}" for name in STORED_LETTER_COLUMNS)
# By the time at which the statement began, as in ``_prune_sql``.
TAKE_DUE_HOOKS: Final = f"""WITH begun AS (SELECT extract(epoch FROM statement_timestamp())::float8 AS at), due AS (
  SELECT id FROM mns_consumer_letter
  WHERE queue = $1 AND hook_at <= extract(epoch FROM statement_timestamp())::float8 AND replay = 'set_aside'
  ORDER BY hook_at LIMIT $2 FOR UPDATE SKIP LOCKED)
UPDATE mns_consumer_letter AS letter
SET hook_at = begun.at + least(greatest(begun.at - letter.stored_at, $3), $4)
FROM due, begun WHERE letter.id = due.id RETURNING {_LETTERS_COLUMNS_SQL}"""  # noqa: S608 - see above
HOOK_DONE: Final = "UPDATE mns_consumer_letter SET hook_at = NULL WHERE id = $1"

NOW: Final = f"SELECT {_NOW_SQL}"

PING: Final = "UPDATE mns_consumer_revision SET version_num = version_num"


class PostgresStatements:
    """The claims of one holder and its part in the database.

    Every method executes commands of one kind, no key twice, and may be repeated with the same result. It raises
    whatever the driver raises, or the error of a value that can't be sent; then nothing was written.
    """

    def __init__(self) -> None:
        self._holder = secrets.token_hex(16)
        # The running claims whose callers got an answer: a second delivery of such a key is answered Elsewhere. Any
        # other claim that the database has of this holder lost its answer, and may be claimed again at once.
        self._confirmed: set[str] = set()

    async def execute(self, connection: asyncpg.Connection, commands: Sequence[AnyCommand]) -> list[Reply]:
        """Execute commands, and return their replies together with what these say of our claims."""
        match commands[0]:
            case ClaimCommand():
                return await self._claim(connection, only(ClaimCommand, commands))
            case RenewCommand():
                return await self._renew(connection, only(RenewCommand, commands))
            case StartCommand():
                started = only(StartCommand, commands)
                return _numbers(started, await self._by_key(connection, START, started))
            case EndRunCommand():
                over = only(EndRunCommand, commands)
                runs = [(*run_values(fit_run(command.run)), command.is_counted) for command in over]
                rows = await self._by_key(connection, END_RUN, over, *zip(*runs, strict=True))
                return [*_numbers(over, rows), self._end_claims(over)]
            case DoneCommand():
                done = only(DoneCommand, commands)
                columns = zip(*(job_values(fit_record(command.record)) for command in done), strict=True)
                return await self._close(connection, DONE, done, *columns)
            case SetAsideCommand():
                dead = only(SetAsideCommand, commands)
                letters = [fit_letter(command.letter) for command in dead]
                values = [(*job_values(letter.job), *letter_values(letter), letter.size_bytes) for letter in letters]
                return await self._close(connection, SET_ASIDE, dead, *zip(*values, strict=True))
            case ReleaseCommand():
                released = only(ReleaseCommand, commands)
                await connection.execute(RELEASE, self._holder, _key_ids(released))
                return [*(command.answered(None) for command in released), self._end_claims(released)]
            case other:
                raise TypeError(f"unexpected {other.name}")

    async def renew(self, connection: asyncpg.Connection, leases: Mapping[str, float]) -> set[str]:
        """Renew claims for the given seconds; returns the keys whose claims are lost."""
        keys = {key_id(key): key for key in leases}
        rows = await connection.fetch(RENEW, self._holder, list(keys), list(leases.values())) if leases else ()
        return set(leases) - {keys[row["key_id"]] for row in rows}

    async def undo_starts(self, connection: asyncpg.Connection, keys: Sequence[str]) -> None:
        """Undo the starts that our claims have recorded."""
        await connection.execute(_UNDO_START, self._holder, [key_id(key) for key in keys])

    async def _claim(self, connection: asyncpg.Connection, commands: Sequence[ClaimCommand]) -> list[Reply]:
        keys, leases_s = [command.key for command in commands], [command.lease_s for command in commands]
        confirmed = [key_id(key) for key in keys if key in self._confirmed]
        rows = await self._by_key(connection, CLAIM, commands, keys, leases_s, confirmed)
        answers = [_claim_answer(row) for row in rows]
        claimed = [key for key, answer in zip(keys, answers, strict=True) if isinstance(answer, Claimed)]
        replies = [command.answered(answer) for command, answer in zip(commands, answers, strict=True)]
        return [*replies, partial(self._confirmed.update, claimed)]

    async def _renew(self, connection: asyncpg.Connection, commands: Sequence[RenewCommand]) -> list[Reply]:
        leases: dict[str, float] = {}
        for command in commands:
            for key in command.keys:
                leases[key] = max(command.lease_s, leases.get(key, 0.0))
        lost = await self.renew(connection, leases)
        replies = [command.answered([key for key in command.keys if key in lost]) for command in commands]
        return [*replies, partial(self._confirmed.difference_update, lost)]

    async def _close(
        self,
        connection: asyncpg.Connection,
        statement: str,
        commands: Sequence[KeyedCommand[bool]],
        *columns: Sequence[object],
    ) -> list[Reply]:
        rows = await self._by_key(connection, statement, commands, *columns)
        replies = [command.answered(bool(row["ours"])) for command, row in zip(commands, rows, strict=True)]
        return [*replies, self._end_claims(commands)]

    def _end_claims(self, commands: Sequence[KeyedCommand[A]]) -> Reply:
        return partial(self._confirmed.difference_update, [command.key for command in commands])

    async def _by_key(
        self,
        connection: asyncpg.Connection,
        statement: str,
        commands: Sequence[KeyedCommand[A]],
        *arrays: Sequence[object],
    ) -> Sequence[asyncpg.Record]:
        """Execute one statement about the commands' keys; its rows in the order of the commands."""
        ids = _key_ids(commands)
        rows = {row["key_id"]: row for row in await connection.fetch(statement, self._holder, ids, *arrays)}
        return [rows[found] for found in ids]


def _key_ids(commands: Sequence[KeyedCommand[A]]) -> list[bytes]:
    return [key_id(command.key) for command in commands]


def _numbers(commands: Sequence[KeyedCommand[int]], rows: Sequence[asyncpg.Record]) -> list[Reply]:
    return [command.answered(int(row["number"])) for command, row in zip(commands, rows, strict=True)]


def _claim_answer(row: asyncpg.Record) -> ClaimAnswer:
    if row["failures"] is not None:
        return Claimed(row["failures"], row["starts"], row["trace_parent"])
    if row["dead"] is not None:
        return Ended(*(row[name] for name in ENDED_COLUMNS))
    remaining_s = row["remaining_s"]
    return Elsewhere(_UNKNOWN_REMAINING_S if remaining_s is None else max(0.0, remaining_s))


async def count_waiting(connection: asyncpg.Connection) -> list[WaitingLetters]:
    """See ``Ledger.waiting``."""
    return [read_waiting(tuple(row)) for row in await connection.fetch(COUNT_WAITING)]


async def take_due_hooks(
    connection: asyncpg.Connection, queue: str, limit: int, least_s: float, most_s: float
) -> list[StoredLetter]:
    """See ``Ledger.take_due_hooks``."""
    rows = await connection.fetch(TAKE_DUE_HOOKS, queue, limit, least_s, most_s)
    return sorted((read_letter(tuple(row)) for row in rows), key=lambda letter: letter.id)


async def ask_now(connection: asyncpg.Connection) -> float:
    """See ``Ledger.now``."""
    return float(await connection.fetchval(NOW))


async def prune(
    connection: asyncpg.Connection, older_than_s: float, limit: int, letters_older_than_s: float | None
) -> int:
    """See ``Ledger.prune``."""
    ages = [(statement, older_than_s) for statement in _PRUNE]
    if letters_older_than_s is not None:
        ages.append((_PRUNE_LETTERS, letters_older_than_s))
    removed = 0
    for statement, age_s in ages:
        if removed < limit:
            removed += changed_rows(await connection.execute(statement, age_s, limit - removed))
    return removed


def changed_rows(status: str) -> int:
    """The number at the end of a status such as ``DELETE 12``."""
    return int(status.rpartition(" ")[2])
