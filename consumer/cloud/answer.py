"""Read the messages in an answer: what is essential strictly, the rest within its documented range.

A message needs its MessageId, ReceiptHandle, MessageBody and NextVisibleTime; one without them is a problem, which the
log names. Any other field may be missing or out of its range, and the message is handled all the same: a number that
can't be true must neither bury a message nor keep it for ever.

Elsewhere: the entries of an answer (``entries``), what the values mean (``messages``), which answer is a success
(``mns_call``).

Source: facts/mns.md#essential-fields, facts/mns.md#receive-message.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from consumer.cloud.entries import Entry, entries
from consumer.cloud.messages import Message, Peeked, QueueAttributes, Receipt
from consumer.cloud.plain_xml import local_name, parse
from consumer.cloud.wording import cut
from consumer.policy import MAX_BATCH, MAX_HIDE_S, MAX_RETENTION_S, MAX_WAIT_S, MIN_HIDE_S

_MS: Final = 1000.0
_DIGITS: Final = 18
_WHOLE: Final = re.compile(r"[ \t\r\n]*([+-]?[0-9]{1,18})[ \t\r\n]*")
_MAX_DELAY_S: Final = 604_800
_OLDEST_S: Final = MAX_RETENTION_S + _MAX_DELAY_S
_AHEAD_S: Final = 900.0
"""How far the server's clock may run ahead of what is taken for it (facts/mns.md#clock-difference)."""
_MAX_DEQUEUES: Final = MAX_RETENTION_S // MIN_HIDE_S
"""A message that is received again each second of the longest retention."""
_MIN_PRIORITY, _PRIORITY, _MAX_PRIORITY = 1, 8, 16
_REMEMBERED: Final = 10_000
_MIN_RETENTION_S: Final = 60
_MAX_COUNT: Final = 1 << 53
_LATEST_S: Final = 1 << 33
"""The year 2242: what can be shown as a date."""

FirstSeen: TypeAlias = Callable[[str, float], float]
"""Gives the server's time at which a MessageId was first seen; its arguments are the id and the server's time now."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """When an answer came, by both clocks.

    Args:
        monotonic: ``time.monotonic`` when its end had come.
        server_s: The server's clock at that time, Unix seconds, from the Date header.
    """

    monotonic: float
    server_s: float


class FirstSeenTimes:
    """Remembers when messages that come without any time of their own were first seen, so that they grow older."""

    def __init__(self) -> None:
        self._times: dict[str, float] = {}

    def __call__(self, message_id: str, now_s: float) -> float:
        """The time of the first call for this id among the last ten thousand, at most ``now_s``."""
        first_s = self._times.setdefault(message_id, now_s)
        if len(self._times) > _REMEMBERED:
            del self._times[next(iter(self._times))]
        return min(first_s, now_s)


def messages(
    data: bytes, arrival: Arrival, *, limit: int = MAX_BATCH, first_seen: FirstSeen | None = None
) -> tuple[list[Message], list[str]]:
    """Read the answer of BatchReceiveMessage.

    Args:
        data: The answer's body.
        arrival: When it came; leases are counted from then.
        limit: How many messages were asked for. Of more than that the rest is not read: no slot is free for them,
            and they come back when their visibility ends.
        first_seen: Asked for the age of a message that tells neither when it was sent nor when it was first received.

    Returns:
        The messages, and one line for each problem (see ``messages.Batch``).

    Raises:
        AnswerError: It is not a ``<Messages>`` answer at all.
    """
    found: list[Message] = []
    problems: list[str] = []
    come, more = entries(data, limit)
    for entry in come:
        try:
            message = _message(entry, arrival, first_seen)
        except KeyError as error:
            name = cut(entry.fields.get("MessageId", "unknown"), 40)
            problems.append(f"message {name} was skipped and stays in its queue: it lacks {error.args[0]}")
        else:
            found.append(message)
            _check(entry, message, arrival, problems)
    if more:
        problems.append(f"{more} more messages came than the {limit} asked for; they were not read and come back later")
    return found, problems


def peeked(data: bytes, arrival: Arrival, *, limit: int = MAX_BATCH) -> list[Peeked]:
    """Read the answer of BatchPeekMessage; an entry without MessageId or MessageBody is left out.

    Raises:
        AnswerError: It is not a ``<Messages>`` answer at all.
    """
    found: list[Peeked] = []
    for entry in entries(data, limit)[0]:
        try:
            found.append(_peeked(entry, arrival))
        except KeyError:
            continue
    return found


def whole(text: str | None) -> int | None:
    """A whole number of at most 18 ASCII digits; ``None`` for anything else."""
    if text is None:
        return None
    # Nearly all are nothing but digits: four of them in every message.
    if len(text) <= _DIGITS and text.isascii() and text.isdigit():
        return int(text)
    found = _WHOLE.fullmatch(text)
    return None if found is None else int(found[1])


def within(text: str | None, low: int, high: int, default: int) -> int:
    """A whole number, moved into its range; the default where it is missing or no number."""
    number = whole(text)
    return default if number is None else max(low, min(high, number))


def receipt(
    found: Mapping[str, str], arrival: Arrival, *, longest_s: float = MAX_HIDE_S, unknown_s: float = 0.0
) -> Receipt:
    """The receipt that an answer gives.

    Args:
        found: The fields of the entry.
        arrival: When the answer came.
        longest_s: The longest that the message can be hidden from now on.
        unknown_s: How long the lease is taken to last where NextVisibleTime is no time to come.

    Raises:
        KeyError: ReceiptHandle or NextVisibleTime is missing.

    Date is cut to whole seconds, hence the 1 s. Source: facts/mns.md#receipt-handles.
    """
    visible_ms = whole(_filled(found, "NextVisibleTime"))
    left_s = 0.0 if visible_ms is None else visible_ms / _MS - arrival.server_s - 1.0
    if left_s <= 0:
        left_s = unknown_s
    return Receipt(_filled(found, "ReceiptHandle"), arrival.monotonic + min(left_s, longest_s))


def attributes(found: Mapping[str, str], body: bytes) -> QueueAttributes:
    """Read a queue's attributes, each moved into its documented range.

    Args:
        found: The text of each field of the answer.
        body: The answer itself, for the one that is more than text.

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
        active_messages=_count(found.get("ActiveMessages")),
        inactive_messages=_count(found.get("InactiveMessages")),
        delayed_messages=_count(found.get("DelayMessages")),
        created_at=_number(found, "CreateTime", 0, _LATEST_S),
        modified_at=_number(found, "LastModifyTime", 0, _LATEST_S),
        dlq_policy=_dlq_policy(body),
    )


