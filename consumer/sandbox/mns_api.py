"""MNS's HTTP API: find the operation of a request, check signature and rights, carry it out, write XML and errors.

Reading XML compares local names: clients send the namespace with a slash at its end, without, or not at all. A doctype
or entity is refused before the parser sees it; the text is decoded first, so no declared encoding can hide one. What is
wrong raises MalformedXML or InvalidArgument.

XML is written byte for byte as the service writes it: two-space indent, no final newline, and a namespace without the
last slash. Two captured responses of the service have the lengths that only this gives (facts/mns.md#answers). Strings
are concatenated because the bench receives through it.
"""

import random
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final
from urllib.parse import unquote
from xml.etree.ElementTree import Element, ParseError
from xml.etree.ElementTree import fromstring as parse_xml

from consumer.sandbox.access import Grants, Keyring, verify_mns
from consumer.sandbox.account import Account, Clock, Mailbox
from consumer.sandbox.faults import Faults
from consumer.sandbox.protocol import UNKNOWN, Call, MnsError, Request, Response, escaped, message_not_exist
from consumer.sandbox.queue import LONGEST_NEW_NAME, Message, Property, Queue, State, check_queue_name, whole_number
from consumer.sandbox.tenants import Tenants

# Every spelling that a client of the vendor sends, and its canonical one. The real service knows the case of a query
# item (a wrongly-cased one is InvalidQueryString: facts/mns.md#what-clients-send) while its clients differ: PHP,
# @alicloud/mns and the gateway of 2026 write receiptHandle and visibilityTimeout when they hide, and ReceiptHandle when
# they delete; Java, Go, Python and C# write ReceiptHandle and VisibilityTimeout. All of them write numOfMessages,
# waitseconds, peekonly and metaoverride; the page on signatures prints metaOverride. Anything else, such as
# WaitSeconds, is unknown.
_QUERY_ITEMS: Final = {
    "numOfMessages": "numofmessages",
    "waitseconds": "waitseconds",
    "peekonly": "peekonly",
    "metaoverride": "metaoverride",
    "metaOverride": "metaoverride",
    "ReceiptHandle": "receipthandle",
    "receiptHandle": "receipthandle",
    "VisibilityTimeout": "visibilitytimeout",
    "visibilityTimeout": "visibilitytimeout",
}
_STATUS_CODES: Final = {403: "AccessDenied", 404: "QueueNotExist", 408: "TimeExpired", 429: "TooManyRequests"}
_MOST_IN_BATCH: Final = 16
_MOST_PROPERTIES: Final = 64

# The types and names that the service knows (facts/mns.md#message-properties).
_PROPERTY_TYPES: Final = frozenset({"STRING", "NUMBER", "BOOLEAN", "BINARY"})
_SYSTEM_PROPERTY_NAMES: Final = frozenset(
    {"traceparent", "tracestate", "baggage", "DLQMessageType", "DLQSourceArn", "DLQOriginMessageId"}
)

_DOCTYPE: Final = re.compile(r"<!(?!--|\[CDATA\[)")


