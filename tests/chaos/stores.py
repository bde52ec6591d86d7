"""The store of a chaos run: where the daemons find it, where the book reads it, and how it fails for a while.

Elsewhere: when it fails (``trouble``), reading it (``stored``).
"""

from __future__ import annotations

import os
import random
import secrets
import shutil
import socket
import sqlite3
import tempfile
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import urlsplit

import anyio
import anyio.to_thread
import asyncpg

from tests.postgres import ADDRESS, store_at, store_through
from tests.tcp_proxy import TcpProxy, in_front_of

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

    proxy: TcpProxy
    schema: str
    # The server trusts everybody on this machine: any password lets in, and is looked for in all output.
    secret: str
    every: int = 1
    pooled: bool = False

    @property
    def address(self) -> str:
        """See ``StoreUnderTest``."""
        if self.pooled:
            # PgBouncer takes no search_path: its role has that of its own.
            database = urlsplit(ADDRESS).path.strip("/")
            return f"postgresql://{self.schema}:{self.secret}@127.0.0.1:{self.proxy.port}/{database}"
        return store_through(self.proxy, self.schema, self.secret)

    @property
    def book(self) -> str:
        """See ``StoreUnderTest``."""
        return store_at(ADDRESS, self.schema)

    @asynccontextmanager
    async def failing(self, dice: random.Random) -> AsyncIterator[None]:
        """See ``StoreUnderTest``."""
        await self.proxy.refuse()
        await anyio.sleep(dice.uniform(*_GONE_S))
        yield
        await self.proxy.accept()


@asynccontextmanager
async def postgres_behind_proxy(schema: str) -> AsyncIterator[PostgresSchema]:
    """A schema behind a proxy of its own."""
    async with in_front_of(ADDRESS) as proxy:
        yield PostgresSchema(proxy, schema, urlsplit(ADDRESS).password or f"pw{secrets.token_hex(12)}")


@asynccontextmanager
async def postgres_behind_pooler(schema: str, folder: Path) -> AsyncIterator[PostgresSchema]:
    """A schema behind PgBouncer in transaction mode, and that behind a proxy.

    Args:
        schema: The schema; a role of the same name is made for it.
        folder: For PgBouncer's settings and log.
    """
    async with _role(schema), _pgbouncer(schema, folder) as port, TcpProxy("127.0.0.1", port) as proxy:
        yield PostgresSchema(proxy, schema, f"pw{secrets.token_hex(12)}", pooled=True)


@asynccontextmanager
async def _role(schema: str) -> AsyncIterator[None]:
    """A role that finds a schema without being told."""
    connection = await asyncpg.connect(ADDRESS, timeout=5)
    try:
        password = urlsplit(ADDRESS).password
        login = f"LOGIN PASSWORD '{password}'" if password else "LOGIN"
        await connection.execute(f"CREATE ROLE {schema} {login}; ALTER ROLE {schema} SET search_path = {schema}")
        await connection.execute(f"GRANT ALL ON SCHEMA {schema} TO {schema}")
        try:
            yield
        finally:
            await connection.execute(f"SET lock_timeout = '10s'; DROP OWNED BY {schema}; DROP ROLE {schema}")
    finally:
        await connection.close()


@asynccontextmanager
async def _pgbouncer(role: str, folder: Path) -> AsyncIterator[int]:
    """PgBouncer with few connections, each handed out for one transaction; its port."""
    with tempfile.TemporaryDirectory(prefix="chaos-pgbouncer-") as home, (folder / "pgbouncer.log").open("wb") as log:
        port, settings = _pgbouncer_settings(role, Path(home))
        process = await anyio.open_process([_pgbouncer_path(), str(settings)], stdout=log, stderr=log)
        try:
            await _listening(port)
            yield port
        finally:
            process.kill()
            await process.wait()


def _pgbouncer_settings(role: str, home: Path) -> tuple[int, Path]:
    """Write PgBouncer's settings; the port that they name, and their file."""
    parts = urlsplit(ADDRESS)
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = int(taken.getsockname()[1])
    # As root it becomes another user, who must be able to read it.
    home.chmod(0o755)
    settings = home / "pgbouncer.ini"
    password = f" password={parts.password}" if parts.password else ""
    settings.write_text(
        f"[databases]\n* = host={parts.hostname} port={parts.port or 5432} user={role}{password}\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n"
        "pool_mode = transaction\ndefault_pool_size = 6\nserver_lifetime = 20\nmax_client_conn = 200\n"
        + ("user = postgres\n" if os.geteuid() == 0 else "")
    )
    return port, settings


def _pgbouncer_path() -> str:
    found = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    assert found is not None, "no pgbouncer here: install it (Debian's package has that name)"
    return found


async def _listening(port: int) -> None:
    with anyio.fail_after(10):
        while True:
            try:
                stream = await anyio.connect_tcp("127.0.0.1", port)
            except OSError:
                await anyio.sleep(0.05)
            else:
                await stream.aclose()
                return
