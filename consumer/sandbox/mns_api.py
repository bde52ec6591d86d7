"""MNS's HTTP API: find the operation of a request, check signature and rights, carry it out, render errors."""

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from typing import Final
from urllib.parse import unquote

from consumer.sandbox import mns_xml
from consumer.sandbox.access import Grants, Keys, verify_mns
from consumer.sandbox.account import Account, Mailbox
from consumer.sandbox.faults import Faults
from consumer.sandbox.protocol import UNKNOWN, Call, MnsError, Request, Response, message_not_exist
from consumer.sandbox.queue import LONGEST_NEW_NAME, Message, Queue, State, check_queue_name, whole_number

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


class MnsApi:
    """The service MNS; without keys no signature is checked."""

    server = "AliyunMQS"

    def __init__(
        self, account: Account, faults: Faults, grants: Grants, *, keys: Keys | None, chance: random.Random
    ) -> None:
        self._account = account
        self._faults = faults
        self._grants = grants
        self._keys = keys
        self._chance = chance
        self._on_account: Mapping[str, Callable[[Call], Response]] = {
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
        path, _, query_text = request.target.partition("?")
        query: dict[str, str] = {}
        unknown_item = ""
        if query_text:
            for part in query_text.split("&"):
                name, _, value = part.partition("=")
                known = _QUERY_ITEMS.get(name)
                if known is None:
                    unknown_item = unknown_item or unquote(name)
                else:
                    # Not unquote_plus: an unescaped receipt handle may contain a plus.
                    query[known] = unquote(value)
        parts = [unquote(part) for part in path.split("/") if part]
        operation = _operation(request, parts, query)
        queue = parts[1] if len(parts) > 1 and operation != UNKNOWN else ""
        return Call(operation, queue, query, request, unknown_item)

    async def answer(self, call: Call, request_id: str) -> Response:
        """Check and carry out a call; an error becomes a response too."""
        try:
            if self._keys is not None:
                verify_mns(call.request, self._keys, time.time())
            self._check(call)
            if call.operation in self._on_queue:
                return self._on_queue[call.operation](self._account.get(call.queue), call)
            if call.operation in self._on_account:
                return self._on_account[call.operation](call)
            return await self._receive_message(self._account.get(call.queue), call)
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

    def _create_queue(self, call: Call) -> Response:
        check_queue_name(call.queue, LONGEST_NEW_NAME)
        is_new = self._account.create(call.queue, mns_xml.read_attributes(call.request.body))
        return Response(201 if is_new else 204, headers={"Location": _url(call, call.queue)})

    def _delete_queue(self, call: Call) -> Response:
        self._account.delete(call.queue)
        return Response(204)

    def _list_queue(self, call: Call) -> Response:
        headers = call.request.headers
        number = whole_number("x-mns-ret-number", headers.get("x-mns-ret-number", "1000"), 1, 1000)
        page, marker = self._account.page(headers.get("x-mns-prefix", ""), headers.get("x-mns-marker", ""), number)
        with_meta = headers.get("x-mns-with-meta", "").lower() == "true"
        # Some clients read the name from the URL, some from QueueName.
        entries = [
            {"QueueURL": _url(call, queue.name)} | (self._meta(queue) if with_meta else {"QueueName": queue.name})
            for queue in page
        ]
        return Response(200, mns_xml.listing("Queues", "Queue", entries, marker))

    def _set_queue_attributes(self, mailbox: Mailbox, call: Call) -> Response:
        queue = mailbox.queue
        queue.attributes = queue.attributes.changed(mns_xml.read_attributes(call.request.body))
        queue.modified_ms = self._account.clock.now_ms()
        return Response(204)

    def _get_queue_attributes(self, mailbox: Mailbox, call: Call) -> Response:
        del call
        return Response(200, mns_xml.element("Queue", self._meta(mailbox.queue)))

    def _meta(self, queue: Queue) -> dict[str, str]:
        queue.sweep(self._account.clock.now_ms())
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
        (message,) = mns_xml.read_messages(call.request.body)
        mailbox.queue.send(message, self._account.clock.now_ms())
        return Response(201, mns_xml.element("Message", _sent(message)))

    def _batch_send_message(self, mailbox: Mailbox, call: Call) -> Response:
        # One wrong entry refuses the whole batch. Single entries fail only by a fault. The response then has the
        # fault's status: the real one is not documented, and clients look for failed entries only in error responses.
        queue, now_ms = mailbox.queue, self._account.clock.now_ms()
        entries: list[dict[str, str]] = []
        status = 201
        for message in mns_xml.read_messages(call.request.body):
            fault = self._faults.draw("entry_error", "BatchSendMessage", queue.name)
            if fault is None:
                entries.append(_sent(queue.send(message, now_ms)))
            else:
                status = fault.status
                entries.append({"ErrorCode": fault.code or "InternalError", "ErrorMessage": fault.message})
        return Response(status, mns_xml.listing("Messages", "Message", entries))

    async def _receive_message(self, mailbox: Mailbox, call: Call) -> Response:
        query = call.parameters
        is_batch = "numofmessages" in query
        limit = self._account.batch_limit(_batch_size(query)) if is_batch else 1
        wait_s = mailbox.queue.attributes.polling_wait_s
        if "waitseconds" in query:
            wait_s = whole_number("waitseconds", query["waitseconds"], 0, 30, "seconds")
        taken = await self._poll(mailbox, limit, wait_s, call.request)
        if not taken:
            raise message_not_exist()
        body = mns_xml.messages(taken) if is_batch else mns_xml.message(taken[0])
        if self._faults:
            self._spoil(mailbox.queue, call.operation, taken)
        return Response(200, body)

    async def _poll(self, mailbox: Mailbox, limit: int, wait_s: int, request: Request) -> list[Message]:
        account = self._account
        if wait_s and account.max_long_polls is not None and account.held_long_polls >= account.max_long_polls:
            # One too many is answered at once, as empty. Source: facts/mns.md#too-many-long-polls.
            wait_s = 0
        account.held_long_polls += 1 if wait_s else 0
        try:
            return await mailbox.polls.receive(limit, wait_s, request.is_abandoned)
        finally:
            account.held_long_polls -= 1 if wait_s else 0

    def _spoil(self, queue: Queue, operation: str, taken: list[Message]) -> None:
        for message in taken:
            if not message.is_duplicate and self._faults.draw("duplicate", operation, queue.name):
                queue.duplicate(message)
            fault = self._faults.draw("revoke", operation, queue.name)
            if fault is not None:
                asyncio.get_running_loop().call_later(fault.seconds, _revoke, queue, message, message.handle)

    def _peek_message(self, mailbox: Mailbox, call: Call) -> Response:
        is_batch = "numofmessages" in call.parameters
        limit = _batch_size(call.parameters) if is_batch else 1
        found = mailbox.queue.peek(limit, self._account.clock.now_ms())
        if not found:
            raise message_not_exist()
        body = mns_xml.messages(found, is_peek=True) if is_batch else mns_xml.message(found[0], is_peek=True)
        return Response(200, body)

    def _delete_message(self, mailbox: Mailbox, call: Call) -> Response:
        mailbox.queue.delete(_handle(call.parameters), self._account.clock.now_ms())
        return Response(204)

    def _batch_delete_message(self, mailbox: Mailbox, call: Call) -> Response:
        if not call.request.body:
            raise MnsError("MissingReceiptHandle", "ReceiptHandle is required.")
        queue, now_ms = mailbox.queue, self._account.clock.now_ms()
        has_faults = bool(self._faults)
        failed: list[dict[str, str]] = []
        for handle in mns_xml.read_handles(call.request.body):
            fault = self._faults.draw("entry_error", "BatchDeleteMessage", queue.name) if has_faults else None
            code = message = ""
            if fault is not None:
                code, message = fault.code or "InternalError", fault.message
            else:
                try:
                    queue.delete(handle, now_ms)
                except MnsError as error:
                    code, message = error.code, error.message
            if code:
                failed.append({"ErrorCode": code, "ErrorMessage": message, "ReceiptHandle": handle})
        if not failed:
            return Response(204)
        # The failed handles only; then the connection is closed. Source: facts/mns.md#batch-delete-message.
        return Response(404, mns_xml.listing("Errors", "Error", failed), closes=True)

    def _change_message_visibility(self, mailbox: Mailbox, call: Call) -> Response:
        handle = _handle(call.parameters)
        if "visibilitytimeout" not in call.parameters:
            raise MnsError("MissingVisibilityTimeout", "VisibilityTimeout is required.")
        text = call.parameters["visibilitytimeout"]
        timeout_s = whole_number("VisibilityTimeout", text, 1, 43_200, "seconds")
        message = mailbox.queue.change_visibility(handle, timeout_s, self._account.clock.now_ms())
        children = {"ReceiptHandle": message.handle or "", "NextVisibleTime": str(message.visible_ms)}
        return Response(200, mns_xml.element("ChangeVisibility", children))


def _error(request_id: str, request: Request, error: MnsError) -> Response:
    # HostId is http:// and the request's own Host. Source: facts/mns.md#error-answers.
    host_id = f"http://{request.headers.get('host', '')}"
    return Response(error.status, mns_xml.error(error.code, error.message, request_id, host_id))


def _url(call: Call, queue: str) -> str:
    return f"{call.request.scheme}://{call.request.headers.get('host', '')}/queues/{queue}"


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
            return "BatchSendMessage" if mns_xml.is_batch_send(request.body) else "SendMessage"
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


def _sent(message: Message) -> dict[str, str]:
    children = {"MessageId": message.message_id, "MessageBodyMD5": message.body_md5}
    return children if message.handle is None else {**children, "ReceiptHandle": message.handle}


def _batch_size(query: Mapping[str, str]) -> int:
    return whole_number("numOfMessages", query["numofmessages"], 1, mns_xml.MOST_IN_BATCH)


def _handle(query: Mapping[str, str]) -> str:
    handle = query.get("receipthandle")
    if not handle:
        raise MnsError("MissingReceiptHandle", "ReceiptHandle is required.")
    return handle


def _revoke(queue: Queue, message: Message, handle: str | None) -> None:
    # Renewed, deleted or received again meanwhile: that is another lease.
    if message.state == State.INACTIVE and message.handle == handle:
        queue.revoke(message)
