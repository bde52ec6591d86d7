"""Carry out the operations on queues: create, set, get, delete, list.

Elsewhere: operations on messages (``message_api``), which operation a request is (``mns_api``).
"""

from collections.abc import Mapping

from consumer.sandbox import reading, wire
from consumer.sandbox.account import Account, Mailbox
from consumer.sandbox.answer import Answer
from consumer.sandbox.attributes import LONGEST_NEW_NAME, check_queue_name, whole_number
from consumer.sandbox.message import State
from consumer.sandbox.queue import Queue

_LARGEST_PAGE = 1000


def create_queue(account: Account, name: str, body: bytes, base_url: str) -> Answer:
    """Answer CreateQueue: 201 when new, 204 when it exists and equals."""
    check_queue_name(name, LONGEST_NEW_NAME)
    is_new = account.create(name, reading.read_settings(body))
    return Answer(201 if is_new else 204, headers={"Location": f"{base_url}/queues/{name}"})


def set_queue_attributes(account: Account, mailbox: Mailbox, body: bytes) -> Answer:
    """Answer SetQueueAttributes."""
    queue = mailbox.queue
    queue.attributes = queue.attributes.changed(reading.read_settings(body))
    queue.modified_ms = account.clock.now_ms()
    return Answer(204)


def get_queue_attributes(account: Account, mailbox: Mailbox) -> Answer:
    """Answer GetQueueAttributes."""
    return Answer(200, wire.element("Queue", _described(account, mailbox.queue)))


def list_queue(account: Account, headers: Mapping[str, str], base_url: str) -> Answer:
    """Answer ListQueue: a page by prefix and marker, with each queue's attributes when asked.

    Clients read a queue's name from its URL or from QueueName, so both are there.
    """
    number = whole_number("x-mns-ret-number", headers.get("x-mns-ret-number", "1000"), 1, _LARGEST_PAGE)
    page, marker = account.listed(headers.get("x-mns-prefix", ""), headers.get("x-mns-marker", ""), number)
    with_meta = headers.get("x-mns-with-meta", "").lower() == "true"
    entries = [
        {
            "QueueURL": f"{base_url}/queues/{queue.name}",
            **(_described(account, queue) if with_meta else {"QueueName": queue.name}),
        }
        for queue in page
    ]
    return Answer(200, wire.listing("Queues", "Queue", entries, marker))


def _described(account: Account, queue: Queue) -> dict[str, str]:
    queue.sweep(account.clock.now_ms())
    return {
        "QueueName": queue.name,
        "CreateTime": str(queue.created_ms // 1000),
        "LastModifyTime": str(queue.modified_ms // 1000),
        **queue.attributes.by_element(),
        "ActiveMessages": str(queue.counts[State.READY] + queue.counts[State.HELD]),
        "InactiveMessages": str(queue.counts[State.OUT]),
        "DelayMessages": str(queue.counts[State.DELAYED]),
    }
