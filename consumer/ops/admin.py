"""Serve what operators and their machines ask: figures and health, over HTTP, reading only.

    /metrics    every figure, for Prometheus
    /livez      does it get anywhere?      no -> restart it
    /readyz     does it handle messages?   no -> somebody look
    /startupz   is its start over?

Each health answer is 200 or 503 with JSON that tells every check. Everything is answered from memory in the event loop:
some 2 ms for a scrape of one queue, microseconds for a check.

One request a connection, which must be over in ``CONNECTION_S``. When there are too many connections, the oldest one
whose request has not come yet is closed, or else the oldest of all: clients that send nothing or read nothing keep
nobody else from being answered.

A request must name this server by an IP address, as localhost, or by a name that the settings allow (``ops.hosts``).

Elsewhere: the figures (``ops.metrics``), the checks (``engine.vitals``).
"""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from http import HTTPStatus
from types import TracebackType
from typing import Final, Self, cast

import structlog
from aiohttp import web

from consumer.errors import PortTakenError, SettingsError
from consumer.ops.escape import json_escaped
from consumer.ops.health import Check, Checks
from consumer.ops.hosts import is_allowed
from consumer.ops.metrics import Metrics
from consumer.ops.redact import SECRETS

log = structlog.stdlib.get_logger(__name__)

CONNECTION_S: Final = 10.0
"""How long one connection may last, its request and its answer included."""
LAG_LIMIT_S: Final = 1.0
"""A turn of the loop that takes longer lets leases run out; handlers that compute belong into plain functions."""
_CONNECTIONS_LIMIT: Final = 128
_BACKLOG: Final = 32
"""Connections that one turn of the loop accepts. A request is read two turns after its connection was accepted, so the
limit is above three times this: a crowd that comes all at once can't push out who asks in the midst of it. Tried with
1,500 clients that connect again as soon as they are closed: every answer came; with a backlog of 100 some did not."""
_HEAD_END: Final = b"\r\n\r\n"
_LINE_LIMIT_BYTES: Final = 4_096
_HEADERS_LIMIT: Final = 64
_STOP_S: Final = 1.0
_HEADERS: Final = {"Server": "mns-consumer", "Cache-Control": "no-store"}

_WHY: Final[Mapping[int, str]] = {
    errno.EADDRNOTAVAIL: "this machine has no such address; set admin_host to one of its own",
    errno.EACCES: "only root may listen there; set admin_port to 1024 or above",
    errno.EPERM: "the system forbids it; under systemd, add the port to SocketBindAllow= of the unit",
}


class AdminServer:
    """Serves while it is entered.

    Args:
        host: Address to listen on: a name, IPv4 or IPv6.
        port: Port to listen on; 0 takes a free one.
        metrics: The figures.
        checks: The health checks.
        allowed_hosts: Names by which it may be asked, beside IP addresses, localhost and ``host``.
        connection_s: How long one connection may last, in seconds.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        metrics: Metrics,
        checks: Checks,
        allowed_hosts: Iterable[str] = (),
        connection_s: float = CONNECTION_S,
    ) -> None:
        self._host = host
        self._port = port
        self._metrics = metrics
        self._hosts = frozenset(name.lower() for name in (host, *allowed_hosts))
        self._connection_s = connection_s
        self._connections: dict[_Connection, None] = {}
        self._server: asyncio.Server | None = None
        self._requests: web.Server | None = None
        self._health: Mapping[str, Callable[[], Sequence[Check]]] = {
            "/livez": checks.live,
            "/readyz": checks.ready,
            "/startupz": checks.started,
        }

    @property
    def port(self) -> int:
        """The port that it listens on."""
        if self._server is None:
            return self._port
        bound: int = self._server.sockets[0].getsockname()[1]
        return bound

    async def __aenter__(self) -> Self:
        """Listen.

        Raises:
            PortTakenError: Another program listens there.
            SettingsError: It can't listen there; names the settings.
        """
        self._requests = web.Server(self._answer)
        make = partial(_Connection, self._requests, self._connections, self._connection_s)
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(make, self._host, self._port, backlog=_BACKLOG)
        except (OSError, OverflowError, UnicodeError) as error:
            number = getattr(error, "errno", None)
            where = f"admin_host, admin_port: can't listen on {self._host!r} port {self._port}"
            if number == errno.EADDRINUSE:
                raise PortTakenError(
                    f"{where}: another program listens there; end it, or set admin_port to a free port"
                ) from error
            why = _WHY.get(number or 0, f"{error}; check admin_host and admin_port")
            raise SettingsError(f"{where}: {why}") from error
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop listening; an answer that has begun is ended."""
        server, requests = self._server, self._requests
        if server is None or requests is None:
            return
        server.close()
        # Answers are made within one turn of the loop, so whoever is connected still is silent or slow to read.
        for connection in requests.connections:
            connection.force_close()
        await requests.shutdown(_STOP_S)
        self._server = self._requests = None

    async def _answer(self, request: web.BaseRequest) -> web.Response:
        """Any request's answer; the connection ends with it."""
        try:
            answer = await self._route(request)
        except Exception:  # a bug in a check or a figure must be seen by the one who asks, and stop nothing else
            log.exception("an admin answer failed", path=request.path)
            answer = _told(HTTPStatus.INTERNAL_SERVER_ERROR, {"status": "failing", "error": "see the log"})
        answer.force_close()
        return answer

    async def _route(self, request: web.BaseRequest) -> web.Response:
        if request.method not in {"GET", "HEAD"}:
            refusal = _told(HTTPStatus.METHOD_NOT_ALLOWED, {"error": "expected GET or HEAD"})
            refusal.headers["Allow"] = "GET, HEAD"
            return refusal
        if not is_allowed(request.headers.getall("Host", ()), self._hosts):
            return _told(
                HTTPStatus.FORBIDDEN,
                {"error": "expected an IP address, localhost or a name of admin_allowed_hosts as the request's Host"},
            )
        if request.path == "/metrics":
            body, content_type = self._metrics.render(request.headers.get("Accept"))
            return web.Response(body=body, headers={**_HEADERS, "Content-Type": content_type})
        ask = self._health.get(request.path)
        if ask is None:
            return _told(HTTPStatus.NOT_FOUND, {"error": f"known are /metrics, {', '.join(self._health)}"})
        checks = [*ask(), await _lag()] if request.path == "/livez" else ask()
        well = all(check.ok for check in checks)
        told = {
            "status": "ok" if well else "failing",
            "checks": [{"name": check.name, "ok": check.ok, "detail": SECRETS.mask(check.detail)} for check in checks],
        }
        return _told(HTTPStatus.OK if well else HTTPStatus.SERVICE_UNAVAILABLE, told)


