"""The database: its tables, and the operators' access."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import asyncpg

from consumer.errors import StoreSchemaError
from consumer.store.postgres.connection import STATEMENT_TIMEOUT_S, Link
from consumer.store.postgres.statements import NOW, changed_rows
from consumer.store.rows import SCHEMA_VERSION, check_version, too_slow
from consumer.store_address import PostgresAddress

if TYPE_CHECKING:
    from consumer.store.queries import Session

T = TypeVar("T")

MAKE_SETTINGS: Final = {"lock_timeout": "0", "statement_timeout": "0"}
"""For ``make_tables``: another daemon may be making them."""

_SCHEMA: Final = Path(__file__).with_name("schema.sql")
_LOCK: Final = 0x6D6E735F636F6E73
"""The advisory lock of the one daemon that makes the tables: "mns_cons" in ASCII."""
_TIMEOUT_S: Final = 60.0
_DROP: Final = "drop its tables (DROP TABLE mns_consumer_job, mns_consumer_letter, mns_consumer_schema)"


async def has_tables(connection: asyncpg.Connection, address: str) -> bool:
    """Whether the tables are there. Changes nothing and needs no right to; ``address`` is for errors.

    Raises:
        StoreSchemaError: They are of another version, or the database can't hold all text.
    """
    # Other encodings refuse the text of some job, or keep bytes that can't be read back (SQL_ASCII).
    encoding = await connection.fetchval("SELECT current_setting('server_encoding')")
    if encoding != "UTF8":
        raise StoreSchemaError(
            f"store {address} has the encoding {encoding}, expected UTF8;"
            " name a database that was made by CREATE DATABASE ... ENCODING 'UTF8' TEMPLATE template0"
        )
    if await connection.fetchval("SELECT to_regclass('mns_consumer_schema')") is None:
        return False
    await _check_version(connection, address)
    return True


async def make_tables(connection: asyncpg.Connection, address: str) -> None:
    """Make the tables that are missing, in a transaction that has ``MAKE_SETTINGS``.

    Raises:
        StoreSchemaError: Another version of this program has made them meanwhile.
    """
    # Several daemons may start at once. A second look for the tables would not do: a transaction remembers that a table
    # is missing, also when another session has made it meanwhile. CREATE TABLE IF NOT EXISTS does not.
    await connection.execute(f"SELECT pg_advisory_xact_lock({_LOCK})", timeout=_TIMEOUT_S)
    await connection.execute(_SCHEMA.read_text(encoding="utf-8"), timeout=_TIMEOUT_S)
    await connection.execute(
        "INSERT INTO mns_consumer_schema (version) SELECT $1 WHERE NOT EXISTS (SELECT FROM mns_consumer_schema)",
        SCHEMA_VERSION,
    )
    await _check_version(connection, address)


async def _check_version(connection: asyncpg.Connection, address: str) -> None:
    found = await connection.fetchval("SELECT coalesce(max(version), 0) FROM mns_consumer_schema")
    check_version(address, found, _DROP)


class PostgresDatabase:
    """A ``Database`` on a server."""

    def __init__(self, address: PostgresAddress) -> None:
        self._link = Link(address, {})

    async def run(self, work: Callable[[Session], Awaitable[T]], *, atomic: bool = False) -> T:
        """See ``Database.run``."""

        async def checked(connection: asyncpg.Connection) -> T:
            if not await has_tables(connection, self._link.address):
                raise StoreSchemaError(
                    f"store {self._link.address} has no tables yet; the daemon makes them when it first runs"
                )
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
