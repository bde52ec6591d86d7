"""One MNS queue: receive, delete, hide, send, peek, read its attributes.

Each operation is one request, sent once. It either returns its documented result or raises one ``CloudError``, whose
``Fault`` shows whether trying again helps. A success has the documented status and root element, and a request id or
MNS's namespace: a proxy's page or a redirect is never taken for one.

The SDK encodes and signs. It never sends, never logs and never touches base64: bodies are bytes here. Its client gets
no logger (it would print the signature and the token) and an ``http`` endpoint whatever ours is (it would load a TLS
context for a connection that is never made); only the host enters the headers. Signature version 4, which it lacks, is
made here.

Source: facts/mns.md#answers, facts/mns.md#error-answers, facts/mns.md#reactions, facts/mns.md#signature-version-2,
facts/mns.md#signature-version-4, facts/mns.md#aliyun-mns-sdk.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable, Mapping, Sequence
from email.utils import parsedate_to_datetime
from typing import Final, Literal, TypeAlias
from urllib.parse import quote, unquote, urlsplit
from xml.sax.saxutils import escape

from mns.auth import Credentials, StaticCredentialsProvider
from mns.mns_client import MNSClient
from mns.mns_http import RequestInternal
from mns.mns_request import RequestBase, SendMessageRequest
from mns.mns_xml_handler import MessageEncoder, ReceiptHandlesEncoder

from consumer.cloud.credentials import CredentialsSource, Keys
from consumer.cloud.faults import cut, describe, mns_fault
from consumer.cloud.messages import (
    Batch,
    DeleteFailure,
    Peeked,
    QueueAttributes,
    Receipt,
    read_attributes,
    read_messages,
    read_peeked,
    read_receipt,
)
from consumer.cloud.mns_xml import AnswerError, fields, has_root, local_name, parse, root_fields
from consumer.cloud.pool import Exchange, HttpAnswer, Observe, Pool
from consumer.errors import CloudError, Fault
from consumer.policy import MAX_BATCH, MAX_HIDE_S, MAX_WAIT_S, MIN_HIDE_S

OWN_DELETE_ENCODER = True  # 6 us a message: bench ablation "deletes"
"""Whether batch deletes are written here; ``False`` leaves it to the SDK's encoder, which builds a document tree."""

_OK, _CREATED, _NO_CONTENT, _REDIRECT, _REFUSED, _THROTTLED, _FAILED = 200, 201, 204, 300, 400, 429, 500
_REQUEST_ID: Final = "x-mns-request-id"
_VERSION: Final = "x-mns-version"
_NO_MESSAGE: Final = "MessageNotExist"
# 16 bodies of 64 KB, each character of which may be written as six.
_MESSAGES_BYTES: Final = 8 * 1024 * 1024
_SHORT_BYTES: Final = 256 * 1024
_QUOTES: Final = {'"': "&quot;"}
# What XML 1.0 can't carry in any spelling.
_NOT_XML: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

# What the SDK itself leaves as it is and every server accepts as it is. All else is escaped, a % too.
_UNTOUCHED: Final = "-._~=+/:@!$*,;"

Signature: TypeAlias = Literal["v2", "v4"]

_V4: Final = "MNS4-HMAC-SHA256"
_V4_SIGNED: Final = ("content-type", "content-md5")


