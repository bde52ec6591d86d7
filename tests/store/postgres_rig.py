"""What the tests on PostgreSQL share: another program's session."""

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
    """Another program's session in the same database."""
    connection = await asyncpg.connect(dsn, **options)
    try:
        yield connection
    finally:
        await connection.close()


async def until(condition: Callable[[], bool]) -> None:
    """Wait, turn by turn of the loop, until a condition is true."""
    with anyio.fail_after(5):
        while not condition():  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0)
