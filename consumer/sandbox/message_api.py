"""Carry out the operations on messages: send, receive, peek, delete, hide.

Faults that hit single messages and entries are drawn here; those that hit whole requests in ``server``.

Elsewhere: the rules of a queue (``queue``), XML (``wire``, ``reading``), operations on queues
(``queue_api``).
"""

import asyncio
from collections.abc import Callable, Mapping

from consumer.sandbox import reading, wire
from consumer.sandbox.account import Account, Mailbox
from consumer.sandbox.answer import Answer
from consumer.sandbox.attributes import whole_number
from consumer.sandbox.faults import Faults
from consumer.sandbox.message import Message, State
from consumer.sandbox.queue import Queue
from consumer.sandbox.refusal import MnsError, message_not_exist

_LONGEST_POLL_S = 30
_LONGEST_HIDE_S = 43_200


class MessageApi:
    """The operations on messages of one account, under its faults."""

    def __init__(self, account: Account, faults: Faults) -> None:
        self._account = account
        self._faults = faults
        self._clock = account.clock

    def send(self, mailbox: Mailbox, body: bytes) -> Answer:
        """Answer SendMessage."""
        queue, (draft,) = mailbox.queue, reading.read_drafts(body)
        return Answer(201, wire.element("Message", _sent(queue.send(draft, self._clock.now_ms()))))

    def batch_send(self, mailbox: Mailbox, body: bytes) -> Answer:
        """Answer BatchSendMessage.

        One wrong entry refuses the whole batch. Entries fail apart from each other only by a fault, and the answer
        then has the fault's status: what the real service's is, is not documented, and the vendor's clients look
        for failed entries only in answers that are errors.
        """
        queue, now_ms = mailbox.queue, self._clock.now_ms()
        entries: list[dict[str, str]] = []
        status = 201
        for draft in reading.read_drafts(body):
            fault = self._faults.draw("entry_error", "BatchSendMessage", queue.name)
            if fault is None:
                entries.append(_sent(queue.send(draft, now_ms)))
            else:
                status = fault.status
                entries.append({"ErrorCode": fault.code or "InternalError", "ErrorMessage": fault.message})
        return Answer(status, wire.listing("Messages", "Message", entries))

    async def receive(
        self, mailbox: Mailbox, operation: str, query: Mapping[str, str], is_gone: Callable[[], bool]
    ) -> Answer:
        """Answer ReceiveMessage and BatchReceiveMessage, after a long poll where one is asked for."""
        is_batch = "numofmessages" in query
        limit = self._account.batch_limit(_batch_size(query)) if is_batch else 1
        wait_s = mailbox.queue.attributes.polling_wait_s
        if "waitseconds" in query:
            wait_s = whole_number("waitseconds", query["waitseconds"], 0, _LONGEST_POLL_S, "seconds")
        taken = await self._polled(mailbox, limit, wait_s, is_gone)
        if not taken:
            raise message_not_exist()
        body = wire.messages(taken) if is_batch else wire.message(taken[0])
        if self._faults:
            self._spoil(mailbox, operation, taken)
        return Answer(200, body)

    def peek(self, mailbox: Mailbox, query: Mapping[str, str]) -> Answer:
        """Answer PeekMessage and BatchPeekMessage."""
        is_batch = "numofmessages" in query
        shown = mailbox.queue.peek(_batch_size(query) if is_batch else 1, self._clock.now_ms())
        if not shown:
            raise message_not_exist()
        return Answer(200, wire.messages(shown, is_peek=True) if is_batch else wire.message(shown[0], is_peek=True))

    def delete(self, mailbox: Mailbox, query: Mapping[str, str]) -> Answer:
        """Answer DeleteMessage."""
        mailbox.queue.delete(_handle(query), self._clock.now_ms())
        return Answer(204)

    def batch_delete(self, mailbox: Mailbox, body: bytes) -> Answer:
        """Answer BatchDeleteMessage: 204 only when all went, else the failed ones."""
        if not body:
            raise MnsError("MissingReceiptHandle", "ReceiptHandle is required.")
        queue, now_ms = mailbox.queue, self._clock.now_ms()
        fails_apart = self._faults.has("entry_error")
        failed: list[dict[str, str]] = []
        for handle in reading.read_handles(body):
            fault = self._faults.draw("entry_error", "BatchDeleteMessage", queue.name) if fails_apart else None
            error = None if fault is None else MnsError(fault.code or "InternalError", fault.message)
            error = error or _why_not_deleted(queue, handle, now_ms)
            if error is not None:
                failed.append({"ErrorCode": error.code, "ErrorMessage": error.message, "ReceiptHandle": handle})
        if not failed:
            return Answer(204)
        # The connection is closed after a partial delete. Source: facts/mns.md#batch-delete-message.
        return Answer(404, wire.listing("Errors", "Error", failed), closes=True)

    def change_visibility(self, mailbox: Mailbox, query: Mapping[str, str]) -> Answer:
        """Answer ChangeMessageVisibility."""
        handle = _handle(query)
        if "visibilitytimeout" not in query:
            raise MnsError("MissingVisibilityTimeout", "VisibilityTimeout is required.")
        hide_s = whole_number("VisibilityTimeout", query["visibilitytimeout"], 1, _LONGEST_HIDE_S, "seconds")
        message = mailbox.queue.hide(handle, hide_s, self._clock.now_ms())
        children = {"ReceiptHandle": message.handle or "", "NextVisibleTime": str(message.visible_ms)}
        return Answer(200, wire.element("ChangeVisibility", children))

    async def _polled(self, mailbox: Mailbox, limit: int, wait_s: int, is_gone: Callable[[], bool]) -> list[Message]:
        account = self._account
        if wait_s and account.max_long_polls is not None and account.held_long_polls >= account.max_long_polls:
            # Too many are answered at once, as empty. Source: facts/mns.md#too-many-long-polls.
            wait_s = 0
        account.held_long_polls += 1 if wait_s else 0
        try:
            return await mailbox.polls.receive(limit, wait_s, is_gone)
        finally:
            account.held_long_polls -= 1 if wait_s else 0

    def _spoil(self, mailbox: Mailbox, operation: str, taken: list[Message]) -> None:
        queue = mailbox.queue
        for message in taken:
            if not message.is_duplicate and self._faults.draw("duplicate", operation, queue.name):
                queue.duplicate(message)
            fault = self._faults.draw("revoke", operation, queue.name)
            if fault is not None:
                asyncio.get_running_loop().call_later(fault.seconds, _revoke, mailbox, message, message.handle)


def _revoke(mailbox: Mailbox, message: Message, handle: str | None) -> None:
    # Renewed, deleted or received again meanwhile: that lease is another one.
    if message.state == State.OUT and message.handle == handle:
        mailbox.queue.revoke(message)


def _why_not_deleted(queue: Queue, handle: str, now_ms: int) -> MnsError | None:
    try:
        queue.delete(handle, now_ms)
    except MnsError as error:
        return error
    return None


def _sent(message: Message) -> dict[str, str]:
    children = {"MessageId": message.message_id, "MessageBodyMD5": message.body_md5}
    if message.handle is not None:
        children["ReceiptHandle"] = message.handle
    return children


def _batch_size(query: Mapping[str, str]) -> int:
    return whole_number("numOfMessages", query["numofmessages"], 1, reading.MOST_IN_BATCH)


def _handle(query: Mapping[str, str]) -> str:
    handle = query.get("receipthandle")
    if not handle:
        raise MnsError("MissingReceiptHandle", "ReceiptHandle is required.")
    return handle
