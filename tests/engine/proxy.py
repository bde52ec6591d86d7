"""A TCP proxy that a test can cut: what is behind it is gone, hangs, or is there again."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from tests.postgres import ADDRESS, store_at


class Proxy:
    """Forwards one port of loopback to another address.

    Args:
        host: Where to.
        port: Where to.
    """

    def __init__(self, host: str, port: int) -> None:
        self._to = (host, port)
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self.port = 0

    async def __aenter__(self) -> Self:
        await self.mend()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.cut()

    async def mend(self) -> None:
        """Accept and forward connections; always on the same port."""
        self._server = await asyncio.start_server(self._forward, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        """Refuse new connections and drop those that are open."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in list(self._writers):
            writer.transport.abort()
        await asyncio.sleep(0)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(*self._to)
        self._writers |= {writer, back}
        try:
            await asyncio.gather(self._pump(reader, back), self._pump(there, writer))
        finally:
            self._writers -= {writer, back}

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        except OSError:
            # Cut, by either side: the other side is to see the same.
            writer.transport.abort()
        finally:
            writer.close()


def in_front_of_postgres() -> Proxy:
    """A proxy in front of the tests' database."""
    parts = urlsplit(ADDRESS)
    return Proxy(parts.hostname or "127.0.0.1", parts.port or 5432)


def behind(proxy: Proxy, schema: str, password: str = "") -> str:
    """The address of a store in a schema of the tests' database, by way of the proxy."""
    parts = urlsplit(ADDRESS)
    keys = f"{parts.username}{password and ':'}{password}"
    return store_at(f"{parts.scheme}://{keys}@127.0.0.1:{proxy.port}{parts.path}", schema)
