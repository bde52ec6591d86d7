"""Send one request and bring its whole answer back, or say in one line why there is none.

One pool of keep-alive connections for a lane. What it never does: send a request twice (a receive sent
again strands messages, a hide sent again kills the newest receipt), follow a redirect, keep a cookie, ask a
proxy that the environment names, unpack compression, read more than a limit, wait without an end, take what came
unasked for an answer (``connections``).
Being cancelled from outside passes through untouched.

Elsewhere: what is asked and signed (``mns``, ``mps``), what an answer means (``answer``, ``faults``).
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import aiohttp
from yarl import URL

from consumer.cloud.answer import Arrival
from consumer.cloud.connections import Connector
from consumer.cloud.server_clock import ServerClock
from consumer.cloud.wording import cut
from consumer.errors import CloudError, Fault, SettingsError, lacks_threads

CONNECT_S: Final = 5.0
"""How long a connection may take: name, TCP and TLS together."""

# No Accept-Encoding of aiohttp's own: a compressed answer could unpack to any size.
_OURS_ONLY: Final = ("Accept", "Accept-Encoding", "User-Agent", "Content-Type")


@dataclass(frozen=True, slots=True)
class Call:
    """One request, ready to be sent byte for byte.

    Args:
        operation: The API's name of it, for errors.
        target: The queue, or MPS's host, for errors.
        method: The HTTP method.
        url: Scheme, host, path and query, escaped as they were signed.
        headers: All headers but Content-Length.
        body: The body; ``None`` for none.
        deadline_s: For the whole exchange, a long poll's wait included.
        limit_bytes: The most that is read of the answer.
        on_head: Called when the answer's head has come.
    """

    operation: str
    target: str
    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes | None
    deadline_s: float
    limit_bytes: int
    on_head: Callable[[], None] | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer.

    Args:
        status: The HTTP status.
        headers: Names compare in any case.
        body: The whole body.
        elapsed_s: From sending to the body's end.
        arrival: When it came, by both clocks. Without a Date header that can be believed the server's clock is
            taken to be ours.
        server_offset_s: The server's clock minus ours; 0 within what the Date header can tell.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    elapsed_s: float
    arrival: Arrival
    server_offset_s: float


class Pool:
    """Keep-alive connections to a lane's two services; made by ``open_pool`` inside the running loop."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session
        self._clock = ServerClock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close every connection; calls under way end as network errors."""
        await self._session.close()

    async def ask(self, call: Call) -> Answer:
        """Send one request once, and read its answer to the end.

        Raises:
            CloudError: ``Fault.NETWORK``: no whole answer came, and the call may have had its effect;
                ``Fault.UNREADABLE``: what came is not HTTP, or longer than the limit.
        """
        timeout = aiohttp.ClientTimeout(total=call.deadline_s, connect=CONNECT_S)
        began = time.monotonic()
        try:
            async with self._session.request(
                call.method,
                URL(call.url, encoded=True),
                headers=call.headers,
                data=call.body,
                allow_redirects=False,
                timeout=timeout,
            ) as response:
                if call.on_head is not None:
                    call.on_head()
                body = await _read(response, call)
                return self._answer(response, body, began, call)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            # ValueError: aiohttp's own for a URL or header that can't be sent, and for garbage in a head.
            raise _failure(call, error) from None
        except RuntimeError as error:
            if not lacks_threads(error):
                raise
            # The name of the host is looked up on a thread.
            detail = f"no thread could be started to look the name of {_place(call.url)} up"
            raise CloudError(
                Fault.NETWORK, operation=call.operation, target=call.target, code="NoThread", detail=detail
            ) from None

    def _answer(self, response: aiohttp.ClientResponse, body: bytes, began: float, call: Call) -> Answer:
        now, wall_s = time.monotonic(), time.time()
        server_s, offset_s = self._clock.read(response.headers.get("Date", ""), wall_s, now, call.target)
        arrival = Arrival(monotonic=now, server_s=server_s)
        return Answer(response.status, response.headers, body, now - began, arrival, offset_s)


def open_pool(*, ca_file: Path | None = None, keepalive_s: float = 15.0) -> Pool:
    """Open a lane's pool; to be called inside the running event loop.

    Args:
        ca_file: Certificates of the authorities to trust, PEM, *instead of* the system's.
        keepalive_s: How long an idle connection is kept; shorter than a server's own time, so that it is
            we who close it.

    Raises:
        SettingsError: ``ca_file`` can't be read as certificates.
    """
    # True is aiohttp's ready-made context: certificates and host names verified, system authorities.
    verify: ssl.SSLContext | bool = True if ca_file is None else _trusting(ca_file)
    session = aiohttp.ClientSession(
        connector=Connector(verify=verify, keepalive_s=keepalive_s),
        cookie_jar=aiohttp.DummyCookieJar(),
        skip_auto_headers=_OURS_ONLY,
        headers={"Accept-Encoding": "identity"},
        auto_decompress=False,
        trust_env=False,
    )
    # aiohttp sends GET, PUT and DELETE again when a kept connection drops, whether or not the call had its
    # effect. It has no public switch; its own test client turns it off here. A test counts arrivals.
    session._retry_connection = False  # noqa: SLF001 - see above
    return Pool(session)


def _trusting(ca_file: Path) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=str(ca_file))
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise SettingsError(
            f"ca_file: expected a PEM file of certificates, {str(ca_file)!r} can't be used: {cut(str(error), 120)}"
        ) from None


async def _read(response: aiohttp.ClientResponse, call: Call) -> bytes:
    length = response.content_length
    if length is not None and length <= call.limit_bytes:
        return await response.read()
    parts: list[bytes] = []
    size = length or 0
    while size <= call.limit_bytes:
        part = await response.content.readany()
        if not part:
            return b"".join(parts)
        parts.append(part)
        size += len(part)
    response.close()
    raise CloudError(
        Fault.UNREADABLE,
        operation=call.operation,
        target=call.target,
        code="AnswerTooLong",
        detail=f"expected at most {call.limit_bytes} bytes, more came; the rest was not read",
        status=response.status,
    )


def _failure(call: Call, error: Exception) -> CloudError:
    """One line for each way in which no answer comes."""
    place = _place(call.url)
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
        code, detail = "ReadTimeout", f"no answer from {place} within {call.deadline_s:g} s"
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
    return CloudError(fault, operation=call.operation, target=call.target, code=code, detail=detail)


def _reason(error: Exception) -> str:
    """The system's words for it; aiohttp's own would repeat host and TLS settings."""
    inner = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    return cut(getattr(inner, "strerror", None) or type(inner).__name__, 120)


def _place(url: str) -> str:
    parsed = URL(url, encoded=True)
    return f"{parsed.host}:{parsed.port}"
