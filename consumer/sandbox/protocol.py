"""What MNS, MPS and IMS share on the sandbox's port: operation names, requests, responses and errors."""

import asyncio
import select
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from xml.sax.saxutils import escape

from aiohttp import web

QUEUE_OPERATIONS: Final = (
    "CreateQueue",
    "SetQueueAttributes",
    "GetQueueAttributes",
    "DeleteQueue",
    "ListQueue",
    "SendMessage",
    "BatchSendMessage",
    "ReceiveMessage",
    "BatchReceiveMessage",
    "PeekMessage",
    "BatchPeekMessage",
    "DeleteMessage",
    "BatchDeleteMessage",
    "ChangeMessageVisibility",
)
JOB_OPERATIONS: Final = ("SubmitIProductionJob", "QueryIProductionJob")
IMS_OPERATIONS: Final = (
    "ice:SubmitIProductionJob",
    "ice:QueryIProductionJob",
    "ice:CancelIProductionJob",
    "ice:SetEventCallback",
    "ice:GetEventCallback",
)
"""Those of IMS, as its RAM actions are spelt: two have the names of MPS's."""
UNKNOWN: Final = "Unknown"

GROUPS: Final = {
    "mns": frozenset(QUEUE_OPERATIONS),
    "mps": frozenset(JOB_OPERATIONS),
    "ims": frozenset(IMS_OPERATIONS),
    "send": frozenset({"SendMessage", "BatchSendMessage"}),
    "receive": frozenset({"ReceiveMessage", "BatchReceiveMessage"}),
    "peek": frozenset({"PeekMessage", "BatchPeekMessage"}),
    "delete": frozenset({"DeleteMessage", "BatchDeleteMessage"}),
    "hide": frozenset({"ChangeMessageVisibility"}),
    "submit": frozenset({"SubmitIProductionJob", "ice:SubmitIProductionJob"}),
    "query": frozenset({"QueryIProductionJob", "ice:QueryIProductionJob"}),
}
"""Short names for several operations, as a fault may name them."""

XML: Final = "text/xml;charset=utf-8"
JSON: Final = "application/json;charset=utf-8"
HTML: Final = "text/html"

_NO_CONTENT: Final = 204
_BAD_REQUEST: Final = 400
_NO_HEADERS: Final[Mapping[str, str]] = {}
# 0 where the kernel can't be asked (outside Linux).
_PEER_CLOSED: Final = getattr(select, "POLLRDHUP", 0)

# The statuses other than 400. Source: facts/mns.md#error-codes.
_MNS_STATUS: Final = {
    "AccessDenied": 403,
    "AccessDeniedByRamPolicy": 403,
    "InternalError": 500,
    "InternalServerError": 500,
    "InvalidAccessKeyId": 403,
    "MessageNotExist": 404,
    "QueueAlreadyExist": 409,
    "QueueNotExist": 404,
    "SignatureDoesNotMatch": 403,
    "TimeExpired": 408,
    "TooManyRequests": 429,
}


class ServiceError(Exception):
    """An error of either service: a code, an HTTP status and a text."""

    def __init__(self, code: str, message: str, *, status: int = _BAD_REQUEST) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.status = status


class MnsError(ServiceError):
    """An error of MNS; by default with the documented status of its code."""

    def __init__(self, code: str, message: str, *, status: int | None = None) -> None:
        super().__init__(code, message, status=status or _MNS_STATUS.get(code, _BAD_REQUEST))


class RpcError(ServiceError):
    """An error of the RPC gateway of MPS and IMS (facts/iproduction.md#api-error-codes).

    ``detail`` is its AccessDeniedDetail.
    """

    detail: Mapping[str, str] | None = None


def message_not_exist() -> MnsError:
    """The error for an empty queue, and for a receipt handle whose message is gone."""
    return MnsError("MessageNotExist", "Message not exist.")


def queue_not_exist() -> MnsError:
    """The error for a queue that does not exist."""
    return MnsError("QueueNotExist", "The queue name you provided is not exist.")


def operations_named(names: tuple[str, ...]) -> frozenset[str]:
    """The operations that these operation and group names stand for, or all; ValueError for any other name."""
    every = (*QUEUE_OPERATIONS, *JOB_OPERATIONS, *IMS_OPERATIONS, UNKNOWN)
    chosen: set[str] = set()
    for name in names:
        if name not in GROUPS and name not in every:
            known = ", ".join((*GROUPS, *QUEUE_OPERATIONS, *JOB_OPERATIONS, *IMS_OPERATIONS))
            raise ValueError(f"unknown operation '{name}'; expected one of {known}")
        chosen |= GROUPS.get(name, {name})
    return frozenset(chosen or every)


def escaped(text: str) -> str:
    """Escape text for an XML element; a carriage return too, which every parser would turn into a line feed."""
    return escape(text, {"\r": "&#13;"})


# None of these is frozen: together that costs 2 us a request.
@dataclass(slots=True)
class Request:
    """An HTTP request as received: ``target`` is path and query unchanged, header names are in lower case."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes = b""
    scheme: str = "http"
    transport: asyncio.BaseTransport | None = None

    @property
    def path(self) -> str:
        """The target without its query."""
        return self.target.partition("?")[0]

    @property
    def query(self) -> str:
        """The target's query, undecoded."""
        return self.target.partition("?")[2]

    def is_abandoned(self) -> bool:
        """Whether either side has closed the connection.

        The event loop learns that the peer has closed only in its next turn, and a message could be dequeued for it
        in between. So this asks the kernel, where it can.
        """
        if self.transport is None or self.transport.is_closing():
            return True
        sock = self.transport.get_extra_info("socket")
        if sock is None or not _PEER_CLOSED:
            return False
        poll = select.poll()
        poll.register(sock.fileno(), _PEER_CLOSED)
        return bool(poll.poll(0))


@dataclass(slots=True)
class Response:
    """An HTTP response. ``content_type`` is sent with an empty body too, unless it is ""; ``headers`` come last.

    One that ``is_lost`` is not sent: its call has had its effect, and the connection is closed.
    """

    status: int
    body: bytes = b""
    content_type: str = XML
    headers: Mapping[str, str] = field(default_factory=dict)
    closes: bool = False
    is_lost: bool = False

    def to_web(
        self, date: str, *, keep_alive: bool, server: str = "sandbox", headers: Mapping[str, str] = _NO_HEADERS
    ) -> web.Response:
        """Make the response of aiohttp, with its headers in the order of the real service (facts/mns.md#answers)."""
        closes = self.closes or not keep_alive
        sent = {"Server": server, "Date": date}
        if self.content_type:
            sent["Content-Type"] = self.content_type
        if self.status != _NO_CONTENT:
            sent["Content-Length"] = str(len(self.body))
        sent["Connection"] = "close" if closes else "keep-alive"
        sent.update(headers)
        sent.update(self.headers)
        response = web.Response(status=self.status, body=self.body or None, headers=sent)
        if closes:
            # The header alone leaves the connection open.
            response.force_close()
        return response


@dataclass(slots=True)
class Call:
    """A request with the operation that it asks for.

    Attributes:
        operation: The API's name of it, or ``Unknown``.
        queue: The queue in its path; "" where there is none.
        parameters: From the query (for MNS by one canonical spelling) and from a form.
        unknown_item: A query item that MNS does not know in this spelling; "" when there is none.
    """

    operation: str
    queue: str
    parameters: Mapping[str, str]
    request: Request
    unknown_item: str = ""
