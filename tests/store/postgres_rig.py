"""What the tests on PostgreSQL share: somebody else's session."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import asyncpg

from consumer.store_address import PostgresAddress, parse_store_address


def at(dsn: str) -> PostgresAddress:
    """A database's address, taken apart."""
    address = parse_store_address(dsn)
    assert isinstance(address, PostgresAddress)
    return address


@contextlib.asynccontextmanager
async def psql(dsn: str, **options: Any) -> AsyncIterator[asyncpg.Connection]:
    """A session of somebody else in the same database."""
    connection = await asyncpg.connect(dsn, **options)
    try:
        yield connection
    finally:
        await connection.close()


async def until(holds: Callable[[], bool]) -> None:
    """Look at every turn of the loop, until it holds."""
    with anyio.fail_after(5):
        while not holds():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0)
