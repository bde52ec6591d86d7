"""The store of a chaos run: its address, how it fails for a while, and its content for the verdict."""

from __future__ import annotations

import os
import random
import secrets
import shutil
import socket
import sqlite3
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager, closing
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

import anyio
import anyio.to_thread
import asyncpg

from tests.postgres import ADDRESS, store_at, store_through
from tests.store.postgres_server import copy_server, cut_off, promote, run_server, server_folder
from tests.tcp_proxy import TcpProxy, in_front_of

_LOCKED_S: Final = 5.5
"""Half a second more than the daemon waits for a lock."""
_GONE_S: Final = (0.3, 1.5)
_LAST_S: Final = 1.0
"""The time before the primary's crash that the standby lacks."""
_BACK_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Failover:
    """The store's failover to a standby that lacks the last commits; times are UNIX seconds.

    Args:
        since: From then on the standby received nothing.
        until: When the primary was gone.
    """

    since: float
    until: float


class StoreUnderTest(Protocol):
    """A store that can be made to fail."""

    secret: str
    """The address's password; empty if there is none."""
    rounds_a_failure: int
    """It fails once in that many rounds of faults."""
    failover: Failover | None
    """Its failover, if there was one."""

    @property
    def address(self) -> str:
        """The address for the daemons."""

    @property
    def direct_address(self) -> str:
        """The address for the verdict, which works while the other one fails."""

    def failing(self, rng: random.Random) -> AbstractAsyncContextManager[None]:
        """Make it unavailable until the end of the block; entering the block takes a while."""


@dataclass(slots=True)
class SqliteFile:
    """A file. It fails because another connection locks it for longer than the daemon waits."""

    path: Path
    secret: str = ""
    rounds_a_failure: int = 2
    failover: Failover | None = None

    @property
    def address(self) -> str:
        """See ``StoreUnderTest``."""
        return str(self.path)

    @property
    def direct_address(self) -> str:
        """See ``StoreUnderTest``."""
        return str(self.path)

    @asynccontextmanager
    async def failing(self, rng: random.Random) -> AsyncIterator[None]:  # noqa: ARG002 - the time is fixed here
        """See ``StoreUnderTest``."""
        with closing(sqlite3.connect(self.path, timeout=10, isolation_level=None, check_same_thread=False)) as other:
            await anyio.to_thread.run_sync(other.execute, "BEGIN IMMEDIATE")
            await anyio.sleep(_LOCKED_S)
            yield
            await anyio.to_thread.run_sync(other.execute, "ROLLBACK")


@dataclass(slots=True)
class PostgresSchema:
    """A schema behind a proxy. It fails because connections are cut and refused."""

    proxy: TcpProxy
    schema: str
    # The server trusts local users, so any password works. The run looks for it in all output.
    secret: str
    rounds_a_failure: int = 1
    failover: Failover | None = None
    pooled: bool = False

    @property
    def address(self) -> str:
        """See ``StoreUnderTest``."""
        if self.pooled:
            # PgBouncer accepts no search_path: the role has its own.
            database = urlsplit(ADDRESS).path.strip("/")
            return f"postgresql://{self.schema}:{self.secret}@127.0.0.1:{self.proxy.port}/{database}"
        return store_through(self.proxy, self.schema, self.secret)

    @property
    def direct_address(self) -> str:
        """See ``StoreUnderTest``."""
        return store_at(ADDRESS, self.schema)

    @asynccontextmanager
    async def failing(self, rng: random.Random) -> AsyncIterator[None]:
        """See ``StoreUnderTest``."""
        await self.proxy.refuse()
        await anyio.sleep(rng.uniform(*_GONE_S))
        yield
        await self.proxy.accept()


@dataclass(slots=True)
class PostgresPair:
    """Two servers of the run's own. It fails by a failover to the second, which lacks the last second, then by crashes.

    Args:
        folders: Of the primary and of its standby.
        ports: Of both.
        primary: Ends the server that takes writes now.
        second: Ends the second server.
    """

    folders: tuple[Path, Path]
    ports: tuple[int, int]
    primary: ExitStack
    second: ExitStack
    secret: str = field(default_factory=lambda: f"pw{secrets.token_hex(12)}")
    rounds_a_failure: int = 1
    failover: Failover | None = None

    @property
    def address(self) -> str:
        """See ``StoreUnderTest``."""
        hosts = ",".join(f"127.0.0.1:{port}" for port in self.ports)
        return f"postgresql://postgres:{self.secret}@{hosts}/postgres?target_session_attrs=read-write"

    @property
    def direct_address(self) -> str:
        """See ``StoreUnderTest``."""
        return self.address

    @asynccontextmanager
    async def failing(self, rng: random.Random) -> AsyncIterator[None]:
        """See ``StoreUnderTest``."""
        if self.failover is None:
            standby = f"postgresql://postgres@127.0.0.1:{self.ports[1]}/postgres"
            await cut_off(standby)
            since = time.time()
            await anyio.sleep(_LAST_S)
            await anyio.to_thread.run_sync(self.primary.close)
            self.failover = Failover(since, time.time())
            await anyio.sleep(rng.uniform(*_GONE_S))
            yield
            await promote(standby)
        else:
            await anyio.to_thread.run_sync(self.second.close)
            await anyio.sleep(rng.uniform(*_GONE_S))
            yield
            await anyio.to_thread.run_sync(self.second.enter_context, run_server(self.folders[1], self.ports[1]))