class MnsQueue:
    """One queue behind one endpoint.

    Args:
        endpoint: ``https://ACCOUNT.mns.REGION.aliyuncs.com``, or ``http://HOST:PORT`` of a local server.
        read_margin_s: How much later than its wait an answer may come.
        region: The region's id, which signature version 4 includes.
    """

    def __init__(
        self,
        *,
        endpoint: str,
        queue: str,
        credentials: CredentialsSource,
        pool: Pool,
        observe: Observe | None = None,
        read_margin_s: float = 10.0,
        signature: Signature = "v2",
        region: str = "",
    ) -> None:
        parts = urlsplit(endpoint)
        self.name = queue
        self.origin = f"{parts.scheme}://{parts.netloc}"
        self.signer = MnsSigner(parts.netloc, signature=signature, region=region)
        self.credentials = credentials
        self.pool = pool
        self.observe = observe
        self.read_margin_s = read_margin_s
        self._path = f"/queues/{queue}"
        self._messages = f"{self._path}/messages"

    def __repr__(self) -> str:
        return f"MnsQueue({self.origin}{self._path})"

    async def receive(self, count: int, wait_s: int, *, on_answer: Callable[[], None] | None = None) -> Batch:
        """Receive up to ``count`` messages, waiting for the first one (BatchReceiveMessage).

        Args:
            count: 1 to 16.
            wait_s: The long poll's length, 0 to 30; 0 asks at once, whatever the queue's own.
            on_answer: Called when the answer's head has come: from then on, messages may be received, so a
                daemon that stops reads on to the end instead of cancelling.

        Raises:
            CloudError: Not for an empty queue. After ``Fault.NETWORK`` or ``UNREADABLE``, messages may have been
                received and lost on the way: they are redelivered when their visibility ends.
        """
        _check_range("count", count, 1, MAX_BATCH)
        _check_range("wait_s", wait_s, 0, MAX_WAIT_S)
        resource = f"{self._messages}?numOfMessages={count}&waitseconds={wait_s}"
        async with _MnsCall(self, "BatchReceiveMessage", _MESSAGES_BYTES) as call:
            answer = await call.send("GET", resource, wait_s=wait_s, on_head=on_answer)
            if call.is_empty(answer):
                return Batch((), answer.elapsed_s, answer.server_offset_s)
            try:
                messages, problems = read_messages(answer.body, answer.arrival, limit=count)
            except AnswerError as error:
                raise call.unreadable(answer, str(error)) from None
            return Batch(messages, answer.elapsed_s, answer.server_offset_s, problems)

    async def delete(self, handles: Sequence[str]) -> Sequence[DeleteFailure]:
        """Delete 1 to 16 messages (BatchDeleteMessage), and return the failures: every other handle was deleted.

        Raises:
            CloudError: Any of them may be deleted or not; deleting again does no harm.
        """
        _check_range("number of handles", len(handles), 1, MAX_BATCH)
        body = handles_xml(handles) if OWN_DELETE_ENCODER else ReceiptHandlesEncoder.encode(handles)
        async with _MnsCall(self, "BatchDeleteMessage") as call:
            answer = await call.send("DELETE", self._messages, body)
            if answer.status < _REFUSED:
                call.expect(answer, _NO_CONTENT)
                return ()
            return _delete_failures(call, answer, handles)

    async def hide(self, handle: str, seconds: int) -> Receipt:
        """Make a message visible again 1 to 43200 ``seconds`` from now (ChangeMessageVisibility).

        The new receipt replaces the old handle.

        Raises:
            CloudError: ``Fault.GONE``: the lease is lost already. After ``NETWORK`` or ``UNREADABLE`` the
                old handle may be replaced by one that is unknown here.
        """
        _check_range("seconds", seconds, MIN_HIDE_S, MAX_HIDE_S)
        resource = f"{self._messages}?ReceiptHandle={escaped(handle)}&VisibilityTimeout={seconds}"
        async with _MnsCall(self, "ChangeMessageVisibility") as call:
            answer = await call.send("PUT", resource)
            found = call.fields(answer, _OK, "ChangeVisibility")
            # The new time counts from the call, so it can't be later; it is the best guess without a valid time.
            known_s = max(0.0, seconds - answer.elapsed_s - 1.0)
            try:
                return read_receipt(found, answer.arrival, longest_s=seconds, unknown_s=known_s)
            except KeyError:
                expected = "expected a ReceiptHandle and a NextVisibleTime in milliseconds, came neither or one"
                raise call.unreadable(answer, expected) from None

    async def send(
        self, body: bytes | str, *, delay_s: int = 0, priority: int | None = None, group_id: str | None = None
    ) -> str:
        """Send one message, its body as it is (SendMessage), and return its MessageId.

        Args:
            body: Text that XML can carry, or its UTF-8 bytes; no base64 is done.
            delay_s: Seconds before it can be received, 0 to 604800.
            priority: 1 (first) to 16; the queue's default is 8.
            group_id: MessageGroupId, which a FIFO queue requires.

        Raises:
            CloudError: ``Fault.REQUEST`` also for a body that can't be sent: empty, no UTF-8, or with
                characters that XML forbids. After ``NETWORK`` it may have been sent.
        """
        async with _MnsCall(self, "SendMessage") as call:
            request = SendMessageRequest(
                self.name,
                _sendable(call, body),
                delay_s or -1,
                -1 if priority is None else priority,
                base64encode=False,
                message_group_id=group_id or "",
            )
            # XML turns a bare carriage return into a line feed.
            data: bytes = MessageEncoder.encode(request).replace(b"\r", b"&#13;")
            answer = await call.send("POST", self._messages, data)
            message_id = call.fields(answer, _CREATED, "Message").get("MessageId")
            if not message_id:
                raise call.unreadable(answer, "expected a MessageId, none came")
            return message_id

    async def peek(self, count: int) -> Sequence[Peeked]:
        """Look at up to ``count`` (1 to 16) messages without receiving them (BatchPeekMessage)."""
        _check_range("count", count, 1, MAX_BATCH)
        resource = f"{self._messages}?peekonly=true&numOfMessages={count}"
        async with _MnsCall(self, "BatchPeekMessage", _MESSAGES_BYTES) as call:
            answer = await call.send("GET", resource)
            if call.is_empty(answer):
                return ()
            try:
                return read_peeked(answer.body, answer.arrival, limit=count)
            except AnswerError as error:
                raise call.unreadable(answer, str(error)) from None

    async def attributes(self) -> QueueAttributes:
        """Read the queue's settings (GetQueueAttributes).

        Raises:
            CloudError: ``Fault.MISSING``: there is no such queue.
        """
        async with _MnsCall(self, "GetQueueAttributes") as call:
            answer = await call.send("GET", self._path)
            found = call.fields(answer, _OK, "Queue")
            try:
                return read_attributes(found, answer.body)
            except (KeyError, ValueError) as error:
                what = cut(str(error), 80)
                raise call.unreadable(answer, f"a queue's attribute is missing or no number: {what}") from None


