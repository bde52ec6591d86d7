"""The database: its tables, and the operators' access."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import asyncpg

from consumer.errors import StoreSchemaError
from consumer.store.migrate import migration
from consumer.store.postgres.connection import STATEMENT_TIMEOUT_S, Link
from consumer.store.postgres.statements import NOW, changed_rows
from consumer.store.rows import SCHEMA_REVISION, check_revision, too_slow, unreleased
from consumer.store_address import PostgresAddress

if TYPE_CHECKING:
    from consumer.store.session import Session

T = TypeVar("T")

MAKE_SETTINGS: Final = {"lock_timeout": "0", "statement_timeout": "0"}
"""For ``make_tables``: another daemon may be making them."""
_MIGRATE_SETTINGS: Final = {"lock_timeout": "5000", "statement_timeout": "0"}
"""Daemons wait behind a statement that waits for a table's lock: so not for long."""

_SCHEMA: Final = Path(__file__).with_name("schema.sql")
_LOCK: Final = 0x6D6E735F636F6E73
"""The advisory lock of the one process that makes or changes the tables: "mns_cons" in ASCII."""
_TIMEOUT_S: Final = 60.0
_MIGRATION_TIMEOUT_S: Final = 3600.0
_DROP: Final = "drop its tables (DROP TABLE mns_consumer_job, mns_consumer_letter, mns_consumer_schema)"
_SET_REVISION: Final = (
    "INSERT INTO mns_consumer_revision SELECT $1 WHERE NOT EXISTS (SELECT FROM mns_consumer_revision)"
)


async def has_tables(connection: asyncpg.Connection, address: str) -> bool:
    """Whether the tables are there. Changes nothing and needs no right to; ``address`` is for errors.

    Raises:
        StoreSchemaError: They are of another revision, or the database can't hold all text.
    """
    # Other encodings refuse the text of some job, or keep bytes that can't be read back (SQL_ASCII).
    encoding = await connection.fetchval("SELECT current_setting('server_encoding')")
    if encoding != "UTF8":
        raise StoreSchemaError(
            f"store {address} has the encoding {encoding}, expected UTF8;"
            " name a database that was made by CREATE DATABASE ... ENCODING 'UTF8' TEMPLATE template0"
        )
    found = await revision_of(connection, address)
    if found is not None:
        check_revision(address, found)
    return found is not None


async def revision_of(connection: asyncpg.Connection, address: str) -> str | None:
    """The revision of the tables; ``None`` when there are none.

    Raises:
        StoreSchemaError: They are of before the first release.
    """
    if await connection.fetchval("SELECT to_regclass('mns_consumer_revision')") is not None:
        return await _read_revision(connection)
    if await connection.fetchval("SELECT to_regclass('mns_consumer_schema')") is not None:
        raise unreleased(address, _DROP)
    return None


async def _read_revision(connection: asyncpg.Connection) -> str:
    return str(await connection.fetchval("SELECT max(version_num) FROM mns_consumer_revision"))


async def make_tables(connection: asyncpg.Connection, address: str) -> None:
    """Make the tables that are missing, in a transaction without a limit for its statements.

    Raises:
        StoreSchemaError: A program of another revision has made them meanwhile.
    """
    # Several daemons may start at once. A second look for the tables would not do: a transaction remembers that a table
    # is missing, also when another session has made it meanwhile. CREATE TABLE IF NOT EXISTS does not.
    await connection.execute(f"SELECT pg_advisory_xact_lock({_LOCK})", timeout=_TIMEOUT_S)
    await connection.execute(_SCHEMA.read_text(encoding="utf-8"), timeout=_TIMEOUT_S)
    await connection.execute(_SET_REVISION, SCHEMA_REVISION)
    check_revision(address, await _read_revision(connection))


async def migrate(address: PostgresAddress) -> str | None:
    """Bring the tables to this program's revision, in one transaction; daemons may run meanwhile.

    Returns:
        The revision that they had; ``None`` if there were none.

    Raises:
        StoreError: They can't be changed now. Nothing has changed, unless the answer to the commit was lost.
            ``StoreSchemaError``: They are of a later revision, or as for ``revision_of``.
    """
    link = Link(address, {})

    async def change(connection: asyncpg.Connection) -> str | None:
        await connection.execute(f"SELECT pg_advisory_xact_lock({_LOCK})", timeout=_TIMEOUT_S)
        found = await revision_of(connection, link.address)
        if found is None:
            await make_tables(connection, link.address)
        elif found < SCHEMA_REVISION:
            for statement in migration("postgresql", found):
                await connection.execute(statement, timeout=_MIGRATION_TIMEOUT_S)
        else:
            check_revision(link.address, found)
        return found

    try:
        return await link.run(change, settings=_MIGRATE_SETTINGS)
    finally:
        await link.close()


async def find_revision(address: PostgresAddress) -> str | None:
    """See ``revision_of``."""
    link = Link(address, {})
    try:
        return await link.run(lambda connection: revision_of(connection, link.address))
    finally:
        await link.close()


class PostgresDatabase:
    """A ``Database`` on a server."""

    def __init__(self, address: PostgresAddress) -> None:
        self._link = Link(address, {})

    async def run(self, work: Callable[[Session], Awaitable[T]], *, atomic: bool = False) -> T:
        """See ``Database.run``."""

        async def checked(connection: asyncpg.Connection) -> T:
            if not await has_tables(connection, self._link.address):
                check_revision(self._link.address, None)
            return await work(PostgresSession(connection, self._link.address))

        return await self._link.run(checked, atomic=atomic)

    async def close(self) -> None:
        """See ``Database.close``."""
        await self._link.close()


class PostgresSession:
    """A ``Session`` on a connection."""

    def __init__(self, connection: asyncpg.Connection, address: str) -> None:
        self._connection = connection
        self._address = address

    async def fetch(self, statement: str, values: Sequence[object]) -> Sequence[Sequence[Any]]:
        """See ``Session.fetch``."""
        try:
            return [tuple(row) for row in await self._connection.fetch(statement, *values)]
        except asyncpg.QueryCanceledError as error:
            raise too_slow(self._address, STATEMENT_TIMEOUT_S) from error

    async def execute(self, statement: str, values: Sequence[object]) -> int:
        """See ``Session.execute``."""
        return changed_rows(await self._connection.execute(statement, *values))

    async def now(self) -> float:
        """See ``Session.now``."""
        return float(await self._connection.fetchval(NOW))
