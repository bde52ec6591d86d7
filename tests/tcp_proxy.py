"""A TCP proxy that a test controls: it forwards, hangs or refuses."""

from __future__ import annotations

import asyncio
import contextlib
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit


class TcpProxy:
    """Forwards one port of loopback to another address while it is entered.

    Args:
        host: The host that it forwards to.
        port: Its port.
    """

    def __init__(self, host: str, port: int) -> None:
        self._to = host, port
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._copies: set[asyncio.Task[None]] = set()
        self._passing = asyncio.Event()
        self._passing.set()
        self.port = 0
        """Its own port; stays the same."""
        self.accepted = 0
        """Connections accepted so far."""

    async def __aenter__(self) -> Self:
        await self.accept()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.resume()
        await self.refuse()

    async def accept(self) -> None:
        """Accept and forward connections, on the same port as before."""
        self._server = await asyncio.start_server(self._forward, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def refuse(self) -> None:
        """Refuse new connections and drop those that are open."""
        if self._server is not None:
            self._server.close()
            self._server = None
        await self.cut()

    async def cut(self) -> None:
        """Drop every open connection."""
        for writer in list(self._writers):
            writer.transport.abort()
        for task in list(self._copies):
            task.cancel()
        await asyncio.gather(*self._copies, return_exceptions=True)

    def hang(self) -> None:
        """Forward nothing, and close nothing."""
        self._passing.clear()

    def resume(self) -> None:
        """Forward everything again."""
        self._passing.set()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        try:
            there, back = await asyncio.open_connection(*self._to)
        except OSError:
            writer.transport.abort()
            return
        for source, sink in ((reader, back), (there, writer)):
            self._writers.add(sink)
            task = asyncio.ensure_future(self._copy(source, sink))
            self._copies.add(task)
            task.add_done_callback(self._copies.discard)

    async def _copy(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(OSError):
                while data := await source.read(65_536):
                    await self._passing.wait()
                    sink.write(data)
                    await sink.drain()
        finally:
            # Cut, by either side: the other side is to see the same.
            sink.transport.abort()
            self._writers.discard(sink)


def in_front_of(address: str, default_port: int = 5432) -> TcpProxy:
    """A proxy in front of the server of a URL."""
    parts = urlsplit(address)
    return TcpProxy(parts.hostname or "127.0.0.1", parts.port or default_port)


def through(proxy: TcpProxy, address: str, password: str = "") -> str:
    """A server's URL by way of a proxy, with another password."""
    parts = urlsplit(address)
    login = f"{parts.username}{password and ':'}{password}"
    return parts._replace(netloc=f"{login}@127.0.0.1:{proxy.port}").geturl()