class MnsApi:
    """The service MNS; without a keyring no signature is checked."""

    server = "AliyunMQS"

    def __init__(
        self,
        tenants: Tenants,
        clock: Clock,
        faults: Faults,
        grants: Grants,
        *,
        keyring: Keyring | None,
        chance: random.Random,
    ) -> None:
        self._tenants = tenants
        self._clock = clock
        self._faults = faults
        self._grants = grants
        self._keyring = keyring
        self._chance = chance
        self._on_account: Mapping[str, Callable[[Account, Call], Response]] = {
            "CreateQueue": self._create_queue,
            "DeleteQueue": self._delete_queue,
            "ListQueue": self._list_queue,
        }
        self._on_queue: Mapping[str, Callable[[Mailbox, Call], Response]] = {
            "SetQueueAttributes": self._set_queue_attributes,
            "GetQueueAttributes": self._get_queue_attributes,
            "SendMessage": self._send_message,
            "BatchSendMessage": self._batch_send_message,
            "PeekMessage": self._peek_message,
            "BatchPeekMessage": self._peek_message,
            "DeleteMessage": self._delete_message,
            "BatchDeleteMessage": self._batch_delete_message,
            "ChangeMessageVisibility": self._change_message_visibility,
        }

    def headers(self, request_id: str) -> dict[str, str]:
        """The version and the request id, spelt as the vendor's Python client needs it (facts/mns.md#answers)."""
        version = {"x-mns-version": "2015-06-06"}
        return {**version, "x-mns-request-id": request_id} if request_id else version

    def new_request_id(self, now_ms: int) -> str:
        """Make 24 upper-case hex digits, of which the first eight are the time in seconds (facts/mns.md#answers)."""
        return f"{now_ms // 1000:08X}{self._chance.getrandbits(64):016X}"

    def parse(self, request: Request) -> Call:
        """Find the operation of a request, ``Unknown`` when there is none. Checks nothing yet."""
        query: dict[str, str] = {}
        unknown_item = ""
        for part in filter(None, request.query.split("&")):
            name, _, value = part.partition("=")
            known = _QUERY_ITEMS.get(name)
            if known is None:
                unknown_item = unknown_item or unquote(name)
            else:
                # Not unquote_plus: an unescaped receipt handle may contain a plus.
                query[known] = unquote(value)
        parts = [unquote(part) for part in request.path.split("/") if part]
        operation = _operation(request, parts, query)
        queue = parts[1] if len(parts) > 1 and operation != UNKNOWN else ""
        return Call(operation, queue, query, request, unknown_item)

    async def answer(self, call: Call, request_id: str) -> Response:
        """Check and carry out a call; an error becomes a response too."""
        try:
            keys = None if self._keyring is None else verify_mns(call.request, self._keyring, time.time())
            self._check(call)
            account = self._tenants.of(keys, call.request.headers.get("host", "")).queues
            if call.operation in self._on_account:
                return self._on_account[call.operation](account, call)
            mailbox = account.get(call.queue)
            if call.operation in self._on_queue:
                return self._on_queue[call.operation](mailbox, call)
            return await self._receive_message(account, mailbox, call)
        except MnsError as error:
            return _error(request_id, call.request, error)

    def error(self, request_id: str, request: Request, status: int, code: str | None, message: str) -> Response:
        """Render an error; without a code, the one that fits the status."""
        code = code or _STATUS_CODES.get(status, "InternalError")
        return _error(request_id, request, MnsError(code, message, status=status))

    def _check(self, call: Call) -> None:
        if call.operation == UNKNOWN:
            raise MnsError("InvalidRequestURL", f"Http request URL format invalid. {_what_is_missing(call.request)}")
        if self._grants.missing(call.operation) is not None:
            # The service names no action either.
            text = "The OwnerId that your Access Key Id associated to is forbidden for this operation."
            raise MnsError("AccessDenied", text)
        if call.unknown_item:
            known = ", ".join(_QUERY_ITEMS)
            text = f"Unknown query item '{call.unknown_item[:64]}'; known here are {known}."
            raise MnsError("InvalidQueryString", text)

    # Operations on queues.

    def _create_queue(self, account: Account, call: Call) -> Response:
        check_queue_name(call.queue, LONGEST_NEW_NAME)
        is_new = account.create(call.queue, _attributes(call.request.body))
        return Response(201 if is_new else 204, headers={"Location": _url(call, call.queue)})

    def _delete_queue(self, account: Account, call: Call) -> Response:
        account.delete(call.queue)
        return Response(204)

    def _list_queue(self, account: Account, call: Call) -> Response:
        headers = call.request.headers
        number = whole_number("x-mns-ret-number", headers.get("x-mns-ret-number", "1000"), 1, 1000)
        page, marker = account.page(headers.get("x-mns-prefix", ""), headers.get("x-mns-marker", ""), number)
        with_meta = headers.get("x-mns-with-meta", "").lower() == "true"
        # Some clients read the name from the URL, some from QueueName.
        entries = [
            {"QueueURL": _url(call, queue.name)} | (self._meta(queue) if with_meta else {"QueueName": queue.name})
            for queue in page
        ]
        return Response(200, _listing("Queues", "Queue", entries, marker))

    def _set_queue_attributes(self, mailbox: Mailbox, call: Call) -> Response:
        queue = mailbox.queue
        queue.attributes = queue.attributes.changed(_attributes(call.request.body))
        queue.modified_ms = self._clock.now_ms()
        return Response(204)

    def _get_queue_attributes(self, mailbox: Mailbox, _call: Call) -> Response:
        return Response(200, _element("Queue", self._meta(mailbox.queue)))

    def _meta(self, queue: Queue) -> dict[str, str]:
        queue.sweep(self._clock.now_ms())
        return {
            "QueueName": queue.name,
            "CreateTime": str(queue.created_ms // 1000),
            "LastModifyTime": str(queue.modified_ms // 1000),
            **queue.attributes.by_element(),
            "ActiveMessages": str(queue.counts[State.ACTIVE] + queue.counts[State.BLOCKED]),
            "InactiveMessages": str(queue.counts[State.INACTIVE]),
            # Being withdrawn: the service answers 0. Source: facts/mns.md#get-queue-attributes.
            "DelayMessages": "0",
        }

    # Operations on messages.

    def _send_message(self, mailbox: Mailbox, call: Call) -> Response:
        (message,) = _sent_messages(call.request.body)
        mailbox.queue.send(message, self._clock.now_ms())
        return Response(201, _element("Message", _sent(message)))

    def _batch_send_message(self, mailbox: Mailbox, call: Call) -> Response:
        # One wrong entry refuses the whole batch. Single entries fail only by a fault. The response then has the
        # fault's status: the real one is not documented, and clients look for failed entries only in error responses.
        queue, now_ms = mailbox.queue, self._clock.now_ms()
        entries: list[dict[str, str]] = []
        status = 201
        for message in _sent_messages(call.request.body):
            error = self._entry_error(call)
            if error is None:
                entries.append(_sent(queue.send(message, now_ms)))
            else:
                status = error.status
                entries.append({"ErrorCode": error.code, "ErrorMessage": error.message})
        return Response(status, _listing("Messages", "Message", entries))

    def _entry_error(self, call: Call) -> MnsError | None:
        fault = self._faults.draw("entry_error", call.operation, call.queue)
        return None if fault is None else MnsError(fault.code or "InternalError", fault.message, status=fault.status)

    async def _receive_message(self, account: Account, mailbox: Mailbox, call: Call) -> Response:
        limit = _limit(call)
        if "numofmessages" in call.parameters:
            limit = account.batch_limit(limit)
        wait_s = mailbox.queue.attributes.polling_wait_s
        if "waitseconds" in call.parameters:
            wait_s = whole_number("waitseconds", call.parameters["waitseconds"], 0, 30, "seconds")
        taken = await _poll(account, mailbox, limit, wait_s, call.request)
        response = _found(call, taken)
        self._faults.spoil_messages(mailbox.queue, call.operation, taken)
        return response

    def _peek_message(self, mailbox: Mailbox, call: Call) -> Response:
        return _found(call, mailbox.queue.peek(_limit(call), self._clock.now_ms()), is_peek=True)

    def _delete_message(self, mailbox: Mailbox, call: Call) -> Response:
        mailbox.queue.delete(_handle(call.parameters), self._clock.now_ms())
        return Response(204)

    def _batch_delete_message(self, mailbox: Mailbox, call: Call) -> Response:
        if not call.request.body:
            raise MnsError("MissingReceiptHandle", "ReceiptHandle is required.")
        now_ms = self._clock.now_ms()
        failed: list[dict[str, str]] = []
        for entry in _entries(_root(call.request.body, "ReceiptHandles"), "ReceiptHandle"):
            handle = (entry.text or "").strip()
            error = self._entry_error(call)
            if error is None:
                try:
                    mailbox.queue.delete(handle, now_ms)
                except MnsError as refusal:
                    error = refusal
            if error is not None:
                failed.append({"ErrorCode": error.code, "ErrorMessage": error.message, "ReceiptHandle": handle})
        if not failed:
            return Response(204)
        # The failed handles only; then the connection is closed. Source: facts/mns.md#batch-delete-message.
        return Response(404, _listing("Errors", "Error", failed), closes=True)

    def _change_message_visibility(self, mailbox: Mailbox, call: Call) -> Response:
        handle = _handle(call.parameters)
        if "visibilitytimeout" not in call.parameters:
            raise MnsError("MissingVisibilityTimeout", "VisibilityTimeout is required.")
        text = call.parameters["visibilitytimeout"]
        timeout_s = whole_number("VisibilityTimeout", text, 1, 43_200, "seconds")
        message = mailbox.queue.change_visibility(handle, timeout_s, self._clock.now_ms())
        children = {"ReceiptHandle": message.handle or "", "NextVisibleTime": str(message.visible_ms)}
        return Response(200, _element("ChangeVisibility", children))


async def _poll(account: Account, mailbox: Mailbox, limit: int, wait_s: int, request: Request) -> list[Message]:
    if wait_s and account.max_long_polls is not None and account.held_long_polls >= account.max_long_polls:
        # One too many is answered at once, as empty. Source: facts/mns.md#too-many-long-polls.
        wait_s = 0
    account.held_long_polls += 1 if wait_s else 0
    try:
        return await mailbox.polls.receive(limit, wait_s, request.is_abandoned)
    finally:
        account.held_long_polls -= 1 if wait_s else 0


def _operation(request: Request, parts: list[str], query: Mapping[str, str]) -> str:
    batch = "Batch" if "numofmessages" in query else ""
    match request.method, parts:
        case "GET", ["queues"]:
            return "ListQueue"
        case "GET", ["queues", _]:
            return "GetQueueAttributes"
        case "PUT", ["queues", _]:
            return "SetQueueAttributes" if query.get("metaoverride", "").lower() == "true" else "CreateQueue"
        case "DELETE", ["queues", _]:
            return "DeleteQueue"
        case "GET", ["queues", _, "messages"]:
            return f"{batch}{'Peek' if query.get('peekonly', '').lower() == 'true' else 'Receive'}Message"
        case "POST", ["queues", _, "messages"]:
            return "BatchSendMessage" if _is_batch(request.body) else "SendMessage"
        case "PUT", ["queues", _, "messages"]:
            return "ChangeMessageVisibility"
        case "DELETE", ["queues", _, "messages"]:
            return "DeleteMessage" if "receipthandle" in query else "BatchDeleteMessage"
    return UNKNOWN


def _what_is_missing(request: Request) -> str:
    if request.path.startswith("/topics"):
        return "The sandbox does not implement topics and subscriptions; put a topic's message in by its control API."
    if request.path in ("", "/") and request.query.startswith("accountmeta"):
        return "The sandbox does not implement the attributes of the account."
    return "The sandbox implements /queues, /queues/NAME and /queues/NAME/messages only."


def _limit(call: Call) -> int:
    return whole_number("numOfMessages", call.parameters.get("numofmessages", "1"), 1, _MOST_IN_BATCH)


def _handle(query: Mapping[str, str]) -> str:
    handle = query.get("receipthandle")
    if not handle:
        raise MnsError("MissingReceiptHandle", "ReceiptHandle is required.")
    return handle


# Reading XML.


def _attributes(body: bytes) -> dict[str, str]:
    """Read ``<Queue>`` as element name and text; an empty body has none."""
    return {_local(child): child.text or "" for child in _root(body, "Queue")} if body else {}


def _is_batch(body: bytes) -> bool:
    # By the root and without parsing.
    return b"<Messages" in body[:256]


def _sent_messages(body: bytes) -> list[Message]:
    """Read ``<Message>``, or ``<Messages>`` of 1 to 16; one wrong entry refuses the whole batch."""
    if not _is_batch(body):
        return [_sent_message(_root(body, "Message"))]
    return [_sent_message(entry) for entry in _entries(_root(body, "Messages"), "Message")]


def _entries(root: Element, name: str) -> list[Element]:
    entries = [child for child in root if _local(child) == name]
    if not 1 <= len(entries) <= _MOST_IN_BATCH:
        raise MnsError("InvalidArgument", f"A batch holds 1 to {_MOST_IN_BATCH} entries, not {len(entries)}.")
    return entries


def _root(body: bytes, name: str) -> Element:
    try:
        text = body.decode()
        root = None if _DOCTYPE.search(text) else parse_xml(text)  # noqa: S314 - no doctype, so no entities
    except (UnicodeDecodeError, ParseError):
        root = None
    if root is None or _local(root) != name:
        raise MnsError("MalformedXML", "The XML you provided was not well-formed.")
    return root


def _local(node: Element) -> str:
    return node.tag.rpartition("}")[2]


def _sent_message(node: Element) -> Message:
    texts: dict[str, str] = {}
    properties: dict[str, tuple[Property, ...]] = {}
    for child in node:
        name = _local(child)
        if name in ("UserProperties", "SystemProperties"):
            properties[name] = tuple(_property(value, name) for value in child)
            if len(properties[name]) > _MOST_PROPERTIES:
                raise MnsError("InvalidArgument", f"{name} holds at most {_MOST_PROPERTIES} values.")
        else:
            texts[name] = child.text or ""
    if not texts.get("MessageBody"):
        raise MnsError("InvalidArgument", "MessageBody is missing or empty.")
    delay = texts.get("DelaySeconds")
    return Message(
        texts["MessageBody"],
        whole_number("Priority", texts.get("Priority", "8"), 1, 16),
        None if delay is None else whole_number("DelaySeconds", delay, 0, 604_800, "seconds"),
        texts.get("MessageGroupId", ""),
        properties.get("UserProperties", ()),
        properties.get("SystemProperties", ()),
    )


def _property(node: Element, where: str) -> Property:
    texts = {_local(child): child.text or "" for child in node}
    name, kind = texts.get("Name", ""), texts.get("Type", "")
    if not name or "Value" not in texts or kind not in _PROPERTY_TYPES:
        raise MnsError("InvalidArgument", f"{where}: every value has Name, Value and a known Type.")
    if where == "SystemProperties" and name not in _SYSTEM_PROPERTY_NAMES:
        raise MnsError("InvalidArgument", f"SystemProperties: unknown name '{name[:64]}'.")
    return name, texts["Value"], kind


# Writing XML.


def _error(request_id: str, request: Request, error: MnsError) -> Response:
    # Clients require all four elements. HostId is http:// and the request's own Host (facts/mns.md#error-answers).
    host_id = f"http://{request.headers.get('host', '')}"
    children = {"Code": error.code, "Message": error.message, "RequestId": request_id, "HostId": host_id}
    return Response(error.status, _element("Error", children))


def _url(call: Call, queue: str) -> str:
    return f"{call.request.scheme}://{call.request.headers.get('host', '')}/queues/{queue}"


def _sent(message: Message) -> dict[str, str]:
    children = {"MessageId": message.message_id, "MessageBodyMD5": message.body_md5}
    return children if message.handle is None else {**children, "ReceiptHandle": message.handle}


def _found(call: Call, messages: Sequence[Message], *, is_peek: bool = False) -> Response:
    if not messages:
        raise message_not_exist()
    if "numofmessages" in call.parameters:
        return Response(200, messages_document(messages, is_peek=is_peek))
    return Response(200, _document("Message", _message(messages[0], "  ", is_peek=is_peek)))


def messages_document(several: Sequence[Message], *, is_peek: bool = False) -> bytes:
    """Write the body of a batch receive or batch peek."""
    entries = (f"  <Message>\n{_message(one, '    ', is_peek=is_peek)}  </Message>\n" for one in several)
    return _document("Messages", "".join(entries))


def _element(root: str, children: Mapping[str, str]) -> bytes:
    return _document(root, _texts(children, "  "))


def _listing(root: str, entry: str, entries: Iterable[Mapping[str, str]], marker: str = "") -> bytes:
    inner = "".join(f"  <{entry}>\n{_texts(children, '    ')}  </{entry}>\n" for children in entries)
    return _document(root, inner + (_texts({"NextMarker": marker}, "  ") if marker else ""))


def _document(root: str, inner: str) -> bytes:
    return f'<?xml version="1.0" ?>\n<{root} xmlns="http://mns.aliyuncs.com/doc/v1">\n{inner}</{root}>'.encode()


def _texts(children: Mapping[str, str], indent: str) -> str:
    return "".join(f"{indent}<{name}>{escaped(text)}</{name}>\n" for name, text in children.items())


def _message(one: Message, indent: str, *, is_peek: bool) -> str:
    handle = "" if is_peek else f"{indent}<ReceiptHandle>{one.handle}</ReceiptHandle>\n"
    visible = "" if is_peek else f"{indent}<NextVisibleTime>{one.visible_ms}</NextVisibleTime>\n"
    # The facts don't say what a peek shows of a message that was never received; clients require a number.
    first_ms = one.first_dequeue_ms or one.enqueue_ms
    group = _texts({"MessageGroupId": one.group_id}, indent) if one.group_id else ""
    return (
        f"{indent}<MessageId>{one.message_id}</MessageId>\n"
        f"{indent}<MessageBodyMD5>{one.body_md5}</MessageBodyMD5>\n"
        f"{indent}<MessageBody>{escaped(one.body)}</MessageBody>\n{handle}"
        f"{indent}<EnqueueTime>{one.enqueue_ms}</EnqueueTime>\n"
        f"{indent}<FirstDequeueTime>{first_ms}</FirstDequeueTime>\n{visible}"
        f"{indent}<DequeueCount>{one.dequeue_count}</DequeueCount>\n"
        f"{indent}<Priority>{one.priority}</Priority>\n{group}"
        f"{_properties('SystemProperties', 'SystemPropertyValue', one.system_properties, indent)}"
        f"{_properties('UserProperties', 'PropertyValue', one.user_properties, indent)}"
    )


def _properties(outer: str, inner: str, properties: tuple[Property, ...], indent: str) -> str:
    if not properties:
        return ""
    values = "".join(
        f"{indent}  <{inner}>\n"
        + _texts({"Name": name, "Value": value, "Type": kind}, f"{indent}    ")
        + f"{indent}  </{inner}>\n"
        for name, value, kind in properties
    )
    return f"{indent}<{outer}>\n{values}{indent}</{outer}>\n"
