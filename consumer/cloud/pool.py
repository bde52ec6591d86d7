"""Send one request and return its whole answer, or say in one line why there is none.

One pool of keep-alive connections for a queue. It never sends a request twice (a receive sent again strands messages, a
hide sent again replaces the newest receipt), follows a redirect, keeps a cookie, uses a proxy of the environment,
unpacks compression, reads more than a limit, or waits without an end. Cancelling it from outside passes through.

HTTP/1.1 pairs answers with requests by their order alone. aiohttp reads bytes that arrive on an idle connection, keeps
them, and takes them for the answer to the next request: they would then confirm a delete. So a connection that receives
a byte while it is idle is closed, and before each reuse it is checked for bytes that no request asked for: a whole
message, a part of one that came together with the last answer, or bytes that the kernel holds and the event loop has
not read yet. An answer that a server sends early, after the next request has left, looks like the true one.

The servers' time comes from their Date headers (``ServerClock``).
"""

from __future__ import annotations

import asyncio
import select
import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from functools import lru_cache, partial
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import aiohttp
import structlog
from aiohttp.client_proto import ResponseHandler
from aiohttp.client_reqrep import ClientRequest
from aiohttp.connector import Connection
from aiohttp.tracing import Trace
from yarl import URL

from consumer.cloud.credentials import CredentialsSource
from consumer.cloud.faults import advice, cut, lacks_a_right
from consumer.errors import CloudError, Fault, SettingsError, lacks_threads

log = structlog.stdlib.get_logger(__name__)

CONNECT_S: Final = 5.0
"""How long a connection may take: name, TCP and TLS together."""
_KEEPALIVE_S: Final = 15.0
"""Shorter than a server's own time, so that we close an idle connection first."""
BELIEVED_S: Final = 900.0
"""How far a server's clock may be from ours, in seconds (facts/mns.md#clock-difference)."""
_COARSE_S: Final = 1.5
_QUIET_S: Final = 600.0
_LONGEST_DATE: Final = 64

# No Accept-Encoding of aiohttp's own: a compressed answer could unpack to any size.
_OURS_ONLY: Final = ("Accept", "Accept-Encoding", "User-Agent", "Content-Type")
_PROBE: Final = b"HTTP/1.1 299 -\r\nContent-Length: 0\r\n\r\n"
_PROBE_STATUS: Final = 299

Observe = Callable[[str, Fault | None, float], None]
"""Called once for each request that ended: the API's name, what failed, seconds; it must not raise."""
TraceCall = Callable[[str, str, int | None], AbstractContextManager[Callable[[str], None]]]
"""A block around each request: the API's name, host and port; what it gives is called with the answer's request id."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """When an answer had arrived, by ``time.monotonic`` and by the server's clock in Unix seconds."""

    monotonic: float
    server_s: float


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """A whole answer.

    Args:
        headers: Names compare in any case.
        elapsed_s: From sending to the body's end.
        arrival: Without a Date header that can be believed the server's clock is taken to be ours.
        server_offset_s: The server's clock minus ours; 0 within the precision of the Date header.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    elapsed_s: float
    arrival: Arrival
    server_offset_s: float


class Exchange:
    """One request from its signing to the end of its reading, as an ``async with`` block.

    Leaving the block reports to ``observe`` how it ended; a cancelled call did not end and is not reported. Keys that
    the service refused are refreshed.
    """

    __slots__ = ("_began", "_observe", "credentials", "operation", "target")

    def __init__(self, operation: str, target: str, credentials: CredentialsSource, observe: Observe | None) -> None:
        self.operation = operation
        self.target = target
        self.credentials = credentials
        self._observe = observe
        self._began = 0.0

    async def __aenter__(self) -> Self:
        self._began = time.monotonic()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and not isinstance(error, CloudError):
            return
        if self._observe is not None:
            fault = None if error is None else error.fault
            self._observe(self.operation, fault, time.monotonic() - self._began)
        # With a status it is the service that refused; without one there were no keys to refuse.
        if error is not None and error.fault is Fault.CREDENTIALS and error.status is not None:
            await self.credentials.refresh(denied=lacks_a_right(error.code))

    def failure(
        self,
        fault: Fault,
        code: str,
        detail: str,
        *,
        status: int | None = None,
        request_id: str | None = None,
        denied: str = "",
    ) -> CloudError:
        """The error of this call, with what to do about its code, the service's or ours (``faults.advice``)."""
        to_do = advice(self.operation, fault, code, denied)
        if to_do:
            detail = f"{detail.rstrip(' .;')}; {to_do}"
        return CloudError(
            fault,
            operation=self.operation,
            target=self.target,
            code=code,
            detail=detail,
            status=status,
            request_id=request_id,
        )