class _MnsCall(Exchange):
    """One request to a queue, whose answer is read up to ``limit_bytes``."""

    __slots__ = ("_limit_bytes", "_queue")

    def __init__(self, queue: MnsQueue, operation: str, limit_bytes: int = _SHORT_BYTES) -> None:
        super().__init__(operation, queue.name, queue.credentials, queue.observe)
        self._queue = queue
        self._limit_bytes = limit_bytes

    async def send(
        self,
        method: str,
        resource: str,
        body: bytes | None = None,
        *,
        wait_s: int = 0,
        on_head: Callable[[], None] | None = None,
    ) -> HttpAnswer:
        """Sign and send; ``resource`` is path and query, escaped, and ``wait_s`` the length of a long poll."""
        queue = self._queue
        keys = await self.credentials.keys()
        headers = queue.signer.headers(keys, method, resource, body)
        return await queue.pool.ask(
            self,
            method,
            queue.origin + resource,
            headers,
            body,
            deadline_s=wait_s + queue.read_margin_s,
            limit_bytes=self._limit_bytes,
            on_head=on_head,
        )

    def expect(self, answer: HttpAnswer, status: int, root: str = "") -> None:
        """Raise unless the answer is MNS's own success, with this root element (``""``: without a body).

        A success is MNS's by its request id or, as good, by the root in MNS's namespace. Without a body, MNS's other
        header is enough.
        """
        headers = answer.headers
        proven = headers.get(_REQUEST_ID) or (has_root(answer.body, root) if root else headers.get(_VERSION))
        if answer.status != status or not proven:
            raise self.refusal(answer, f"status {status}")

    def is_empty(self, answer: HttpAnswer) -> bool:
        """Whether the queue has no message; raises as ``expect`` for an answer that is no list of messages either."""
        if self.error(answer).get("Code") == _NO_MESSAGE:
            return True
        self.expect(answer, _OK, "Messages")
        return False

    def error(self, answer: HttpAnswer) -> Mapping[str, str]:
        """The fields of an ``<Error>`` that has a Code and a request id, in the header or in itself; else empty.

        No captured answer shows the header on a refusal (facts/mns.md#error-answers).
        """
        if answer.status < _REFUSED:
            return {}
        try:
            error = root_fields(answer.body, "Error")
        except AnswerError:
            return {}
        return error if error.get("Code") and (answer.headers.get(_REQUEST_ID) or error.get("RequestId")) else {}

    def refusal(self, answer: HttpAnswer, expected: str) -> CloudError:
        """The error for an answer that is not the expected success."""
        status = answer.status
        error = self.error(answer)
        code = cut(error.get("Code", ""), 60)
        # A front end's 5xx and 429 need no code; any other refusal must be MNS's own.
        if not code and status < _FAILED and status != _THROTTLED:
            return self.unreadable(answer, _foreign(answer, expected))
        return self.failure(
            mns_fault(code, status),
            code or f"Http{status}",
            cut(error.get("Message", "")) or f"expected {expected}, came {describe(answer.body)}",
            status=status,
            request_id=_request_id(answer) or cut(error.get("RequestId", ""), 60) or None,
        )

    def unreadable(self, answer: HttpAnswer, detail: str) -> CloudError:
        """The error for an answer that is not one of MNS's."""
        return self.failure(Fault.UNREADABLE, "NotMns", detail, status=answer.status, request_id=_request_id(answer))

    def fields(self, answer: HttpAnswer, status: int, root: str) -> dict[str, str]:
        """The fields of a success; raises as ``expect``, and ``unreadable`` for another root."""
        self.expect(answer, status, root)
        try:
            return root_fields(answer.body, root)
        except AnswerError as error:
            raise self.unreadable(answer, str(error)) from None