def _dlq_policy(body: bytes) -> str | None:
    """The DlqPolicy as text, whatever its form: only the control plane is documented to show it."""
    for child in parse(body):
        if local_name(child) == "DlqPolicy":
            parts = [f"{local_name(part)}={part.text or ''}" for part in child]
            return cut(" ".join(parts) or child.text or "") or None
    return None


def _message(entry: Entry, arrival: Arrival, first_seen: FirstSeen | None) -> Message:
    found = entry.fields
    message_id = _filled(found, "MessageId")
    enqueued_at, first_dequeued_at = _times(found, arrival.server_s, message_id, first_seen)
    return Message(
        message_id=message_id,
        body=_body(entry),
        receipt=receipt(found, arrival),
        enqueued_at=enqueued_at,
        first_dequeued_at=first_dequeued_at,
        dequeue_count=within(found.get("DequeueCount"), 1, _MAX_DEQUEUES, 1),
        priority=within(found.get("Priority"), _MIN_PRIORITY, _MAX_PRIORITY, _PRIORITY),
        group_id=found.get("MessageGroupId") or None,
        user_properties=entry.user_properties,
        system_properties=entry.system_properties,
    )


def _peeked(entry: Entry, arrival: Arrival) -> Peeked:
    found = entry.fields
    message_id = _filled(found, "MessageId")
    enqueued_at, first_dequeued_at = _times(found, arrival.server_s, message_id, None)
    return Peeked(
        message_id=message_id,
        body=_body(entry),
        enqueued_at=enqueued_at,
        first_dequeued_at=first_dequeued_at,
        dequeue_count=within(found.get("DequeueCount"), 0, _MAX_DEQUEUES, 0),
        priority=within(found.get("Priority"), _MIN_PRIORITY, _MAX_PRIORITY, _PRIORITY),
        group_id=found.get("MessageGroupId") or None,
        user_properties=entry.user_properties,
        system_properties=entry.system_properties,
    )


def _times(
    found: Mapping[str, str], now_s: float, message_id: str, first_seen: FirstSeen | None
) -> tuple[float, float]:
    """When a message was sent and when it was first received, by the server's clock and never later than now.

    A time that no message can have counts as missing. Moving it to the nearest possible one would make the message
    as old as any can be, and bury it at its first failure.
    """
    sent = _time(found.get("EnqueueTime"), now_s)
    received = _time(found.get("FirstDequeueTime"), now_s)
    if sent is None:
        sent = received
    if sent is None:
        sent = now_s if first_seen is None else first_seen(message_id, now_s)
    return sent, sent if received is None else max(sent, received)


def _time(text: str | None, now_s: float) -> float | None:
    number = whole(text)
    if number is None or not now_s - _OLDEST_S <= number / _MS <= now_s + _AHEAD_S:
        return None
    return min(number / _MS, now_s)


def _body(entry: Entry) -> bytes:
    if entry.body is None:
        raise KeyError("MessageBody")
    return entry.body


def _filled(found: Mapping[str, str], name: str) -> str:
    if not found[name]:
        raise KeyError(name)
    return found[name]


def _check(entry: Entry, message: Message, arrival: Arrival, problems: list[str]) -> None:
    """Name what is odd about a message that is handled all the same."""
    expected = entry.fields.get("MessageBodyMD5")
    if expected and hashlib.md5(message.body, usedforsecurity=False).hexdigest() != expected.lower():
        problems.append(f"message {cut(message.message_id, 40)}: its body is not what MessageBodyMD5 says")
    if message.receipt.expires_at <= arrival.monotonic and whole(entry.fields["NextVisibleTime"]) is None:
        shown = cut(entry.fields["NextVisibleTime"], 40)
        problems.append(
            f"message {cut(message.message_id, 40)}: NextVisibleTime {shown} is no time; its lease is renewed at once"
        )


def _number(found: Mapping[str, str], name: str, low: int, high: int) -> int:
    number = whole(found[name])
    if number is None:
        raise ValueError(f"{name} is {cut(found[name], 40)!r}")
    return max(low, min(high, number))


def _count(text: str | None) -> int | None:
    number = whole(text)
    return None if number is None else max(0, min(_MAX_COUNT, number))
