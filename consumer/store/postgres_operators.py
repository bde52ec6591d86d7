"""The operators' side of a store on PostgreSQL.

Elsewhere: what each call means (``store.dead_letters``), the tables (``store.postgres_schema``).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, TypeVar

import asyncpg

from consumer.policy import Reason
from consumer.store.dead_letters import StoredJob, StoredLetter, not_replaying, replayed_already, unknown_letter
from consumer.store.ledger import DeadLetter, Filter, LetterState
from consumer.store.postgres_link import DURABLE_COMMIT, Link
from consumer.store.postgres_schema import check, key_id
from consumer.store.postgres_statements import LETTER_COLUMNS, LETTER_TYPES, RECORD_COLUMNS, record_of

_PURGE_STEP: Final = 200

# Only names of columns are put into these texts.
_SELECT_LETTER: Final = f"""SELECT id, replay, extract(epoch FROM stored_at)::float8 AS stored_s,
  extract(epoch FROM replayed_at)::float8 AS replayed_s, {LETTER_COLUMNS}, {RECORD_COLUMNS}
FROM mns_consumer_letter"""  # noqa: S608 - see above
_SELECT_JOB: Final = f"""SELECT dead, extract(epoch FROM stored_at)::float8 AS stored_s, {RECORD_COLUMNS}
FROM mns_consumer_job"""  # noqa: S608 - see above
_REOPEN: Final = (
    "DELETE FROM mns_consumer_job WHERE key_id = $1 AND dead IS NOT NULL",
    # Open already, or even running: what runs goes on, what failed before no longer counts.
    "UPDATE mns_consumer_job SET failures = 0, starts = 0, started = false, error = NULL WHERE key_id = $1",
)

T = TypeVar("T")


class PostgresOperators:
    """``Operators`` on a database.

    Args:
        dsn: As for ``PostgresLedger``.
    """

    def __init__(self, dsn: str) -> None:
        # A letter must not forget that its body was sent.
        self._link = Link(dsn, DURABLE_COMMIT)

    async def close(self) -> None:
        """See ``Operators.close``."""
        await self._link.close()

    async def list_letters(self, wanted: Filter, *, limit: int, offset: int = 0) -> Sequence[StoredLetter]:
        """See ``Operators.list_letters``."""
        where, values = _letters_where(wanted)
        statement = f"{_SELECT_LETTER} WHERE {where} ORDER BY id LIMIT {int(limit)} OFFSET {int(offset)}"
        return [_letter(row) for row in await self._with(lambda connection: connection.fetch(statement, *values))]

    async def count_letters(self, wanted: Filter) -> int:
        """See ``Operators.count_letters``."""
        where, values = _letters_where(wanted)
        statement = f"SELECT count(*) FROM mns_consumer_letter WHERE {where}"  # noqa: S608 - names of columns only
        return int(await self._with(lambda connection: connection.fetchval(statement, *values)))

    async def get_letter(self, letter_id: int) -> StoredLetter:
        """See ``Operators.get_letter``."""
        return await self._with(lambda connection: _get(connection, letter_id))

    async def begin_replay(self, letter_id: int, *, force: bool = False) -> StoredLetter:
        """See ``Operators.begin_replay``."""

        async def begin(connection: asyncpg.Connection) -> StoredLetter:
            async with connection.transaction():
                found = await _get(connection, letter_id, lock=True)
                if found.state is LetterState.REPLAYED and not force:
                    raise replayed_already(letter_id, found.replayed_at)
                await _set(connection, letter_id, LetterState.REPLAYING)
                for statement in _REOPEN:
                    await connection.execute(statement, key_id(found.letter.job.key))
                return await _get(connection, letter_id)

        return await self._with(begin)

    async def finish_replay(self, letter_id: int) -> None:
        """See ``Operators.finish_replay``."""

        async def finish(connection: asyncpg.Connection) -> None:
            async with connection.transaction():
                state = (await _get(connection, letter_id, lock=True)).state
                if state is LetterState.SET_ASIDE:
                    raise not_replaying(letter_id, state)
                if state is LetterState.REPLAYING:
                    await _set(connection, letter_id, LetterState.REPLAYED, ", replayed_at = clock_timestamp()")

        await self._with(finish)

    async def cancel_replay(self, letter_id: int) -> None:
        """See ``Operators.cancel_replay``."""

        async def cancel(connection: asyncpg.Connection) -> None:
            async with connection.transaction():
                found = await _get(connection, letter_id, lock=True)
                if found.state is not LetterState.REPLAYING:
                    raise not_replaying(letter_id, found.state)
                # One that had been sent in an earlier replay stays a replayed one.
                before = LetterState.SET_ASIDE if found.replayed_at is None else LetterState.REPLAYED
                await _set(connection, letter_id, before)

        await self._with(cancel)

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

    async def list_jobs(self, wanted: Filter, *, limit: int, offset: int = 0) -> Sequence[StoredJob]:
        """See ``Operators.list_jobs``."""
        if wanted.ids or wanted.reason is not None or wanted.state is not None:
            return []
        where, values = _where(wanted)
        statement = (
            f"{_SELECT_JOB} WHERE dead IS NOT NULL AND {where} ORDER BY stored_at DESC"
            f" LIMIT {int(limit)} OFFSET {int(offset)}"
        )
        rows = await self._with(lambda connection: connection.fetch(statement, *values))
        return [StoredJob(record_of(row), dead=row["dead"], stored_at=row["stored_s"]) for row in rows]

    async def _with(self, work: Callable[[asyncpg.Connection], Awaitable[T]]) -> T:
        async def checked(connection: asyncpg.Connection) -> T:
            await check(connection, self._link.address)
            return await work(connection)

        return await self._link.run(checked)


async def _get(connection: asyncpg.Connection, letter_id: int, *, lock: bool = False) -> StoredLetter:
    row = await connection.fetchrow(f"{_SELECT_LETTER} WHERE id = $1{' FOR UPDATE' if lock else ''}", letter_id)
    if row is None:
        raise unknown_letter(letter_id)
    return _letter(row)


async def _set(connection: asyncpg.Connection, letter_id: int, state: LetterState, further: str = "") -> None:
    statement = f"UPDATE mns_consumer_letter SET replay = $2{further} WHERE id = $1"  # noqa: S608 - constants only
    await connection.execute(statement, letter_id, state.value)


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
