"""The store of a chaos run: where the daemons find it, where the book reads it, and how it fails for a while.

Elsewhere: when it fails (``trouble``), reading it (``stored``).
"""

from __future__ import annotations

import random
import secrets
import sqlite3
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import urlsplit

import anyio
import anyio.to_thread

from tests.engine.proxy import Proxy, behind, in_front_of_postgres
from tests.postgres import ADDRESS, store_at

_LOCKED_S: Final = 5.5
"""Half a second longer than the daemon waits for a lock."""
_GONE_S: Final = (0.3, 1.5)


class StoreUnderTest(Protocol):
    """A store that can be made to fail."""

    secret: str
    """The address's password; empty where it has none."""
    every: int
    """In every so many rounds of trouble it fails once."""

    @property
    def address(self) -> str:
        """Where daemons find it."""

    @property
    def book(self) -> str:
        """Where the book reads it, whatever happens to the other one."""

    def failing(self, dice: random.Random) -> AbstractAsyncContextManager[None]:
        """Out of reach within the block, and some time longer than it takes to enter it."""


@dataclass(slots=True)
class SqliteFile:
    """A file; it fails by another process that keeps it locked for longer than the daemon waits."""

    path: Path
    secret: str = ""
    every: int = 2

    @property
    def address(self) -> str:
        """See ``StoreUnderTest``."""
        return str(self.path)

    @property
    def book(self) -> str:
        """See ``StoreUnderTest``."""
        return str(self.path)

    @asynccontextmanager
    async def failing(self, dice: random.Random) -> AsyncIterator[None]:  # noqa: ARG002 - the other one's is drawn
        """See ``StoreUnderTest``."""
        with closing(sqlite3.connect(self.path, timeout=10, isolation_level=None, check_same_thread=False)) as other:
            await anyio.to_thread.run_sync(other.execute, "BEGIN IMMEDIATE")
            await anyio.sleep(_LOCKED_S)
            yield
            await anyio.to_thread.run_sync(other.execute, "ROLLBACK")


@dataclass(slots=True)
class PostgresSchema:
    """A schema behind a proxy; it fails by connections that are cut and refused."""

    proxy: Proxy
    schema: str
    # The server trusts everybody on this machine: any password lets in, and is looked for in all output.
    secret: str
    every: int = 1

    @property
    def address(self) -> str:
        """See ``StoreUnderTest``."""
        return behind(self.proxy, self.schema, self.secret)

    @property
    def book(self) -> str:
        """See ``StoreUnderTest``."""
        return store_at(ADDRESS, self.schema)

    @asynccontextmanager
    async def failing(self, dice: random.Random) -> AsyncIterator[None]:
        """See ``StoreUnderTest``."""
        await self.proxy.cut()
        await anyio.sleep(dice.uniform(*_GONE_S))
        yield
        await self.proxy.mend()


@asynccontextmanager
async def postgres_behind_proxy(schema: str) -> AsyncIterator[PostgresSchema]:
    """A schema behind a proxy of its own."""
    async with in_front_of_postgres() as proxy:
        yield PostgresSchema(proxy, schema, urlsplit(ADDRESS).password or f"pw{secrets.token_hex(12)}")
