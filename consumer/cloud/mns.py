"""Speak with one MNS queue: receive, delete, hide, send, peek, read its attributes.

Each verb is one request, sent once. It either brings what it promises or raises one ``CloudError`` that
says whether trying again helps. Success is what the service documents: the right status, the right root element, and a
request id or MNS's namespace. A proxy's page or a redirect is never taken for one.

The SDK encodes and signs. It never sends, never logs and never touches base64: bodies are bytes here.

Elsewhere: the connection (``pool``), the signature (``mns_signature``), reading XML (``answer``), what a
code asks for (``faults``), when to ask and when to pause (``engine.poll``, ``engine.lease``, ``engine.settle``).

Source: facts/mns.md#receive-message, facts/mns.md#batch-delete-message, facts/mns.md#change-message-visibility.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final
from urllib.parse import urlsplit

from mns.mns_request import SendMessageRequest
from mns.mns_xml_handler import MessageEncoder

from consumer.cloud import answer as reading
from consumer.cloud.credentials import CredentialsSource
from consumer.cloud.exchange import EMPTY, Observe
from consumer.cloud.messages import Batch, DeleteFailure, Message, Peeked, QueueAttributes, Receipt
from consumer.cloud.mns_call import NO_CONTENT, REFUSED, MnsCall, MnsEndpoint
from consumer.cloud.mns_deletes import failures, handles_xml
from consumer.cloud.mns_signature import MnsSigner, Signature, escaped
from consumer.cloud.plain_xml import AnswerError
from consumer.cloud.pool import Pool
from consumer.cloud.wording import cut
from consumer.errors import CloudError, Fault, SettingsError
from consumer.policy import MAX_BATCH, MAX_HIDE_S, MAX_WAIT_S, MIN_HIDE_S

__all__ = [
    "Batch",
    "DeleteFailure",
    "Message",
    "MnsQueue",
    "Observe",
    "Peeked",
    "QueueAttributes",
    "Receipt",
]

_OK, _CREATED = 200, 201
_NO_MESSAGE: Final = "MessageNotExist"
_RECEIVE: Final = "BatchReceiveMessage"
_QUEUE_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,255}")
"""Queues of older days may have 256 characters; new ones get 120 at most (facts/mns.md#queue-names)."""
# 16 bodies of 64 KB, each character of which may be written as six.
_MESSAGES_BYTES: Final = 8 * 1024 * 1024
_SHORT_BYTES: Final = 256 * 1024
# What XML 1.0 can't carry in any spelling.
_NOT_XML: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class MnsQueue:
    """One queue behind one endpoint.

    Args:
        endpoint: ``https://ACCOUNT.mns.REGION.aliyuncs.com``, or ``http://HOST:PORT`` of a local server.
        queue: The queue's name.
        credentials: Asked before every request; told to forget its keys when the service refuses them.
        pool: The lane's connections.
        observe: Told of every request; must not raise.
        read_margin_s: How much later than its wait an answer may come.
        signature: Which version requests are signed by.
        region: The region's id, which version 4 signs.

    Raises:
        SettingsError: Endpoint or name are not of that form.
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
        if parts.scheme not in {"http", "https"} or not parts.netloc or parts.path.strip("/") or parts.query:
            raise SettingsError(f"MNS endpoint {endpoint!r}: expected https://HOST or http://HOST:PORT")
        if not _QUEUE_NAME.fullmatch(queue):
            raise SettingsError(f"queue name {queue!r}: expected 1-256 letters, digits and hyphens")
        self.name = queue
        origin = f"{parts.scheme}://{parts.netloc}"
        self._path = f"/queues/{queue}"
        self._messages = f"{self._path}/messages"
        self._first_seen = reading.FirstSeenTimes()
        signer = MnsSigner(parts.netloc, signature=signature, region=region)
        self._endpoint = MnsEndpoint(origin, signer, credentials, pool, observe, read_margin_s)

    def __repr__(self) -> str:
        return f"MnsQueue({self._endpoint.origin}{self._path})"

    async def receive(self, count: int, wait_s: int, *, on_answer: Callable[[], None] | None = None) -> Batch:
        """Receive up to ``count`` messages, waiting for the first one (BatchReceiveMessage).

        Args:
            count: 1 to 16.
            wait_s: The long poll's length, 0 to 30 whole seconds; 0 asks at once, whatever the queue's own.
            on_answer: Called when the answer's head has come: from then on, messages may be ours, so a
                daemon that stops reads on to the end instead of cancelling.

        Returns:
            The batch; an empty queue is an empty one.

        Raises:
            CloudError: Anything else. After ``Fault.NETWORK`` or ``UNREADABLE``, messages may have been
                received that nobody has: they come back when their visibility ends.
            ValueError: ``count`` or ``wait_s`` is out of range.
        """
        _within("count", count, 1, MAX_BATCH)
        _within("wait_s", wait_s, 0, MAX_WAIT_S)
        resource = f"{self._messages}?numOfMessages={count}&waitseconds={wait_s}"
        async with self._call(_RECEIVE, _MESSAGES_BYTES) as call:
            answer = await call.send("GET", resource, wait_s=wait_s, on_head=on_answer)
            if call.error_code(answer) == _NO_MESSAGE:
                call.result = EMPTY
                return Batch((), answer.elapsed_s, answer.server_offset_s)
            call.demand(answer, _OK, "Messages")
            try:
                messages, problems = reading.messages(
                    answer.body, answer.arrival, limit=count, first_seen=self._first_seen
                )
            except AnswerError as error:
                raise call.unreadable(answer, str(error)) from None
            return Batch(messages, answer.elapsed_s, answer.server_offset_s, problems)

    async def delete(self, handles: Sequence[str]) -> Sequence[DeleteFailure]:
        """Delete up to 16 messages (BatchDeleteMessage).

        Returns:
            What was not deleted; every handle that isn't named in it was. Empty: all went.

        Raises:
            CloudError: Nothing is known of any of them; deleting again does no harm.
            ValueError: Not 1 to 16 handles.
        """
        _within("number of handles", len(handles), 1, MAX_BATCH)
        body = handles_xml(handles)
        async with self._call("BatchDeleteMessage") as call:
            answer = await call.send("DELETE", self._messages, body)
            if answer.status < REFUSED:
                call.demand(answer, NO_CONTENT)
                return ()
            return failures(call, answer, handles)

    async def hide(self, handle: str, seconds: int) -> Receipt:
        """Make a message visible again ``seconds`` from now (ChangeMessageVisibility).

        Returns:
            The new receipt; the old handle is dead from now on.

        Raises:
            CloudError: ``Fault.GONE``: the lease is lost already. After ``NETWORK`` or ``UNREADABLE`` the
                old handle may be dead, with nobody knowing the new one.
            ValueError: ``seconds`` is not in 1..43200.
        """
        _within("seconds", seconds, MIN_HIDE_S, MAX_HIDE_S)
        resource = f"{self._messages}?ReceiptHandle={escaped(handle)}&VisibilityTimeout={seconds}"
        async with self._call("ChangeMessageVisibility") as call:
            answer = await call.send("PUT", resource)
            call.demand(answer, _OK, "ChangeVisibility")
            found = call.fields(answer, "ChangeVisibility")
            # The new time counts from the call, so it can't be later; where what came is no time, that is what we know.
            known_s = max(0.0, seconds - answer.elapsed_s - 1.0)
            try:
                return reading.receipt(found, answer.arrival, longest_s=seconds, unknown_s=known_s)
            except KeyError:
                expected = "expected a ReceiptHandle and a NextVisibleTime in milliseconds, came neither or one"
                raise call.unreadable(answer, expected) from None

    async def send(
        self, body: bytes | str, *, delay_s: int = 0, priority: int | None = None, group_id: str | None = None
    ) -> str:
        """Send one message, its body as it is (SendMessage).

        Args:
            body: Text that XML can carry, or its UTF-8 bytes; no base64 is done.
            delay_s: Seconds before it can be received, 0 to 604800.
            priority: 1 (first) to 16; the queue's default is 8.
            group_id: MessageGroupId, which a FIFO queue demands.

        Returns:
            The MessageId.

        Raises:
            CloudError: ``Fault.REQUEST`` also for a body that can't be sent: empty, no UTF-8, or with
                characters that XML forbids. After ``NETWORK`` it may have been sent.
        """
        async with self._call("SendMessage") as call:
            request = SendMessageRequest(
                self.name,
                _sendable(call, body),
                delay_s or -1,
                -1 if priority is None else priority,
                base64encode=False,
                message_group_id=group_id or "",
            )
            # A bare carriage return would arrive as a line feed: XML makes one of the other.
            data: bytes = MessageEncoder.encode(request).replace(b"\r", b"&#13;")
            answer = await call.send("POST", self._messages, data)
            call.demand(answer, _CREATED, "Message")
            message_id = call.fields(answer, "Message").get("MessageId")
            if not message_id:
                raise call.unreadable(answer, "expected a MessageId, none came")
            return message_id

    async def peek(self, count: int) -> Sequence[Peeked]:
        """Look at up to ``count`` (1 to 16) messages without receiving them (BatchPeekMessage).

        Raises:
            CloudError: As for ``receive``; nothing changes in the queue either way.
            ValueError: ``count`` is out of range.
        """
        _within("count", count, 1, MAX_BATCH)
        resource = f"{self._messages}?peekonly=true&numOfMessages={count}"
        async with self._call("BatchPeekMessage", _MESSAGES_BYTES) as call:
            answer = await call.send("GET", resource)
            if call.error_code(answer) == _NO_MESSAGE:
                call.result = EMPTY
                return ()
            call.demand(answer, _OK, "Messages")
            try:
                return reading.peeked(answer.body, answer.arrival, limit=count)
            except AnswerError as error:
                raise call.unreadable(answer, str(error)) from None

    async def attributes(self) -> QueueAttributes:
        """Read how the queue is set up (GetQueueAttributes).

        Raises:
            CloudError: ``Fault.MISSING``: there is no such queue.
        """
        async with self._call("GetQueueAttributes") as call:
            answer = await call.send("GET", self._path)
            call.demand(answer, _OK, "Queue")
            found = call.fields(answer, "Queue")
            try:
                return reading.attributes(found, answer.body)
            except (KeyError, ValueError) as error:
                what = cut(str(error), 80)
                raise call.unreadable(answer, f"a queue's attribute is missing or no number: {what}") from None

    def _call(self, operation: str, limit_bytes: int = _SHORT_BYTES) -> MnsCall:
        return MnsCall(self._endpoint, operation, self.name, limit_bytes)


def _within(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise ValueError(f"{name} must be in {low}..{high}, came {value}")


def _sendable(call: MnsCall, body: bytes | str) -> str:
    """The body as text that XML can carry: the protocol has no other way."""
    try:
        text = body.decode() if isinstance(body, bytes) else body
    except UnicodeDecodeError as error:
        raise _unsendable(call, f"byte {error.start} is not UTF-8") from None
    if not text:
        raise _unsendable(call, "it is empty")
    wrong = _NOT_XML.search(text)
    if wrong:
        raise _unsendable(call, f"character {wrong.start()} is U+{ord(wrong[0]):04X}, which XML forbids")
    return text


def _unsendable(call: MnsCall, why: str) -> CloudError:
    detail = f"expected a body that XML can carry, but {why}; nothing was sent: encode it as base64"
    return call.failure(Fault.REQUEST, "BodyNotSendable", detail)
