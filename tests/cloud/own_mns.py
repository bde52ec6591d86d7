"""An MNS of one queue for tests, written from the facts alone. It shares no code with the daemon or the sandbox.

Everything in which one MNS may differ from another - headers, statuses, XML, receipt handles, numbers - is a field of
``Variant``. The default is the service as the facts describe it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Final, Self
from urllib.parse import unquote
from xml.sax.saxutils import escape, unescape

NAMESPACE: Final = ' xmlns="http://mns.aliyuncs.com/doc/v1"'
FIELDS: Final = (
    *("MessageId", "MessageBodyMD5", "MessageBody", "ReceiptHandle", "EnqueueTime", "FirstDequeueTime"),
    *("NextVisibleTime", "DequeueCount", "Priority"),
)
EXTENDED: Final = (
    "<MessageGroupId>g</MessageGroupId>"
    "<SystemProperties><SystemPropertyValue><Name>baggage</Name><Value>a=b</Value><Type>STRING</Type>"
    "</SystemPropertyValue></SystemProperties>"
    "<UserProperties><PropertyValue><Name>k</Name><Value>v</Value><Type>STRING</Type></PropertyValue></UserProperties>"
)
_STATUS: Final = {200: "OK", 201: "Created", 204: "No Content", 400: "Bad Request", 404: "Not Found"}


@dataclass(frozen=True)
class Variant:
    """How one MNS differs from the usual.

    Args:
        name: What is different, for people and as a name of jobs.
        without: Fields that received messages lack.
        values: Fields of received messages with another value.
        order: The order of a message's fields.
        extra: XML put behind a message's fields.
        cdata: Whether bodies come as CDATA.
        raw: Whether bodies are written without base64.
        declaration: What stands before the root element.
        prefix: A prefix of every element.
        namespace: The root's attributes.
        gap: White space between elements.
        head: Bytes before the XML.
        request_id: Of which answers MNS signs the head: ``all``, ``success``, ``refusal``, ``none``.
        headers: Headers that differ; ``None`` leaves one out.
        lower: Whether header names are in lower case.
        backwards: Whether headers come in the opposite order.
        framing: How a body is framed: ``length``, ``chunked``, ``close`` (with a length), ``end`` (by the connection's
            end alone), ``pieces``.
        length_of_204: Whether a 204 says that its length is 0.
        skew_s: The server's clock minus the true one.
        empty: Status and body of a receive without messages.
        busy: Status and body of every third request.
        spare: Which fields of an ``<Error>`` come.
        received: Status of a receive.
        page: A body in place of that of every receive.
        batch: The most messages of one receive; ``None``: as many as were asked for.
        visible_s: For how long a receive hides a message.
        handle: How receipt handles look.
        on_hide: What hiding does to the handle: ``new`` kills the old one, ``both`` honours it, ``same`` keeps it.
        hidden: NextVisibleTime of a hide, where it is another.
        gone: Status and code of what a dead handle is answered.
        partial: Status of a batch delete whose last handle fails the first time; 0: none fails.
        deleted: Status and body of a delete that worked.
        attributes: Attributes of the queue with another value; ``None`` leaves one out.
        denies_attributes: Whether the attributes are refused.
    """

    name: str
    without: Sequence[str] = ()
    values: Mapping[str, str] = field(default_factory=dict)
    order: Sequence[str] = FIELDS
    extra: str = ""
    cdata: bool = False
    raw: bool = False
    declaration: str = '<?xml version="1.0" ?>\n'
    prefix: str = ""
    namespace: str = NAMESPACE
    gap: str = "\n  "
    head: bytes = b""
    request_id: str = "all"
    headers: Mapping[str, str | None] = field(default_factory=dict)
    lower: bool = False
    backwards: bool = False
    framing: str = "length"
    length_of_204: bool = False
    skew_s: float = 0.0
    empty: tuple[int, str] = (404, "")
    busy: tuple[int, str] | None = None
    spare: Sequence[str] = ("Code", "Message", "RequestId", "HostId")
    received: int = 200
    page: str | None = None
    batch: int | None = None
    visible_s: float = 4.0
    handle: str = "8-0zxj{}"
    on_hide: str = "new"
    hidden: str | None = None
    gone: tuple[int, str] = (404, "MessageNotExist")
    partial: int = 0
    deleted: tuple[int, str] = (204, "")
    attributes: Mapping[str, str | None] = field(default_factory=dict)
    denies_attributes: bool = False


@dataclass
class Stored:
    """One message in the queue."""

    body: str
    message_id: str
    sent_s: float
    visible_s: float = 0.0
    first_s: float = 0.0
    count: int = 0
    handles: list[str] = field(default_factory=list)


class OwnMns:
    """Serves one queue on a port of its own."""

    def __init__(self, variant: Variant) -> None:
        self.variant = variant
        self.messages: list[Stored] = []
        self.calls: dict[str, int] = {}
        self.port = 0
        self._numbers = itertools.count(1)
        self._failed = False
        self._changed = asyncio.Event()
        self._serving: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)
        # A transport closes in the next step of the loop.
        await asyncio.sleep(0)

    def put(self, body: str) -> None:
        """Send a message."""
        number = next(self._numbers)
        self.messages.append(Stored(body, f"{number:032X}", time.time()))
        self._changed.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                method, target, _ = head.split("\r\n", 1)[0].split(" ")
                length = re.search(r"(?im)^content-length: (\d+)", head)
                body = await reader.readexactly(int(length[1]) if length else 0)
                status, answer = await self._answer(method, target, body.decode())
                await self._write(writer, status, answer)
                if self.variant.framing in {"close", "end"}:
                    return
        except (asyncio.IncompleteReadError, OSError):
            return
        finally:
            self._serving.discard(task)
            writer.close()

    async def _answer(self, method: str, target: str, body: str) -> tuple[int, str]:
        path, _, query = target.partition("?")
        items = dict(item.partition("=")[::2] for item in query.lower().split("&") if item)
        verb = f"{method} {path.rpartition('/')[2] if path.endswith('messages') else 'queue'}"
        self.calls[verb] = self.calls.get(verb, 0) + 1
        if self.variant.busy is not None and sum(self.calls.values()) % 3 == 0:
            return self.variant.busy
        if verb == "GET messages":
            return await self._receive(int(items["numofmessages"]), float(items.get("waitseconds", "0")))
        if verb == "DELETE messages":
            return self._delete(re.findall(r"<ReceiptHandle>(.*?)</ReceiptHandle>", body))
        if verb == "POST messages":
            return self._send(body)
        if verb == "PUT messages":
            handle = re.search(r"(?i)receipthandle=([^&]*)", query)
            assert handle is not None
            return self._hide(unquote(handle[1]), int(items["visibilitytimeout"]))
        return self._attributes() if verb == "GET queue" else self._error(400, "InvalidRequestURL")

    async def _receive(self, count: int, wait_s: float) -> tuple[int, str]:
        until = time.monotonic() + wait_s
        while not (ready := [stored for stored in self.messages if stored.visible_s <= time.time()]):
            if time.monotonic() >= until:
                status, body = self.variant.empty
                return (status, body) if body else self._error(status, "MessageNotExist")
            self._changed.clear()
            visible_s = min((stored.visible_s for stored in self.messages), default=time.time() + wait_s)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, min(visible_s - time.time(), until - time.monotonic()))):
                    await self._changed.wait()
        if self.variant.page is not None:
            return self.variant.received, self.variant.page
        chosen = ready[: count if self.variant.batch is None else self.variant.batch]
        return self.variant.received, self._document("Messages", "".join(map(self._message, chosen)))

    def _message(self, stored: Stored) -> str:
        now_s = time.time()
        stored.visible_s, stored.count = now_s + self.variant.visible_s, stored.count + 1
        stored.first_s = stored.first_s or now_s
        stored.handles = [self._new_handle()]
        values = {
            "MessageId": stored.message_id,
            "MessageBodyMD5": hashlib.md5(stored.body.encode(), usedforsecurity=False).hexdigest().upper(),
            "MessageBody": stored.body,
            "ReceiptHandle": stored.handles[0],
            "EnqueueTime": self._ms(stored.sent_s),
            "FirstDequeueTime": self._ms(stored.first_s),
            "NextVisibleTime": self._ms(stored.visible_s),
            "DequeueCount": str(stored.count),
            "Priority": "8",
        } | dict(self.variant.values)
        shown = {name: escape(values[name]) for name in self.variant.order if name not in self.variant.without}
        if self.variant.cdata:
            shown["MessageBody"] = f"<![CDATA[{stored.body}]]>"
        return self._element("Message", "".join(self._element(*item) for item in shown.items()) + self.variant.extra)

    def _send(self, xml: str) -> tuple[int, str]:
        found = re.search(r"<MessageBody>(.*?)</MessageBody>", xml, re.DOTALL)
        if found is None:
            return self._error(400, "MalformedXML")
        self.put(unescape(found[1]))
        return 201, self._document("Message", self._element("MessageId", self.messages[-1].message_id))

    def _delete(self, written: Sequence[str]) -> tuple[int, str]:
        handles = [unescape(text) for text in written]
        failed: dict[str, str] = {}
        for place, handle in enumerate(handles):
            stored = self._find(handle)
            if stored is None:
                failed[handle] = self.variant.gone[1]
            elif self.variant.partial and place == len(handles) - 1 and not self._failed:
                self._failed = True
                failed[handle] = "InternalServerError"
            elif self.variant.deleted == (204, ""):
                self.messages.remove(stored)
        if not failed:
            return self.variant.deleted
        errors = "".join(
            self._element(
                "Error",
                self._element("ErrorCode", code)
                + self._element("ErrorMessage", "m")
                + self._element("ReceiptHandle", escape(handle)),
            )
            for handle, code in failed.items()
        )
        return self.variant.partial or self.variant.gone[0], self._document("Errors", errors)

    def _hide(self, handle: str, seconds: int) -> tuple[int, str]:
        stored = self._find(handle)
        if stored is None:
            return self._error(*self.variant.gone)
        stored.visible_s = time.time() + seconds
        self._changed.set()
        new = handle if self.variant.on_hide == "same" else self._new_handle()
        stored.handles = [new, *(stored.handles if self.variant.on_hide == "both" else ())]
        visible = self._ms(stored.visible_s) if self.variant.hidden is None else self.variant.hidden
        inner = self._element("ReceiptHandle", escape(new)) + self._element("NextVisibleTime", visible)
        return 200, self._document("ChangeVisibility", inner)

    def _attributes(self) -> tuple[int, str]:
        if self.variant.denies_attributes:
            return self._error(403, "AccessDenied")
        values: dict[str, str | None] = {
            "QueueName": "q",
            "CreateTime": "1",
            "LastModifyTime": "1",
            "DelaySeconds": "0",
            "MaximumMessageSize": "65536",
            "MessageRetentionPeriod": "345600",
            "VisibilityTimeout": "4",
            "PollingWaitSeconds": "0",
            "ActiveMessages": "0",
            "InactiveMessages": "0",
            "DelayMessages": "0",
        }
        values |= self.variant.attributes
        shown = "".join(self._element(name, value) for name, value in values.items() if value is not None)
        return 200, self._document("Queue", shown)

    def _error(self, status: int, code: str) -> tuple[int, str]:
        values = {"Code": code, "Message": "m", "RequestId": "B" * 24, "HostId": "http://h"}
        inner = "".join(self._element(name, value) for name, value in values.items() if name in self.variant.spare)
        return status, self._document("Error", inner)

    def _find(self, handle: str) -> Stored | None:
        now_s = time.time()
        alive = (stored for stored in self.messages if handle in stored.handles and stored.visible_s > now_s)
        return next(alive, None)

    def _new_handle(self) -> str:
        return self.variant.handle.format(next(self._numbers))

    def _ms(self, true_s: float) -> str:
        return str(int((true_s + self.variant.skew_s) * 1000))

    def _element(self, name: str, inner: str) -> str:
        name = self.variant.prefix + name
        return f"{self.variant.gap}<{name}>{inner}</{name}>"

    def _document(self, root: str, inner: str) -> str:
        name = self.variant.prefix + root
        return f"{self.variant.declaration}<{name}{self.variant.namespace}>{inner}</{name}>"

    async def _write(self, writer: asyncio.StreamWriter, status: int, answer: str) -> None:
        variant = self.variant
        body = variant.head + answer.encode() if answer else b""
        headers: dict[str, str | None] = {
            "Server": "AliyunMQS",
            "Date": formatdate(time.time() + variant.skew_s, usegmt=True),
            "Content-Type": "text/xml;charset=utf-8",
            "Content-Length": self._length(status, body),
            "Transfer-Encoding": "chunked" if variant.framing == "chunked" and status != 204 else None,
            "Connection": "close" if variant.framing in {"close", "end"} else "keep-alive",
            "x-mns-version": "2015-06-06",
            "x-mns-request-id": "A" * 24 if variant.request_id in {"all", _side(status)} else None,
            **variant.headers,
        }
        lines = [f"{name.lower() if variant.lower else name}: {value}" for name, value in headers.items() if value]
        if variant.backwards:
            lines.reverse()
        head = "\r\n".join([f"HTTP/1.1 {status} {_STATUS.get(status, 'X')}", *lines, "", ""]).encode()
        if headers["Transfer-Encoding"]:
            half = len(body) // 2
            body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:half], body[half:]) if part)
            body += b"0\r\n\r\n"
        for part in _pieces(head + body) if variant.framing == "pieces" else (head + body,):
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0)

    def _length(self, status: int, body: bytes) -> str | None:
        if status == 204:
            return "0" if self.variant.length_of_204 else None
        return None if self.variant.framing in {"chunked", "end"} else str(len(body))


def _side(status: int) -> str:
    return "refusal" if status >= 400 else "success"


def _pieces(data: bytes) -> list[bytes]:
    return [data[start : start + 97] for start in range(0, len(data), 97)]
