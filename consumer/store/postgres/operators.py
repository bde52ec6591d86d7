"""The operators' access to a database."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, TypeVar

import asyncpg

from consumer.store.postgres.connection import Link
from consumer.store.postgres.database import check_tables
from consumer.store.postgres.statements import NOW, NOW_SQL, changed_rows
from consumer.store.queries import Dialect, Session, StoredJob
from consumer.store.rows import JOB_COLUMNS, JOB_COLUMNS_SQL, job_values, key_id
from consumer.store_address import PostgresAddress

_CURSOR: Final = re.compile(r"(\d{1,12}(?:\.\d{1,9})?)-([0-9a-f]{32})", re.ASCII)

# An open key may even run: that run goes on, and earlier failures no longer count.
_RESET: Final = "UPDATE mns_consumer_job SET failures = 0, starts = 0, started = false, error = NULL WHERE key_id = $1"
_CLOSE: Final = f"""INSERT INTO mns_consumer_job AS job (key_id, dead, claimed_at, stored_at, {JOB_COLUMNS_SQL})
VALUES ($1, $2, {NOW_SQL}, {NOW_SQL}, {", ".join(f"${n}" for n in range(3, 3 + len(JOB_COLUMNS)))})
ON CONFLICT (key_id) DO UPDATE SET dead = excluded.dead, stored_at = excluded.stored_at, holder = NULL,
  held_until = NULL, error = NULL, failures = 0, starts = 0, started = false,
  {", ".join(f"{name} = excluded.{name}" for name in JOB_COLUMNS)}
WHERE job.dead IS NULL AND (job.held_until IS NULL OR job.held_until <= {NOW_SQL})"""  # noqa: S608 - names of columns only
"""Unless the key has ended or runs: like a claim, it takes over a key whose lease has ended."""

T = TypeVar("T")


def _close_values(job: StoredJob) -> Sequence[object]:
    return (key_id(job.record.key), job.dead, *job_values(job.record))


def _parse_cursor(text: str) -> Sequence[object] | None:
    found = _CURSOR.fullmatch(text)
    return None if found is None else [float(found[1]), bytes.fromhex(found[2])]


class PostgresDatabase:
    """A ``Database`` on a server."""

    dialect = Dialect(
        jobs="mns_consumer_job",
        letters="mns_consumer_letter",
        mark="$",
        read_time="{}",
        write_time="{}::float8",
        for_update=" FOR UPDATE",
        hash_key=lambda key: (key_id(key),),
        has_key="key_id = $1",
        forget_attempts=_RESET,
        close=_CLOSE,
        close_values=_close_values,
        # Several jobs may end in one microsecond: the key decides among them.
        job_order=("stored_at", "key_id"),
        read_cursor="stored_at || '-' || encode(key_id, 'hex')",
        write_cursor=("{}::float8", "{}"),
        parse_cursor=_parse_cursor,
    )

    def __init__(self, address: PostgresAddress) -> None:
        # Durable: a letter must not forget that its body was sent.
        self._link = Link(address, {}, durable=True)

    async def run(self, work: Callable[[Session], Awaitable[T]], *, atomic: bool = False) -> T:
        """See ``Database.run``."""

        async def checked(connection: asyncpg.Connection) -> T:
            await check_tables(connection, self._link.address)
            return await work(PostgresSession(connection))

        return await self._link.run(checked, atomic=atomic)

    async def close(self) -> None:
        """See ``Database.close``."""
        await self._link.close()


class PostgresSession:
    """A ``Session`` on a connection."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection

    async def fetch(self, statement: str, *values: object) -> Sequence[Sequence[Any]]:
        """See ``Session.fetch``."""
        return [tuple(row) for row in await self._connection.fetch(statement, *values)]

    async def execute(self, statement: str, *values: object) -> int:
        """See ``Session.execute``."""
        return changed_rows(await self._connection.execute(statement, *values))

    async def now(self) -> float:
        """See ``Session.now``."""
        return float(await self._connection.fetchval(NOW))