def handles_xml(handles: Sequence[str]) -> bytes:
    """The body of a batch delete, byte for byte as the SDK's encoder writes it."""
    entries = "".join(f"<ReceiptHandle>{escape(handle, _QUOTES)}</ReceiptHandle>" for handle in handles)
    return (
        '<?xml version="1.0" encoding="utf-8"?>'
        f'<ReceiptHandles xmlns="http://mns.aliyuncs.com/doc/v1/">{entries}</ReceiptHandles>'
    ).encode()


def _delete_failures(call: _MnsCall, answer: HttpAnswer, handles: Sequence[str]) -> Sequence[DeleteFailure]:
    """The handles that a refusal, of whatever status, lists as not deleted; the others were deleted.

    A list with handles of ours is MNS's, with or without its request id: no one else knows them.

    Source: facts/mns.md#batch-delete-message.

    Raises:
        CloudError: It is no list of handles that were given. Then any of them may have failed.
    """
    if call.error(answer):
        error = call.refusal(answer, f"status {_NO_CONTENT}")
        if error.fault is Fault.GONE and len(handles) == 1:
            return (_delete_failure(handles[0], error.code, error.detail),)
        raise error
    try:
        root = parse(answer.body)
        listed = [fields(child) for child in root] if local_name(root) == "Errors" else []
    except AnswerError:
        listed = []
    if not listed:
        raise call.refusal(answer, f"status {_NO_CONTENT}, or a list of errors")
    if any(error.get("ReceiptHandle") not in handles for error in listed):
        raise call.unreadable(answer, "expected errors for handles that were given, came one for another")
    # Of two errors for one handle the first counts.
    by_handle = {error["ReceiptHandle"]: error for error in reversed(listed)}
    return [
        _delete_failure(
            handle, cut(by_handle[handle].get("ErrorCode", ""), 60), cut(by_handle[handle].get("ErrorMessage", ""))
        )
        for handle in handles
        if handle in by_handle
    ]


def _delete_failure(handle: str, code: str, detail: str) -> DeleteFailure:
    # An unknown code is tried again: deleting twice does no harm, giving up too early does.
    fault = mns_fault(code, _FAILED)
    retryable = fault in {Fault.SERVER, Fault.THROTTLED}
    return DeleteFailure(handle, code, gone=fault is Fault.GONE, retryable=retryable, detail=detail)


def _request_id(answer: HttpAnswer) -> str | None:
    return cut(answer.headers.get(_REQUEST_ID, ""), 60) or None


def _foreign(answer: HttpAnswer, expected: str) -> str:
    """What came instead of an answer of MNS."""
    expected = f"expected {expected} and the header {_REQUEST_ID} or MNS's own XML"
    if _REDIRECT <= answer.status < _REFUSED:
        try:
            # Only the host of a redirect: the rest may hold a secret.
            host = urlsplit(answer.headers.get("Location", "")).hostname
        except ValueError:
            host = None
        came = f"a redirect to {cut(host, 80)}" if host else "a redirect"
        return f"{expected}, came {came}; it was not followed: is the endpoint right?"
    came = "with" if _REQUEST_ID in answer.headers else "without"
    return f"{expected}, came status {answer.status} {came} it and {describe(answer.body)}: is the endpoint MNS's?"