class _Connection(web.RequestHandler):
    """One connection, which ends in time whatever its client does.

    Args:
        requests: Answers its request.
        all_of_them: Every open connection, the oldest first.
        limit_s: How long it may last.
    """

    __slots__ = ("_all", "_asked", "_end", "_head", "_limit_s")

    def __init__(self, requests: web.Server, all_of_them: dict[_Connection, None], limit_s: float) -> None:
        super().__init__(
            requests,
            loop=asyncio.get_running_loop(),
            access_log=logging.getLogger("aiohttp.access"),
            max_line_size=_LINE_LIMIT_BYTES,
            max_field_size=_LINE_LIMIT_BYTES,
            max_headers=_HEADERS_LIMIT,
            lingering_time=0,
        )
        self._all = all_of_them
        self._limit_s = limit_s
        self._head = b""
        self._asked = False
        """Whether its request has come whole; from then on it is being answered."""
        self._end: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        # Not close(): that would wait for a client which doesn't read. uvloop's transports have abort() as asyncio's
        # do, but don't inherit from them.
        abort = cast("asyncio.Transport", transport).abort
        self._end = asyncio.get_running_loop().call_later(self._limit_s, abort)
        if len(self._all) >= _CONNECTIONS_LIMIT:
            # An answer is made in a millisecond: where all have asked, the oldest one does not read.
            oldest = next(iter(self._all))
            next((each for each in self._all if not each._asked), oldest)._make_room()  # noqa: SLF001 - of this class
        self._all[self] = None

    def _make_room(self) -> None:
        self._all.pop(self, None)
        if self.transport is not None:
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        if not self._asked:
            # Line ends before a request are no part of one. The last bytes are kept, as the head's end may come torn.
            head = self._head + (data if self._head else data.lstrip(b"\r\n"))
            self._asked = _HEAD_END in head
            self._head = head[-len(_HEAD_END) :]
        super().data_received(data)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._all.pop(self, None)
        if self._end is not None:
            self._end.cancel()
        super().connection_lost(exc)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = HTTPStatus.INTERNAL_SERVER_ERROR,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """A request that is none: told in our words, and no line in the log for each port scan."""
        del request, exc, message
        answer = _told(status, {"error": "expected an HTTP/1.1 GET request"})
        answer.force_close()
        return answer


async def _lag() -> Check:
    """How long the event loop takes for one turn, which is as late as everything in it is."""
    began_s = time.monotonic()
    await asyncio.sleep(0)
    lag_s = time.monotonic() - began_s
    return Check("event loop", lag_s < LAG_LIMIT_S, f"a turn takes {lag_s * 1000:.1f} ms")


def _told(status: int, body: Mapping[str, object]) -> web.Response:
    return web.Response(
        status=status,
        body=json_escaped(json.dumps(body)).encode() + b"\n",
        headers={**_HEADERS, "Content-Type": "application/json"},
    )
