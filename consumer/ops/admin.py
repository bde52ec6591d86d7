"""The admin server: metrics and health over HTTP, read-only, for Prometheus and for supervisors.

    /metrics    every metric
    /livez      does the daemon make progress?   no: restart it
    /readyz     does it handle messages?         no: look at it
    /startupz   is its start over?

A health answer is 200 or 503, with JSON that lists each check. All answers come from memory, within the event loop:
about 2 ms for a scrape of one queue, microseconds for a check. A connection serves one request.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import json
import re
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final, Protocol, Self, TypeAlias

import structlog
from aiohttp import web

from consumer.errors import PortTakenError, SettingsError
from consumer.ops.metrics import Metrics
from consumer.ops.sanitize import SECRETS, json_escaped

log = structlog.stdlib.get_logger(__name__)

LAG_LIMIT_S: Final = 1.0
"""The longest turn of the event loop: a longer one lets leases run out. Computing belongs into plain functions."""
CONNECTION_S: Final = 10.0
"""The longest that a connection may last, its answer included."""
_CONNECTIONS_LIMIT: Final = 128
_BACKLOG: Final = 32
"""Connections accepted in one turn of the loop. A request is answered three turns after its connection was accepted,
so ``_CONNECTIONS_LIMIT`` is above three times this: a crowd of new connections can't close one before its answer."""
_LINE_LIMIT_BYTES: Final = 4_096
_HEADERS_LIMIT: Final = 64
_STOP_S: Final = 0.5
_HOST: Final = re.compile(r"(\[(?P<ipv6>[^\]]*)\]|(?P<name>[^:\[\]]*))(:\d{0,5})?")
_Answer: TypeAlias = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
_CAUSES: Final[Mapping[int, str]] = {
    errno.EADDRINUSE: "another program listens there; end it, or set admin_port to a free port",
    errno.EADDRNOTAVAIL: "this machine has no such address; set admin_host to one of its own",
    errno.EACCES: "only root may listen there; set admin_port to 1024 or above",
    errno.EPERM: "the system forbids it; under systemd, add the port to SocketBindAllow= of the unit",
}


@dataclass(frozen=True, slots=True)
class Check:
    """One health check. ``name`` is a constant; ``detail`` says what was found, in one line and without secrets."""

    name: str
    ok: bool
    detail: str


class Checks(Protocol):
    """What a supervisor asks; each answer comes from memory."""

    def live(self) -> Sequence[Check]:
        """Whether the daemon makes progress; if not, only a restart helps."""

    def ready(self) -> Sequence[Check]:
        """Whether messages are being handled now."""

    def started(self) -> Sequence[Check]:
        """Whether the start is over."""