class Pool:
    """Keep-alive connections to a queue's two services; ``open_pool`` makes it."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session
        self._clock = ServerClock()

    async def ask(
        self,
        exchange: Exchange,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | None = None,
        *,
        deadline_s: float,
        limit_bytes: int,
        on_head: Callable[[], None] | None = None,
    ) -> HttpAnswer:
        """Send one request once, byte for byte as it was signed, and read its answer to the end.

        ``deadline_s`` includes a long poll's wait. ``on_head`` is called when the answer's head has come.

        Raises:
            CloudError: ``Fault.NETWORK``: no whole answer came, and the call may have had its effect;
                ``Fault.UNREADABLE``: what came is not HTTP, or longer than ``limit_bytes``.
        """
        timeout = aiohttp.ClientTimeout(total=deadline_s, connect=CONNECT_S)
        began = time.monotonic()
        try:
            async with self._session.request(
                method, URL(url, encoded=True), headers=headers, data=body, allow_redirects=False, timeout=timeout
            ) as response:
                if on_head is not None:
                    on_head()
                content = await _read(response, limit_bytes)
                now, wall_s = time.monotonic(), time.time()
                server_s, offset_s = self._clock.read(response.headers.get("Date", ""), wall_s, now, exchange.target)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            # ValueError: aiohttp's own for a URL or header that can't be sent, and for garbage in a head.
            raise _failure(exchange, url, deadline_s, error) from None
        except RuntimeError as error:
            if not lacks_threads(error):
                raise
            # The name of the host is looked up on a thread.
            detail = f"no thread could be started to look the name of {_place(url)} up"
            raise exchange.failure(Fault.NETWORK, "NoThread", detail) from None
        if content is None:
            detail = f"expected at most {limit_bytes} bytes, more came; the rest was not read"
            raise exchange.failure(Fault.UNREADABLE, "AnswerTooLong", detail, status=response.status)
        return HttpAnswer(response.status, response.headers, content, now - began, Arrival(now, server_s), offset_s)


@asynccontextmanager
async def open_pool(*, ca_file: Path | None = None) -> AsyncIterator[Pool]:
    """Open a queue's pool; ``ca_file`` (PEM) *replaces* the system's authorities.

    Closing it closes every connection; calls under way end as network errors.

    Raises:
        SettingsError: ``ca_file`` can't be read as certificates.
    """
    # True is aiohttp's ready-made context: certificates and host names verified, system authorities. No limit: the
    # slots bound the calls under way, and a call that waits for a connection would lose its lease.
    verify: ssl.SSLContext | bool = True if ca_file is None else _trusting(ca_file)
    async with aiohttp.ClientSession(
        connector=_Connector(ssl=verify, limit=0, keepalive_timeout=_KEEPALIVE_S),
        cookie_jar=aiohttp.DummyCookieJar(),
        skip_auto_headers=_OURS_ONLY,
        headers={"Accept-Encoding": "identity"},
        auto_decompress=False,
        trust_env=False,
    ) as session:
        # aiohttp sends GET, PUT and DELETE again when a kept connection drops, whether or not the call had its
        # effect. It has no public switch; its own test client turns it off here. A test counts arrivals.
        session._retry_connection = False  # noqa: SLF001 - see above
        yield Pool(session)


class ServerClock:
    """The time on the servers behind one pool, unmoved by a jump of our own clock; logs a change, not each answer.

    MNS refuses a request whose own Date is more than 15 minutes off (facts/mns.md#clock-difference), so a request that
    was served proves that both clocks agreed within that. Our clock as it was at the start runs on by the monotonic
    clock, which no step of the wall clock moves. A Date near that is believed, even if our clock has jumped since. A
    Date that is near only to our clock as it is now means that our clock was corrected: from then on that counts. Any
    other Date is wrong, and the time that runs on replaces it: a Date of another year would make each message older
    than its retention.
    """

    def __init__(self, wall_s: float | None = None, now: float | None = None) -> None:
        self._base_s = (time.time() if wall_s is None else wall_s) - (time.monotonic() if now is None else now)
        self._doubted_at: dict[str, float] = {}

    def read(self, date: str, wall_s: float, now: float, target: str) -> tuple[float, float]:
        """The time of ``target``'s server in UNIX seconds, and its difference to our clock, by one Date header.

        ``wall_s`` and ``now`` are our two clocks when the answer came. The difference is 0 within the precision of a
        Date in whole seconds.
        """
        date_s = _parsed(date)
        expected_s = self._base_s + now
        if date_s is not None and abs(date_s - expected_s) > BELIEVED_S:
            if abs(date_s - wall_s) <= BELIEVED_S:
                self._base_s = wall_s - now
            else:
                self._doubt(target, date_s - wall_s)
                date_s = None
        elif date_s is not None and target in self._doubted_at:
            self._believe(target)
        server_s = expected_s if date_s is None else date_s
        raw_s = server_s - wall_s
        # A Date that was cut to whole seconds makes a clock that agrees with ours look up to a second behind.
        return server_s, 0.0 if -_COARSE_S <= raw_s <= _COARSE_S - 1 else raw_s + 0.5

    def _doubt(self, target: str, raw_s: float) -> None:
        if target not in self._doubted_at:
            log.warning(
                "the Date of answers is too far from this computer's clock; the computer's is used",
                target=target,
                seconds=round(raw_s),
                believed_seconds=BELIEVED_S,
            )
        self._doubted_at[target] = time.monotonic()

    def _believe(self, target: str) -> None:
        # Right and wrong dates in turn are one change, not one for each answer.
        if time.monotonic() - self._doubted_at[target] >= _QUIET_S:
            del self._doubted_at[target]
            log.info("the Date of answers agrees with this computer's clock again", target=target)


@lru_cache(maxsize=8)
def _parsed(date: str) -> float | None:
    """UNIX seconds of an HTTP date; one without a zone is GMT, as HTTP defines, whatever this computer's zone."""
    if not date.isascii() or len(date) > _LONGEST_DATE:
        return None
    try:
        parsed = parsedate_to_datetime(date)
        return parsed.timestamp() if parsed.tzinfo else parsed.replace(tzinfo=UTC).timestamp()
    except Exception:  # noqa: BLE001 - the library promises ValueError, but raises others for some texts
        return None


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
        """Whether nothing has arrived beyond the end of the last answer. It uses up the answer's parser."""
        transport, parser = self.transport, self._parser
        if transport is None or parser is None or self.should_close:
            return False
        # A parser that stands at the start of a message reads this one as it is; 1.3 us a request.
        try:
            messages, _, _ = parser.feed_data(_PROBE)
        except Exception:  # noqa: BLE001 - any failure: it was not at the start of a message
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


class _Connector(aiohttp.TCPConnector):
    """A ``TCPConnector`` whose kept connections are checked before each reuse."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        # aiohttp has no public way to name the protocol. Tests send bytes to an idle connection.
        self._factory = partial(_Protocol, self._loop)  # type: ignore[assignment]

    async def connect(
        self,
        req: ClientRequest,
        traces: list[Trace],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - aiohttp's signature
    ) -> Connection:
        """A connection without unread bytes; unclean ones are closed."""
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


def _trusting(ca_file: Path) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=str(ca_file))
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise SettingsError(
            f"ca_file: expected a PEM file of certificates, {str(ca_file)!r} can't be used: {cut(str(error), 120)}"
        ) from None


async def _read(response: aiohttp.ClientResponse, limit_bytes: int) -> bytes | None:
    """The answer's body; ``None`` for one that is too long, whose connection is closed."""
    length = response.content_length
    if length is not None and length <= limit_bytes:
        return await response.read()
    parts: list[bytes] = []
    size = length or 0
    while size <= limit_bytes:
        part = await response.content.readany()
        if not part:
            return b"".join(parts)
        parts.append(part)
        size += len(part)
    response.close()
    return None


def _failure(exchange: Exchange, url: str, deadline_s: float, error: Exception) -> CloudError:
    """One line for each way in which no answer comes."""
    place = _place(url)
    fault = Fault.NETWORK
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        code = "CertificateNotTrusted"
        detail = (
            f"the certificate of {place} is not trusted: {cut(str(error.certificate_error), 160)};"
            " if it is your own authority's, name its file in the setting ca_file"
        )
    elif isinstance(error, (aiohttp.ClientSSLError, ssl.SSLError)):
        code, detail = "TlsFailed", f"no TLS connection to {place}: {_reason(error)}; see the setting ca_file"
    elif isinstance(error, aiohttp.ConnectionTimeoutError):
        code, detail = "ConnectTimeout", f"connect to {place} took longer than {CONNECT_S:g} s"
    elif isinstance(error, TimeoutError):
        code, detail = "ReadTimeout", f"no answer from {place} within {deadline_s:g} s"
    elif isinstance(error, aiohttp.ClientConnectorDNSError):
        code, detail = "NameNotFound", f"the name of {place} was not found: {_reason(error)}"
    elif isinstance(error, aiohttp.ClientConnectorError):
        refused = isinstance(error.os_error, ConnectionRefusedError)
        code = "ConnectRefused" if refused else "ConnectFailed"
        detail = f"connect to {place} {'refused' if refused else f'failed: {_reason(error)}'}"
    elif isinstance(error, aiohttp.ServerDisconnectedError):
        code, detail = "Disconnected", f"{place} closed the connection without an answer"
    elif isinstance(error, aiohttp.ClientPayloadError):
        code, detail = "AnswerCutShort", f"the answer of {place} broke off or was badly framed"
    elif isinstance(error, (aiohttp.ClientResponseError, ValueError)):
        fault = Fault.UNREADABLE
        code, detail = "NotHttp", f"what came from {place} is not an HTTP answer"
    else:
        code, detail = "ConnectionLost", f"the connection to {place} broke: {_reason(error)}"
    return exchange.failure(fault, code, detail)


def _reason(error: Exception) -> str:
    """The system's words for it; aiohttp's own would repeat host and TLS settings."""
    inner = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    return cut(getattr(inner, "strerror", None) or type(inner).__name__, 120)


def _place(url: str) -> str:
    parsed = URL(url, encoded=True)
    return f"{parsed.host}:{parsed.port}"
