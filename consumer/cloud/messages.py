"""The values in MNS's answers: messages with their receipts, failed deletes, a queue's attributes.

A message needs its MessageId, ReceiptHandle, MessageBody and NextVisibleTime; one without them is skipped and named in
a problem. Any other field may be missing or out of its range: a number that can't be true must neither
set a message aside nor keep it for ever.

Times of the server's clock are Unix seconds. The end of a lease is on this process's monotonic clock, so that a step of
the wall clock can neither lose a lease nor stretch it.

Source: facts/mns.md#essential-fields, facts/mns.md#receive-message.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from consumer.cloud.faults import cut
from consumer.cloud.mns_xml import Entry, entries, local_name, parse
from consumer.cloud.pool import BELIEVED_S, Arrival
from consumer.policy import MAX_BATCH, MAX_HIDE_S, MAX_RETENTION_S, MAX_WAIT_S, MIN_HIDE_S

_MS: Final = 1000.0
_DIGITS: Final = 18
_WHOLE: Final = re.compile(r"[ \t\r\n]*([+-]?[0-9]{1,18})[ \t\r\n]*")
_MAX_DELAY_S: Final = 604_800
_OLDEST_S: Final = MAX_RETENTION_S + _MAX_DELAY_S
_MAX_DEQUEUES: Final = MAX_RETENTION_S // MIN_HIDE_S
"""A message that is received again each second of the longest retention."""
_MIN_PRIORITY, _PRIORITY, _MAX_PRIORITY = 1, 8, 16
_MIN_RETENTION_S: Final = 60
_MAX_COUNT: Final = 1 << 53
_LATEST_S: Final = 1 << 33
"""The year 2242: a date that can be shown."""
_Default = TypeVar("_Default", int, None)


@dataclass(slots=True)  # not frozen: that costs 0.1 us a field, for every message
class Receipt:
    """The right to delete or hide one message until its lease ends; a later handle replaces this one."""

    handle: str
    expires_at: float
    """Seconds of ``time.monotonic``: the arrival of the answer, plus NextVisibleTime minus its Date minus 1 s."""


@dataclass(slots=True)
class Peeked:
    """A message as peeking shows it, without a receipt.

    Args:
        message_id: The same over redeliveries.
        body: As transmitted; base64 is not decoded here.
        dequeue_count: Receipts so far, this one included.
        priority: 1 (first) to 16.
        group_id: MessageGroupId of a FIFO queue.
        system_properties: Such as ``traceparent``.
    """

    message_id: str
    body: bytes
    enqueued_at: float
    first_dequeued_at: float
    dequeue_count: int
    priority: int
    group_id: str | None
    user_properties: Mapping[str, str]
    system_properties: Mapping[str, str]


@dataclass(slots=True)  # likewise
class Message(Peeked):
    """A received message, with the receipt of this delivery."""

    receipt: Receipt


@dataclass(slots=True)
class Batch:
    """The messages of one receive.

    Args:
        messages: 0 to 16.
        elapsed_s: An empty batch much sooner than the wait asked for means: poll less
            (facts/mns.md#too-many-long-polls).
        server_offset_s: The server's clock minus ours; 0 within the precision of the Date header.
        problems: One line for each skipped entry (its message stays in the queue), for each body without its MD5 (it is
            among the messages: skipped, it would come again until its retention ends), and for messages beyond the
            limit.
    """

    messages: Sequence[Message]
    elapsed_s: float
    server_offset_s: float
    problems: Sequence[str] = field(default=())


@dataclass(slots=True)
class DeleteFailure:
    """One handle that a batch delete did not delete.

    Args:
        gone: The lease is lost, or the message was deleted already.
        retryable: Deleting the same handle again may succeed.
        detail: The service's own words, cut.
    """

    handle: str
    code: str
    gone: bool
    retryable: bool
    detail: str


@dataclass(slots=True)
class QueueAttributes:
    """A queue's settings and counts (facts/mns.md#get-queue-attributes).

    Args:
        active_messages: Waiting; the service withdraws the three counts: ``None`` when missing.
        inactive_messages: Received and not yet deleted.
        delayed_messages: Not yet visible for the first time.
    """

    name: str
    visibility_timeout_s: int
    retention_s: int
    polling_wait_s: int
    delay_s: int
    max_message_bytes: int
    active_messages: int | None
    inactive_messages: int | None
    delayed_messages: int | None
    created_at: int
    modified_at: int
    dlq_policy: str | None = None


def read_messages(data: bytes, arrival: Arrival, *, limit: int = MAX_BATCH) -> tuple[list[Message], list[str]]:
    """The messages in an answer of BatchReceiveMessage, and its problems; raises ``AnswerError`` for another answer.

    Messages beyond ``limit`` are not read: no slot is free for them, and they are redelivered when their visibility
    ends.
    """
    found: list[Message] = []
    problems: list[str] = []
    read, more = entries(data, limit)
    for entry in read:
        try:
            content = _content(entry, arrival, 1)
            message = Message(receipt=read_receipt(entry.fields, arrival), **content)
        except KeyError as error:
            name = cut(entry.fields.get("MessageId", "unknown"), 40)
            problems.append(f"message {name} was skipped and stays in its queue: it lacks {error.args[0]}")
        else:
            found.append(message)
            _check(entry, message, arrival, problems)
    if more:
        problems.append(f"{more} more messages came than the {limit} asked for; they were not read and come back later")
    return found, problems


def read_peeked(data: bytes, arrival: Arrival, *, limit: int = MAX_BATCH) -> list[Peeked]:
    """The messages in an answer of BatchPeekMessage; an entry without MessageId or MessageBody is left out."""
    found: list[Peeked] = []
    for entry in entries(data, limit)[0]:
        try:
            found.append(Peeked(**_content(entry, arrival, 0)))
        except KeyError:
            continue
    return found


def read_receipt(
    found: Mapping[str, str], arrival: Arrival, *, longest_s: float = MAX_HIDE_S, unknown_s: float = 0.0
) -> Receipt:
    """The receipt in an entry's fields; Date is cut to whole seconds, hence the 1 s.

    The lease is ``longest_s`` at most, and ``unknown_s`` where NextVisibleTime is no future time.
    Source: facts/mns.md#receipt-handles.

    Raises:
        KeyError: ReceiptHandle or NextVisibleTime is missing.
    """
    visible_ms = _whole(_filled(found, "NextVisibleTime"))
    left_s = 0.0 if visible_ms is None else visible_ms / _MS - arrival.server_s - 1.0
    if left_s <= 0:
        left_s = unknown_s
    return Receipt(_filled(found, "ReceiptHandle"), arrival.monotonic + min(left_s, longest_s))


def read_attributes(found: Mapping[str, str], body: bytes) -> QueueAttributes:
    """A queue's attributes, each moved into its documented range.

    Raises:
        KeyError: One is missing.
        ValueError: One is no number.
    """
    return QueueAttributes(
        name=found["QueueName"],
        visibility_timeout_s=_number(found, "VisibilityTimeout", MIN_HIDE_S, MAX_HIDE_S),
        retention_s=_number(found, "MessageRetentionPeriod", _MIN_RETENTION_S, MAX_RETENTION_S),
        polling_wait_s=_number(found, "PollingWaitSeconds", 0, MAX_WAIT_S),
        delay_s=_number(found, "DelaySeconds", 0, _MAX_DELAY_S),
        max_message_bytes=_number(found, "MaximumMessageSize", 0, _MAX_COUNT),
        active_messages=_within(found.get("ActiveMessages"), 0, _MAX_COUNT, None),
        inactive_messages=_within(found.get("InactiveMessages"), 0, _MAX_COUNT, None),
        delayed_messages=_within(found.get("DelayMessages"), 0, _MAX_COUNT, None),
        created_at=_number(found, "CreateTime", 0, _LATEST_S),
        modified_at=_number(found, "LastModifyTime", 0, _LATEST_S),
        dlq_policy=_dlq_policy(body),
    )


def _dlq_policy(body: bytes) -> str | None:
    """The DlqPolicy as text, whatever its form: it is documented for the control plane only."""
    for child in parse(body):
        if local_name(child) == "DlqPolicy":
            parts = [f"{local_name(part)}={part.text or ''}" for part in child]
            return cut(" ".join(parts) or child.text or "") or None
    return None


def _content(entry: Entry, arrival: Arrival, least_count: int) -> dict[str, Any]:
    """The fields that received and peeked messages share."""
    found = entry.fields
    message_id = _filled(found, "MessageId")
    if entry.body is None:
        raise KeyError("MessageBody")
    now_s = arrival.server_s
    sent, received = _time(found.get("EnqueueTime"), now_s), _time(found.get("FirstDequeueTime"), now_s)
    if sent is None:
        sent = now_s if received is None else received
    return {
        "message_id": message_id,
        "body": entry.body,
        "enqueued_at": sent,
        "first_dequeued_at": sent if received is None else max(sent, received),
        "dequeue_count": _within(found.get("DequeueCount"), least_count, _MAX_DEQUEUES, least_count),
        "priority": _within(found.get("Priority"), _MIN_PRIORITY, _MAX_PRIORITY, _PRIORITY),
        "group_id": found.get("MessageGroupId") or None,
        "user_properties": entry.user_properties,
        "system_properties": entry.system_properties,
    }


def _check(entry: Entry, message: Message, arrival: Arrival, problems: list[str]) -> None:
    """Name the oddities of a message that is handled all the same."""
    expected = entry.fields.get("MessageBodyMD5")
    if expected and hashlib.md5(message.body, usedforsecurity=False).hexdigest() != expected.lower():
        problems.append(f"message {cut(message.message_id, 40)}: its body is not what MessageBodyMD5 says")
    if message.receipt.expires_at <= arrival.monotonic and _whole(entry.fields["NextVisibleTime"]) is None:
        shown = cut(entry.fields["NextVisibleTime"], 40)
        problems.append(
            f"message {cut(message.message_id, 40)}: NextVisibleTime {shown} is no time; its lease is renewed at once"
        )


def _time(text: str | None, now_s: float) -> float | None:
    """Unix seconds, never later than now.

    A time that no message can have counts as missing: moved to the nearest possible one, it would make the message as
    old as any can be, and set it aside at its first failure.
    """
    number = _whole(text)
    if number is None or not now_s - _OLDEST_S <= number / _MS <= now_s + BELIEVED_S:
        return None
    return min(number / _MS, now_s)


def _whole(text: str | None) -> int | None:
    """A whole number of at most 18 ASCII digits; ``None`` for anything else."""
    if text is None:
        return None
    # Nearly all are nothing but digits: four of them in every message.
    if len(text) <= _DIGITS and text.isascii() and text.isdigit():
        return int(text)
    found = _WHOLE.fullmatch(text)
    return None if found is None else int(found[1])


def _within(text: str | None, low: int, high: int, default: _Default) -> int | _Default:
    """A whole number, moved into its range; the default where it is missing or no number."""
    number = _whole(text)
    return default if number is None else max(low, min(high, number))


def _filled(found: Mapping[str, str], name: str) -> str:
    if not found[name]:
        raise KeyError(name)
    return found[name]


def _number(found: Mapping[str, str], name: str, low: int, high: int) -> int:
    number = _whole(found[name])
    if number is None:
        raise ValueError(f"{name} is {cut(found[name], 40)!r}")
    return max(low, min(high, number))
