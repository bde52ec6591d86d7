"""What the tests on PostgreSQL share: somebody else's session, and a way to the database that fails."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import anyio
import asyncpg

from consumer.store_address import PostgresAddress, parse_store_address


def at(dsn: str) -> PostgresAddress:
    """A database's address, taken apart."""
    address = parse_store_address(dsn)
    assert isinstance(address, PostgresAddress)
    return address


class Proxy:
    """A TCP proxy before the database that can be cut, refuse, and fall silent."""

    def __init__(self, dsn: str) -> None:
        self._dsn = urlsplit(dsn)
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._passing = asyncio.Event()
        self._passing.set()
        self.port = 0
        self.accepted = 0

    @property
    def dsn(self) -> str:
        """The database's address through here, with a password that must show nowhere."""
        netloc = f"{self._dsn.username}:hush%40hush@127.0.0.1:{self.port}"
        return urlunsplit(self._dsn._replace(netloc=netloc))

    async def listen(self) -> None:
        """Accept connections, on the same port as before."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def refuse(self) -> None:
        """Accept none, and cut those there are."""
        assert self._server is not None
        self._server.close()
        await self.cut()

    async def cut(self) -> None:
        """Drop every connection."""
        for writer in self._writers:
            writer.transport.abort()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def hang(self) -> None:
        """Pass nothing on, and close nothing."""
        self._passing.clear()

    def pass_on(self) -> None:
        """Pass everything on again."""
        self._passing.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        try:
            there = await asyncio.open_connection(self._dsn.hostname, self._dsn.port)
        except OSError:
            writer.transport.abort()
            return
        for source, sink in ((reader, there[1]), (there[0], writer)):
            self._writers.add(sink)
            task = asyncio.ensure_future(self._copy(source, sink))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _copy(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                await self._passing.wait()
                sink.write(data)
                await sink.drain()
        sink.transport.abort()


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