@asynccontextmanager
async def postgres_pair() -> AsyncIterator[PostgresPair]:
    """A primary and its asynchronous standby."""
    with server_folder() as first, server_folder() as other, ExitStack() as second, ExitStack() as primary:
        port = await anyio.to_thread.run_sync(primary.enter_context, run_server(first))
        await anyio.to_thread.run_sync(copy_server, other, port)
        standby_port = await anyio.to_thread.run_sync(second.enter_context, run_server(other))
        yield PostgresPair((first, other), (port, standby_port), primary, second)


@asynccontextmanager
async def postgres_behind_proxy(schema: str) -> AsyncIterator[PostgresSchema]:
    """A schema behind a proxy of its own."""
    async with in_front_of(ADDRESS) as proxy:
        yield PostgresSchema(proxy, schema, urlsplit(ADDRESS).password or f"pw{secrets.token_hex(12)}")


@asynccontextmanager
async def postgres_behind_pooler(schema: str, folder: Path) -> AsyncIterator[PostgresSchema]:
    """A schema behind PgBouncer in transaction mode, which is behind a proxy.

    Args:
        schema: The schema; a role of the same name is created for it.
        folder: For PgBouncer's settings and log.
    """
    async with _role(schema), _pgbouncer(schema, folder) as port, TcpProxy("127.0.0.1", port) as proxy:
        yield PostgresSchema(proxy, schema, f"pw{secrets.token_hex(12)}", pooled=True)


@asynccontextmanager
async def _role(schema: str) -> AsyncIterator[None]:
    """A role whose search_path is a schema."""
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
    """PgBouncer with few connections, each assigned for one transaction; yields its port."""
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
    """Write PgBouncer's settings; returns the port in them, and their file."""
    parts = urlsplit(ADDRESS)
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = int(taken.getsockname()[1])
    # PgBouncer started as root becomes another user, who must be able to read the file.
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


@dataclass(frozen=True, slots=True)
class Ended:
    """The stored end of a job.

    Args:
        dead: Whether it is a dead letter.
        at: UNIX seconds.
    """

    dead: bool
    at: float


@dataclass(frozen=True, slots=True)
class Letter:
    """A stored dead letter.

    Args:
        job: The job's id, or the message's if there is none.
        message_id: The message's id.
        reason: Its reason.
        body: The raw bytes of the message.
        at: UNIX seconds.
    """

    job: str
    message_id: str
    reason: str
    body: bytes
    at: float


@dataclass(frozen=True, slots=True)
class Stored:
    """The content of a store at one moment; the dead letters are in the order in which they were stored."""

    ended: Mapping[str, Ended]
    letters: Sequence[Letter]


_JOBS: Final = (
    "SELECT key, coalesce(job_id, message_id), dead, stored_at FROM {job} WHERE dead IS NOT NULL ORDER BY stored_at"
)
_LETTERS: Final = "SELECT coalesce(job_id, message_id), message_id, reason, body, stored_at FROM {letter} ORDER BY id"
_SQLITE: Final = {"job": "job", "letter": "letter"}
_POSTGRES: Final = {"job": "mns_consumer_job", "letter": "mns_consumer_letter"}


async def read_store(store: str, true: Callable[[float], float] = float) -> Stored:
    """Read a store by SQL of our own, so that the verdict does not depend on the daemon's code.

    Args:
        store: The path of a file that no daemon has open, or the address of a PostgreSQL database.
        true: Computes the true time from the time in a file, if the daemon's clock was stepped; PostgreSQL uses the
            clock of its server.
    """
    if "://" not in store:
        return await anyio.to_thread.run_sync(_read_file, Path(store), true)
    connection = await _connected(store)
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            return _stored(
                await connection.fetch(_JOBS.format(**_POSTGRES)), await connection.fetch(_LETTERS.format(**_POSTGRES))
            )
    finally:
        await connection.close()


async def _connected(store: str) -> asyncpg.Connection:
    """A connection, once the store has failed over or was started again."""
    with anyio.fail_after(_BACK_S):
        while True:
            try:
                return await asyncpg.connect(store, timeout=5)
            except (OSError, asyncpg.CannotConnectNowError, asyncpg.TargetServerAttributeNotMatched):
                await anyio.sleep(0.05)


def _read_file(path: Path, true: Callable[[float], float]) -> Stored:
    # A copy: opening the file itself would recover it after a kill, which the next daemon must do.
    with tempfile.TemporaryDirectory() as folder:
        for each in (path, path.with_name(path.name + "-wal")):
            if each.exists():
                shutil.copy(each, folder)
        with closing(sqlite3.connect(Path(folder) / path.name)) as connection:
            if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'letter'").fetchone():
                # Its daemon was killed before it had created the tables.
                return Stored({}, [])
            jobs = [(*rest, true(at)) for *rest, at in connection.execute(_JOBS.format(**_SQLITE))]
            letters = [(*rest, true(at)) for *rest, at in connection.execute(_LETTERS.format(**_SQLITE))]
            return _stored(sorted(jobs, key=itemgetter(-1)), letters)


def _stored(jobs: Sequence[Any], letters: Sequence[Any]) -> Stored:
    assert len({key for key, *_ in jobs}) == len(jobs), "a key has ended twice in the store"
    # Several messages of one job may be dead letters: the last one counts.
    ended = {job: Ended(bool(dead), at) for _, job, dead, at in jobs}
    return Stored(
        ended, [Letter(job, message_id, reason, bytes(body), at) for job, message_id, reason, body, at in letters]
    )