class AdminServer:
    """Serves while it is entered.

    Args:
        port: 0 takes a free one.
        allowed_hosts: As ``names`` of ``is_allowed_host``, besides ``host``.
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
        self._runner: web.ServerRunner | None = None
        self._health: Mapping[str, Callable[[], Sequence[Check]]] = {
            "/livez": checks.live,
            "/readyz": checks.ready,
            "/startupz": checks.started,
        }

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return self._port if self._runner is None else int(self._runner.addresses[0][1])

    async def __aenter__(self) -> Self:
        """Listen. Raises ``PortTakenError``, or ``SettingsError`` that names the settings to change."""
        runner = web.ServerRunner(_Server(self._answer, self._connection_s), shutdown_timeout=_STOP_S)
        await runner.setup()
        try:
            await web.TCPSite(runner, self._host, self._port, backlog=_BACKLOG).start()
        except (OSError, OverflowError, UnicodeError) as error:
            number = getattr(error, "errno", None) or 0
            kind = PortTakenError if number == errno.EADDRINUSE else SettingsError
            cause = _CAUSES.get(number, f"{error}; check admin_host and admin_port")
            raise kind(f"admin_host, admin_port: can't listen on {self._host!r} port {self._port}: {cause}") from error
        self._runner = runner
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop listening; an answer under way has half a second to end."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            return await self._route(request)
        except Exception:  # a bug in a check or a metric must reach the one who asks, and stop nothing else
            log.exception("an admin answer failed", path=request.path)
            return _json_answer(HTTPStatus.INTERNAL_SERVER_ERROR, {"status": "failing", "error": "see the log"})

    async def _route(self, request: web.BaseRequest) -> web.Response:
        if request.method not in {"GET", "HEAD"}:
            return _json_answer(
                HTTPStatus.METHOD_NOT_ALLOWED, {"error": "expected GET or HEAD"}, headers={"Allow": "GET, HEAD"}
            )
        if not is_allowed_host(request.headers.getall("Host", ()), self._hosts):
            return _json_answer(
                HTTPStatus.FORBIDDEN,
                {"error": "expected an IP address, localhost or a name of admin_allowed_hosts as the request's Host"},
            )
        if request.path == "/metrics":
            return _answer_of(HTTPStatus.OK, *self._metrics.render(request.headers.get("Accept")))
        ask = self._health.get(request.path)
        if ask is None:
            return _json_answer(HTTPStatus.NOT_FOUND, {"error": f"known are /metrics, {', '.join(self._health)}"})
        checks = [*ask(), await _lag()] if request.path == "/livez" else ask()
        ok = all(check.ok for check in checks)
        rows = [{"name": check.name, "ok": check.ok, "detail": SECRETS.mask(check.detail)} for check in checks]
        status = HTTPStatus.OK if ok else HTTPStatus.SERVICE_UNAVAILABLE
        return _json_answer(status, {"status": "ok" if ok else "failing", "checks": rows})


class _Server(web.Server):
    """aiohttp's server with two limits that it lacks: how long a connection lasts, and how many there are.

    Of too many connections it closes the oldest whose request has not arrived, or else the oldest of all: clients that
    send or read nothing keep no other from being answered.
    """

    def __init__(self, answer: _Answer, connection_s: float) -> None:
        super().__init__(self._mark_and_answer)
        self._answer = answer
        self._connection_s = connection_s
        self.open: dict[web.RequestHandler, asyncio.TimerHandle] = {}
        """The connections, the oldest first, each with the timer that ends it."""
        self._answering: set[web.RequestHandler] = set()

    def __call__(self) -> web.RequestHandler:
        return _Connection(
            self,
            loop=self._loop,
            access_log=None,  # type: ignore[arg-type]  # it means none, as where web.Server makes it
            max_line_size=_LINE_LIMIT_BYTES,
            max_field_size=_LINE_LIMIT_BYTES,
            max_headers=_HEADERS_LIMIT,
            lingering_time=0,
        )

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        if len(self.open) >= _CONNECTIONS_LIMIT:
            oldest = next(iter(self.open))
            self._end(next((each for each in self.open if each not in self._answering), oldest))
        self.open[handler] = self._loop.call_later(self._connection_s, self._end, handler)

    def connection_lost(self, handler: web.RequestHandler, exc: BaseException | None = None) -> None:
        self._answering.discard(handler)
        if timer := self.open.pop(handler, None):
            timer.cancel()
        super().connection_lost(handler, exc)

    def _end(self, handler: web.RequestHandler) -> None:
        self.open.pop(handler).cancel()
        # Not close(): that would wait for a client which doesn't read.
        if handler.transport is not None:
            handler.transport.abort()

    async def _mark_and_answer(self, request: web.BaseRequest) -> web.StreamResponse:
        self._answering.add(request.protocol)
        return await self._answer(request)


class _Connection(web.RequestHandler):
    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = HTTPStatus.INTERNAL_SERVER_ERROR,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what is no request. aiohttp's own answer shows versions, and each port scan would be a log line."""
        del request, exc, message
        return _json_answer(status, {"error": "expected an HTTP/1.1 GET request"})


def is_allowed_host(hosts: Sequence[str], names: Collection[str]) -> bool:
    """Whether a request may be answered, against DNS rebinding.

    A page in a browser on this machine may ask a name of its own that resolves to 127.0.0.1, and read the answer. Its
    requests have that name as their ``Host``. An IP address needs no DNS, and Kubernetes and Prometheus ask a pod by
    its address. A request without a Host comes from no browser.
    The sandbox, which imports nothing of the daemon, has a stricter rule of its own: loopback only.

    Args:
        hosts: The ``Host`` headers.
        names: What else is allowed, in lower case; ``.example.com`` stands for each name below ``example.com``.
    """
    if not hosts:
        return True
    found = _HOST.fullmatch(hosts[0].strip().lower())
    if len(hosts) > 1 or found is None:
        return False
    if found["ipv6"] is not None:
        return _is_address(found["ipv6"])
    name: str = found["name"].removesuffix(".")
    if name in {"", "localhost", *names} or _is_address(name):
        return True
    return any(known.startswith(".") and name.endswith(known) for known in names)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


async def _lag() -> Check:
    """How long the event loop takes for one turn: everything in it is as late."""
    began_s = time.monotonic()
    await asyncio.sleep(0)
    lag_s = time.monotonic() - began_s
    return Check("event loop", lag_s < LAG_LIMIT_S, f"a turn takes {lag_s * 1000:.1f} ms")


def _json_answer(status: int, body: Mapping[str, object], headers: Mapping[str, str] | None = None) -> web.Response:
    return _answer_of(status, json_escaped(json.dumps(body)).encode() + b"\n", "application/json", headers)


def _answer_of(status: int, body: bytes, content_type: str, headers: Mapping[str, str] | None = None) -> web.Response:
    """An answer that ends its connection, is not cached, and shows no versions."""
    fixed = {"Server": "mns-consumer", "Cache-Control": "no-store", "Content-Type": content_type}
    answer = web.Response(status=status, body=body, headers={**fixed, **(headers or {})})
    answer.force_close()
    return answer
