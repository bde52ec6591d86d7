"""Keep-alive connections that never hand one request the answer to another.

HTTP/1.1 pairs answers with requests by their order alone. aiohttp reads what arrives on an idle connection, keeps it,
and takes it for the answer to the next request: a delete would then be confirmed by whatever came before it. So a
connection that gets a single byte while it is idle is closed, and before each reuse a connection is checked for bytes
that nobody asked for: a whole message, a part of one that came together with the last answer, or bytes that the
kernel holds and the event loop has not read yet.

An answer that a server sends early, after the next request has left, can't be told from the true one.
"""

from __future__ import annotations

import asyncio
import select
from functools import partial
from typing import Final

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.client_reqrep import ClientRequest
from aiohttp.connector import Connection
from aiohttp.tracing import Trace

_PROBE: Final = b"HTTP/1.1 299 -\r\nContent-Length: 0\r\n\r\n"
_PROBE_STATUS: Final = 299


class _Protocol(ResponseHandler):
    """One connection's reader; closes the connection when something arrives while it is idle."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.idle = False
        self.reused = False

    def rest(self) -> None:
        """Mark the connection as idle; called when its answer has been read to the end."""
        self.idle = True
        self.reused = True

    def data_received(self, data: bytes) -> None:
        # aiohttp itself calls this with nothing, to go on after a pause.
        if not (self.idle and data):
            super().data_received(data)
        elif self.transport is not None:
            self.transport.abort()

    def is_clean(self) -> bool:
        """Whether nothing has arrived beyond the end of the last answer.

        It uses up the parser; each answer gets a new one.
        """
        transport, parser = self.transport, self._parser
        if transport is None or parser is None or self.should_close:
            return False
        # A parser that stands at the start of a message reads this one as it is; 1.3 us a request.
        try:
            messages, _, _ = parser.feed_data(_PROBE)
        except Exception:  # noqa: BLE001 - whatever it could not read, it was not at the start of a message
            return False
        if len(messages) != 1 or messages[0][0].code != _PROBE_STATUS:
            return False
        return not _is_readable(transport)


def _is_readable(transport: asyncio.BaseTransport) -> bool:
    """Whether the kernel holds bytes, or the end of the connection, that the event loop has not read yet."""
    sock = transport.get_extra_info("socket")
    if sock is None or sock.fileno() < 0:  # pragma: no cover - a transport that has just been closed
        return True
    poll = select.poll()
    poll.register(sock.fileno(), select.POLLIN)
    return bool(poll.poll(0))


class Connector(aiohttp.TCPConnector):
    """A ``TCPConnector`` whose kept connections are checked before each reuse."""

    def __init__(self, *, verify: object, keepalive_s: float) -> None:
        """Make it, inside the running event loop.

        Args:
            verify: What aiohttp takes as ``ssl``.
            keepalive_s: How long an idle connection is kept.
        """
        # No limit: the lane's slots bound what is under way, and a call that waits here would lose its lease.
        super().__init__(ssl=verify, limit=0, keepalive_timeout=keepalive_s)  # type: ignore[arg-type]
        # aiohttp has no public way to name the protocol. Tests send bytes to an idle connection.
        self._factory = partial(_Protocol, self._loop)  # type: ignore[assignment]

    async def connect(
        self,
        req: ClientRequest,
        traces: list[Trace],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - aiohttp's signature
    ) -> Connection:
        """Give a connection on which nothing is waiting to be read; unclean ones are closed."""
        while True:
            connection = await super().connect(req, traces, timeout)
            protocol = connection.protocol
            if not isinstance(protocol, _Protocol):  # pragma: no cover - see the factory above
                return connection
            if not protocol.reused or protocol.is_clean():
                protocol.idle = False
                connection.add_callback(protocol.rest)
                return connection
            connection.close()
