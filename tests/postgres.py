"""A PostgreSQL server, with a schema for each test. Without a server tests are skipped, and fail in CI.

It is expected at ``TEST_POSTGRES_URL``. Several test runs may share a server.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NoReturn
from urllib.parse import urlsplit

import asyncpg

from tests.missing import missing
from tests.tcp_proxy import TcpProxy, through

ADDRESS: Final = os.environ.get("TEST_POSTGRES_URL", "postgresql://postgres@127.0.0.1:5432/test")


class NoPostgresError(Exception):
    """There is no server, or it refuses the login."""

    def demand(self) -> NoReturn:
        """Skip at home, fail in CI."""
        missing(str(self))


@contextmanager
def new_schema() -> Iterator[str]:
    """The name of an empty schema, dropped at the end.

    Raises:
        NoPostgresError: As it says.
    """
    schema = f"mns_consumer_test_{secrets.token_hex(6)}"
    try:
        asyncio.run(_execute(f"SET synchronous_commit = off; CREATE SCHEMA {schema}"))
    except (OSError, asyncpg.PostgresError) as error:
        text = f"no PostgreSQL at {urlsplit(ADDRESS).hostname} ({error}); set TEST_POSTGRES_URL"
        raise NoPostgresError(text) from None
    try:
        yield schema
    finally:
        # What a failed test left in a transaction may keep a lock for a while.
        asyncio.run(_execute(f"SET lock_timeout = '10s'; SET synchronous_commit = off; DROP SCHEMA {schema} CASCADE"))


@contextmanager
def postgres_schema() -> Iterator[str]:
    """The name of an empty schema; skips or fails where there is no server."""
    try:
        with new_schema() as schema:
            yield schema
    except NoPostgresError as error:
        error.demand()


@contextmanager
def postgres_store() -> Iterator[str]:
    """The address of a store in an empty schema; skips or fails where there is no server."""
    with postgres_schema() as schema:
        yield store_at(ADDRESS, schema)


def store_at(address: str, schema: str) -> str:
    """The address of a store in a schema."""
    return f"{address}{'&' if '?' in address else '?'}search_path={schema}"


def store_through(proxy: TcpProxy, schema: str, password: str = "") -> str:
    """The address of a store in a schema of the tests' database, by way of a proxy."""
    return store_at(through(proxy, ADDRESS, password), schema)


async def _execute(statement: str) -> None:
    connection = await asyncpg.connect(ADDRESS, timeout=5)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
