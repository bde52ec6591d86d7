"""Tell which MNS operation a request is, check its signature, carry it out, and write its refusal.

Elsewhere: the operations (``queue_api``, ``message_api``), signatures (``signature``), faults on whole
requests (``server``).
"""

import random
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final
from urllib.parse import unquote

from consumer.sandbox import queue_api, reading, signature, wire
from consumer.sandbox.account import Account, Mailbox
from consumer.sandbox.answer import Answer
from consumer.sandbox.faults import Faults
from consumer.sandbox.grants import Grants
from consumer.sandbox.message_api import MessageApi
from consumer.sandbox.operations import UNKNOWN
from consumer.sandbox.refusal import MnsError, access_denied
from consumer.sandbox.service import Call, Caller
from consumer.sandbox.signature import Keys, Sent

# Every spelling that a client of the vendor sends, and the name it has in here. The real service knows the case of a
# query item (a wrongly-cased one is InvalidQueryString: facts/mns.md#what-clients-send) while its clients differ:
# PHP, @alicloud/mns and the gateway of 2026 write receiptHandle and visibilityTimeout when they hide, and
# ReceiptHandle when they delete; Java, Go, Python and C# write ReceiptHandle and VisibilityTimeout. All of them write
# numOfMessages, waitseconds, peekonly and metaoverride; the page on signatures prints metaOverride. Anything else,
# such as WaitSeconds, is unknown.
_QUERY_ITEMS: Final[Mapping[str, str]] = MappingProxyType(
    {
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
)
_PARTS_OF_QUEUE = 2
_PARTS_OF_MESSAGES = 3


class MnsApi:
    """MNS's side of the port."""

    # Spelt as the service does; the vendor's Python client needs the lower case. Source: facts/mns.md#answers.
    headers: Mapping[str, str] = MappingProxyType({"x-mns-version": "2015-06-06", "x-mns-request-id": ""})
    server = "AliyunMQS"

    def __init__(
        self,
        account: Account,
        faults: Faults,
        keys: Keys,
        grants: Grants,
        *,
        verify: bool,
        chance: random.Random,
    ) -> None:
        self._account = account
        self._messages = MessageApi(account, faults)
        self._keys = keys
        self._grants = grants
        self._verify = verify
        self._chance = chance
        messages = self._messages
        self._at_once: dict[str, Callable[[Mailbox, Call], Answer]] = {
            "BatchDeleteMessage": lambda mailbox, call: messages.batch_delete(mailbox, call.sent.body),
            "DeleteMessage": lambda mailbox, call: messages.delete(mailbox, call.parameters),
            "ChangeMessageVisibility": lambda mailbox, call: messages.change_visibility(mailbox, call.parameters),
            "SendMessage": lambda mailbox, call: messages.send(mailbox, call.sent.body),
            "BatchSendMessage": lambda mailbox, call: messages.batch_send(mailbox, call.sent.body),
            "PeekMessage": lambda mailbox, call: messages.peek(mailbox, call.parameters),
            "BatchPeekMessage": lambda mailbox, call: messages.peek(mailbox, call.parameters),
            "SetQueueAttributes": lambda mailbox, call: queue_api.set_queue_attributes(
                account, mailbox, call.sent.body
            ),
            "GetQueueAttributes": lambda mailbox, _: queue_api.get_queue_attributes(account, mailbox),
        }

    def new_request_id(self, now_ms: int) -> str:
        """Make 24 upper-case hex digits, of which the first eight are the time in seconds."""
        return f"{now_ms // 1000:08X}{self._chance.getrandbits(64):016X}"

    def understood(self, sent: Sent) -> Call:
        """Tell which operation a request is, ``Unknown`` when none; checks nothing yet."""
        path, _, query_text = sent.target.partition("?")
        query: dict[str, str] = {}
        stray = ""
        if query_text:
            for part in query_text.split("&"):
                name, _, value = part.partition("=")
                known = _QUERY_ITEMS.get(name)
                if known is None:
                    stray = stray or unquote(name)
                else:
                    # Never unquote_plus: an unescaped receipt handle may hold a plus of its own.
                    query[known] = unquote(value)
        parts = [unquote(part) for part in path.split("/") if part]
        operation, queue = UNKNOWN, None
        if parts and parts[0] == "queues":
            if len(parts) == 1:
                operation = "ListQueue" if sent.method == "GET" else UNKNOWN
            elif len(parts) == _PARTS_OF_QUEUE:
                operation, queue = _on_queue(sent.method, query), parts[1]
            elif len(parts) == _PARTS_OF_MESSAGES and parts[2] == "messages":
                operation, queue = _on_messages(sent, query), parts[1]
        return Call(operation, queue, query, sent, stray)

    async def answered(self, call: Call, caller: Caller) -> Answer:
        """Check and carry out a call; a refusal is an answer too."""
        try:
            if self._verify:
                signature.verify(call.sent, self._keys, time.time())
            return await self._carried_out(call, caller)
        except MnsError as refusal:
            return self._refused(caller.request_id, call.sent, refusal)

    def refused(self, request_id: str, sent: Sent, status: int, code: str | None, message: str) -> Answer:
        """Write a refusal of a request; a code of None is one that fits the status."""
        fitting = {403: "AccessDenied", 404: "QueueNotExist", 408: "TimeExpired", 429: "TooManyRequests"}
        default = fitting.get(status, "InternalError")
        return self._refused(request_id, sent, MnsError(code or default, message, status=status))

    @staticmethod
    def _refused(request_id: str, sent: Sent, refusal: MnsError) -> Answer:
        host_id = f"http://{sent.headers.get('host', '')}"
        return Answer(refusal.status, wire.error(refusal.code, refusal.message, request_id, host_id))

    async def _carried_out(self, call: Call, caller: Caller) -> Answer:
        account, operation, sent = self._account, call.operation, call.sent
        if operation == UNKNOWN:
            raise MnsError("InvalidRequestURL", f"Http request URL format invalid. {_what_is_missing(sent.target)}")
        if self._grants.denial(operation) is not None:
            raise access_denied()
        if call.stray:
            known = ", ".join(_QUERY_ITEMS)
            raise MnsError("InvalidQueryString", f"Unknown query item '{call.stray[:64]}'; known here are {known}.")
        if operation in self._at_once:
            return self._at_once[operation](account.get(call.queue or ""), call)
        if operation in ("ReceiveMessage", "BatchReceiveMessage"):
            mailbox = account.get(call.queue or "")
            return await self._messages.receive(mailbox, operation, call.parameters, caller.is_gone)
        base_url = f"{caller.scheme}://{sent.headers.get('host', '')}"
        if operation == "ListQueue":
            return queue_api.list_queue(account, sent.headers, base_url)
        if operation == "CreateQueue":
            return queue_api.create_queue(account, call.queue or "", sent.body, base_url)
        account.delete(call.queue or "")
        return Answer(204)


def _what_is_missing(target: str) -> str:
    path, _, query = target.partition("?")
    if path.startswith("/topics"):
        return "The sandbox does not implement topics and subscriptions; put a topic's message in by its control API."
    if path in ("", "/") and query.startswith("accountmeta"):
        return "The sandbox does not implement the attributes of the account."
    return "The sandbox implements /queues, /queues/NAME and /queues/NAME/messages only."


def _on_queue(method: str, query: dict[str, str]) -> str:
    if method == "PUT":
        return "SetQueueAttributes" if query.get("metaoverride", "").lower() == "true" else "CreateQueue"
    return {"GET": "GetQueueAttributes", "DELETE": "DeleteQueue"}.get(method, UNKNOWN)


def _on_messages(sent: Sent, query: dict[str, str]) -> str:
    match sent.method:
        case "GET":
            verb = "Peek" if query.get("peekonly", "").lower() == "true" else "Receive"
            return f"Batch{verb}Message" if "numofmessages" in query else f"{verb}Message"
        case "POST":
            return "BatchSendMessage" if reading.is_batch_send(sent.body) else "SendMessage"
        case "DELETE":
            return "DeleteMessage" if "receipthandle" in query else "BatchDeleteMessage"
        case "PUT":
            return "ChangeMessageVisibility"
        case _:
            return UNKNOWN
