"""The operators' side of a store on PostgreSQL.

Elsewhere: what each call means (``store.dead_letters``), the tables (``store.postgres_schema``).
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, TypeVar

import asyncpg

from consumer.policy import Reason
from consumer.store.dead_letters import (
    NEVER_REPLAYED,
    Begun,
    Progress,
    StoredJob,
    StoredLetter,
    demand_begun,
    demand_unchanged,
    is_handled,
    not_replaying,
    replayed_already,
    unknown_cursor,
    unknown_letter,
)
from consumer.store.ledger import DeadLetter, Filter, LetterState
from consumer.store.postgres_link import Link
from consumer.store.postgres_schema import check, key_id
from consumer.store.postgres_statements import LETTER_COLUMNS, LETTER_TYPES, RECORD_COLUMNS, RECORD_TYPES, record_of
from consumer.store_address import PostgresAddress

_PURGE_STEP: Final = 200

# Only names of columns are put into these texts.
_SELECT_LETTER: Final = f"""SELECT id, replay, extract(epoch FROM stored_at)::float8 AS stored_s,
  extract(epoch FROM replayed_at)::float8 AS replayed_s, {LETTER_COLUMNS}, {RECORD_COLUMNS}
FROM mns_consumer_letter"""  # noqa: S608 - see above
_SELECT_JOB: Final = f"""SELECT dead, extract(epoch FROM stored_at)::float8 AS stored_s,
  (extract(epoch FROM stored_at) * 1000000)::bigint AS stored_us, key_id, {RECORD_COLUMNS}
FROM mns_consumer_job"""  # noqa: S608 - see above
_CURSOR: Final = re.compile(r"(\d{1,17})-([0-9a-f]{32})", re.ASCII)
_FROM_MICROSECONDS: Final = "timestamptz 'epoch' + ${}::bigint * interval '1 microsecond'"
_OPEN: Final = "DELETE FROM mns_consumer_job WHERE key_id = $1 AND dead IS NOT NULL"
# Open already, or even running: what runs goes on, what failed before no longer counts.
_RESET: Final = "UPDATE mns_consumer_job SET failures = 0, starts = 0, started = false, error = NULL WHERE key_id = $1"
_CLOSE: Final = f"""INSERT INTO mns_consumer_job AS job (key_id, dead, claimed_at, stored_at, {RECORD_COLUMNS})
VALUES ($1, $2, clock_timestamp(), clock_timestamp(), {", ".join(f"${n}" for n in range(3, 3 + len(RECORD_TYPES)))})
ON CONFLICT (key_id) DO UPDATE SET dead = excluded.dead, stored_at = excluded.stored_at, holder = NULL,
  held_until = NULL, error = NULL, failures = 0, starts = 0, started = false,
  {", ".join(f"{name} = excluded.{name}" for name in RECORD_TYPES)}