def _check_range(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise ValueError(f"{name} must be in {low}..{high}, came {value}")


def _sendable(call: _MnsCall, body: bytes | str) -> str:
    """The body as text that XML can carry: the protocol has no other way."""
    why = ""
    text = ""
    try:
        text = body.decode() if isinstance(body, bytes) else body
    except UnicodeDecodeError as error:
        why = f"byte {error.start} is not UTF-8"
    else:
        wrong = _NOT_XML.search(text)
        if wrong:
            why = f"character {wrong.start()} is U+{ord(wrong[0]):04X}, which XML forbids"
        elif not text:
            why = "it is empty"
    if why:
        detail = f"expected a body that XML can carry, but {why}; nothing was sent: encode it as base64"
        raise call.failure(Fault.REQUEST, "BodyNotSendable", detail)
    return text


def escaped(value: str) -> str:
    """A query value as it is both signed and sent; a receipt handle may hold characters that end a query."""
    return quote(value, safe=_UNTOUCHED)


class _V4Client(MNSClient):  # type: ignore[misc]  # the SDK has no types
    """The SDK's client, signing as version 4."""

    region: str

    def get_signature(self, method: str, headers: dict[str, str], resource: str, credential: Credentials) -> str:
        keys = Keys(credential.get_access_key_id(), credential.get_access_key_secret())
        return v4_authorization(keys, self.region, method, resource, headers)


class MnsSigner:
    """Builds the headers of requests to one host (with its port where that isn't the scheme's own); never connects."""

    def __init__(self, host: str, *, signature: Signature = "v2", region: str = "") -> None:
        self._keys: Keys | None = None
        self._provider = StaticCredentialsProvider()
        client = _V4Client if signature == "v4" else MNSClient
        self._client = client(f"http://{host}", credentials_provider=self._provider)
        self._client.region = region

    def headers(self, keys: Keys, method: str, resource: str, body: bytes | None) -> dict[str, str]:
        """The headers of one request, its signature included; ``resource`` is path and query exactly as sent."""
        if keys is not self._keys:
            self._keys = keys
            self._provider.credentials = Credentials(keys.access_key_id, keys.access_key_secret, keys.security_token)
        request = RequestInternal(method, resource)
        if body is not None:
            request.data = body
        self._client.build_header(RequestBase(), request)
        headers: dict[str, str] = request.header
        return headers


def v4_authorization(keys: Keys, region: str, method: str, resource: str, headers: Mapping[str, str]) -> str:
    """The ``Authorization`` header of version 4, for headers by lower-case name (``date`` as in RFC 1123)."""
    stamp = parsedate_to_datetime(headers["date"]).strftime("%Y%m%dT%H%M%SZ")
    scope = f"{stamp[:8]}/{region}/mns/aliyun_v4_request"
    key = f"aliyun_v4{keys.access_key_secret}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    text = f"{_V4}\n{stamp}\n{scope}\n{_v4_canonical(method, resource, headers)}"
    return f"{_V4} Credential={keys.access_key_id}/{scope},Signature={hmac.digest(key, text.encode(), 'sha256').hex()}"


def _v4_canonical(method: str, resource: str, headers: Mapping[str, str]) -> str:
    path, _, query = resource.partition("?")
    # Not parse_qsl: a plus is a plus. An item without a value is signed as its name alone.
    pairs = [item.partition("=") for item in query.split("&") if item]
    named = sorted((_v4_quoted(unquote(name).lower()), _v4_quoted(unquote(value))) for name, _, value in pairs)
    items = "&".join(f"{name}={value}" if value else name for name, value in named)
    signed = sorted(name for name in headers if name in _V4_SIGNED or name.startswith("x-mns-"))
    lines = "".join(f"{name}:{headers[name].strip()}\n" for name in signed)
    return f"{method}\n{quote(unquote(path), safe='/')}\n{items}\n{lines}\n"


def _v4_quoted(text: str) -> str:
    return quote(text, safe="")