WHERE job.dead IS NULL AND (job.held_until IS NULL OR job.held_until <= clock_timestamp())"""  # noqa: S608 - see above
"""Unless it has ended or runs: like a claim, it takes a key over whose holder is late."""

_MARK: Final = """UPDATE mns_consumer_letter SET replay = $2, replayed_at = clock_timestamp() WHERE id = $1
RETURNING extract(epoch FROM replayed_at)::float8"""
_PUT_BACK: Final = "UPDATE mns_consumer_letter SET replay = $2, replayed_at = to_timestamp($3::float8) WHERE id = $1"

T = TypeVar("T")


class PostgresOperators:
    """``Operators`` on a database.

    Args:
        address: The database's.
    """

    def __init__(self, address: PostgresAddress) -> None:
        # A letter must not forget that its body was sent.
        self._link = Link(address, {}, durable=True)

    async def close(self) -> None:
        """See ``Operators.close``."""
        await self._link.close()

    async def list_letters(
        self, wanted: Filter, *, limit: int, after: int | None = None, latest_first: bool = False
    ) -> Sequence[StoredLetter]:
        """See ``Operators.list_letters``."""
        where, values = _letters_where(wanted)
        if after is not None:
            values.append(after)
            where += f" AND id {'<' if latest_first else '>'} ${len(values)}"
        order = "DESC" if latest_first else "ASC"
        statement = f"{_SELECT_LETTER} WHERE {where} ORDER BY id {order} LIMIT {int(limit)}"
        return [_letter(row) for row in await self._with(lambda connection: connection.fetch(statement, *values))]

    async def count_letters(self, wanted: Filter) -> int:
        """See ``Operators.count_letters``."""
        where, values = _letters_where(wanted)
        statement = f"SELECT count(*) FROM mns_consumer_letter WHERE {where}"  # noqa: S608 - names of columns only
        return int(await self._with(lambda connection: connection.fetchval(statement, *values)))

    async def get_letter(self, letter_id: int) -> StoredLetter:
        """See ``Operators.get_letter``."""
        return await self._with(lambda connection: _get(connection, letter_id))

    async def begin_replay(
        self, letter_id: int, *, seen: Progress = NEVER_REPLAYED, force: bool = False
    ) -> Begun | None:
        """See ``Operators.begin_replay``."""

        async def begin(connection: asyncpg.Connection) -> Begun | None:
            found = await _get(connection, letter_id, lock=True)
            demand_unchanged(found, seen)
            if found.state is LetterState.REPLAYED and not force:
                raise replayed_already(letter_id, found.replayed_at)
            key = key_id(found.letter.job.key)
            row = await connection.fetchrow(f"{_SELECT_JOB} WHERE key_id = $1 AND dead IS NOT NULL FOR UPDATE", key)
            ended = None if row is None else _job(row)
            if is_handled(found, ended) and not force:
                await _set(connection, letter_id, LetterState.REPLAYED)
                return None
            began_at = await _set(connection, letter_id, LetterState.REPLAYING)
            for statement in (_OPEN, _RESET):
                await connection.execute(statement, key)
            return Begun(found, began_at, ended)

        return await self._with(begin, atomic=True)

    async def finish_replay(self, letter_id: int) -> None:
        """See ``Operators.finish_replay``."""

        async def finish(connection: asyncpg.Connection) -> None:
            state = (await _get(connection, letter_id, lock=True)).state
            if state is LetterState.SET_ASIDE:
                raise not_replaying(letter_id, state)
            if state is LetterState.REPLAYING:
                await _set(connection, letter_id, LetterState.REPLAYED)

        await self._with(finish, atomic=True)

    async def cancel_replay(self, begun: Begun) -> None:
        """See ``Operators.cancel_replay``."""

        async def cancel(connection: asyncpg.Connection) -> None:
            before, ended = begun.before, begun.ended
            demand_begun(await _get(connection, before.id, lock=True), begun)
            await connection.execute(_PUT_BACK, before.id, before.state.value, before.replayed_at)
            if ended is not None:
                values = [getattr(ended.record, name) for name in RECORD_TYPES]
                await connection.execute(_CLOSE, key_id(ended.record.key), ended.dead, *values)

        await self._with(cancel, atomic=True)

    async def purge(self, wanted: Filter) -> int:
        """See ``Operators.purge``."""
        where, values = _letters_where(wanted)
        # Names of columns only.
        statement = (
            f"DELETE FROM mns_consumer_letter WHERE id IN"  # noqa: S608 - as above
            f" (SELECT id FROM mns_consumer_letter WHERE {where} ORDER BY id LIMIT {_PURGE_STEP})"
        )
        gone = 0
        while removed := int(
            (await self._with(lambda connection: connection.execute(statement, *values))).rpartition(" ")[2]
        ):
            gone += removed
        return gone

    async def list_jobs(
        self, wanted: Filter, *, limit: int, dead: bool | None = None, after: str | None = None
    ) -> Sequence[StoredJob]:
        """See ``Operators.list_jobs``."""
        if wanted.ids or wanted.reason is not None or wanted.state is not None:
            return []
        where, values = _where(wanted)
        where += " AND dead IS NOT NULL"
        if dead is not None:
            values.append(dead)
            where += f" AND dead = ${len(values)}"
        if after is not None:
            if (found := _CURSOR.fullmatch(after)) is None:
                raise unknown_cursor(after)
            # Several jobs may end in one microsecond: the key decides among them.
            values += [int(found[1]), bytes.fromhex(found[2])]
            where += f" AND (stored_at, key_id) < ({_FROM_MICROSECONDS.format(len(values) - 1)}, ${len(values)})"
        statement = f"{_SELECT_JOB} WHERE {where} ORDER BY stored_at DESC, key_id DESC LIMIT {int(limit)}"
        rows = await self._with(lambda connection: connection.fetch(statement, *values))
        return [_job(row) for row in rows]

    async def _with(self, work: Callable[[asyncpg.Connection], Awaitable[T]], *, atomic: bool = False) -> T:
        async def checked(connection: asyncpg.Connection) -> T:
            await check(connection, self._link.address)
            return await work(connection)

        return await self._link.run(checked, atomic=atomic)


async def _get(connection: asyncpg.Connection, letter_id: int, *, lock: bool = False) -> StoredLetter:
    row = await connection.fetchrow(f"{_SELECT_LETTER} WHERE id = $1{' FOR UPDATE' if lock else ''}", letter_id)
    if row is None:
        raise unknown_letter(letter_id)
    return _letter(row)


async def _set(connection: asyncpg.Connection, letter_id: int, state: LetterState) -> float:
    """Mark a letter, and say by the database's clock when that was."""
    return float(await connection.fetchval(_MARK, letter_id, state.value))


def _job(row: asyncpg.Record) -> StoredJob:
    cursor = f"{row['stored_us']}-{row['key_id'].hex()}"
    return StoredJob(record_of(row), dead=row["dead"], stored_at=row["stored_s"], cursor=cursor)


def _letter(row: asyncpg.Record) -> StoredLetter:
    fields = {name: row[name] for name in LETTER_TYPES}
    letter = DeadLetter(job=record_of(row), **{**fields, "reason": Reason(fields["reason"])})
    return StoredLetter(row["id"], letter, LetterState(row["replay"]), row["stored_s"], row["replayed_s"])


def _where(wanted: Filter) -> tuple[str, list[Any]]:
    """The condition of what jobs and letters both have, and its parameters."""
    values: list[Any] = []
    conditions = ["true"]
    given = [("queue =", wanted.queue), ("function =", wanted.function), ("job_id =", wanted.job_id)]
    for text, value in given:
        if value is not None:
            values.append(value)
            conditions.append(f"{text} ${len(values)}")
    if wanted.since is not None:
        values.append(wanted.since)
        conditions.append(f"stored_at >= to_timestamp(${len(values)}::float8)")
    return " AND ".join(conditions), values


def _letters_where(wanted: Filter) -> tuple[str, list[Any]]:
    where, values = _where(wanted)
    if wanted.reason is not None:
        values.append(wanted.reason.value)
        where += f" AND reason = ${len(values)}"
    if wanted.state is not None:
        values.append(wanted.state.value)
        where += f" AND replay = ${len(values)}"
    if wanted.ids:
        values.append(list(wanted.ids))
        where += f" AND id = ANY(${len(values)}::bigint[])"
    return where, values
