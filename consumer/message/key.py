"""The ledger key of a message: the job, execution or message that it is about.

    queue | kind | JobId                    an IProduction job that ended: one end for each job
    queue | kind | JobId | verified         the same, where a message that MPS contradicts has ended it first
    queue | kind | JobId or RunId | state   other kinds, which report more than once
    queue | kind | JobId | EventType        events of the sister service that name a job and its end
    queue | MessageId | id                  messages without an id, and kinds where one id means several things

Keys are stored: the same input gives the same key in every version, at most ``MAX_KEY_CHARACTERS`` long. Two inputs
never share one: parts are joined by ``|``, which is escaped inside them; a part that is too long is replaced by its
SHA-256, marked with a ``%`` that no escape leaves.
"""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache
from typing import Final

from consumer.message.notification import Kind, Notification, Phase

MAX_QUEUE_CHARACTERS: Final = 364
"""Enough for the longest queue: 64 of account, 40 of region, 256 of name."""
MAX_PART_CHARACTERS: Final = 240
MAX_KEY_CHARACTERS: Final = MAX_QUEUE_CHARACTERS + 3 * MAX_PART_CHARACTERS + 3

_EVENT_ENDS = frozenset({"success", "fail", "failed"})
"""Other states of an event may come several times for one job (facts/iproduction.md#ims-events)."""
_UNSAFE = re.compile(r"[%|\x00-\x20\x7f-\uffff\U00010000-\U0010ffff]")
_SEVERAL_MEANINGS = frozenset({Kind.IMS_EVENT, Kind.VOD_EVENT, Kind.UNKNOWN})
"""Two messages of these kinds may share a job and a state and mean different things."""


def ledger_key(queue_identity: str, notification: Notification, message_id: str) -> str:
    """The key of a notification in the queue ``NotifyUrl.identity``; ``message_id`` is MNS's, for one without an id."""
    kind, job_id = notification.kind, notification.job_id
    if job_id is None:
        return message_key(queue_identity, message_id)
    if kind is Kind.IPRODUCTION and notification.phase is not Phase.INTERMEDIATE:
        return _join(queue_identity, kind, job_id)
    if kind is Kind.IMS_EVENT and notification.event_type is not None and notification.state.lower() in _EVENT_ENDS:
        return _join(queue_identity, kind, job_id, notification.event_type)
    if kind in _SEVERAL_MEANINGS:
        return message_key(queue_identity, message_id)
    return _join(queue_identity, kind, job_id, notification.state)


def verified_key(queue_identity: str, notification: Notification) -> str:
    """The second key of a job: for a notification that MPS confirms after one that it contradicts has ended the job."""
    return _join(queue_identity, notification.kind, notification.job_id or "", "verified")


def message_key(queue_identity: str, message_id: str) -> str:
    """The key of a message by MNS's own id: for bodies that can't be read or that have no id."""
    return _join(queue_identity, "MessageId", message_id)


def _join(queue_identity: str, *parts: str) -> str:
    return "|".join((_queue_part(queue_identity), *map(_part, parts)))


@lru_cache(maxsize=64)
def _queue_part(queue_identity: str) -> str:
    return _part(queue_identity, MAX_QUEUE_CHARACTERS)


def _part(text: str, limit: int = MAX_PART_CHARACTERS) -> str:
    # Escaping only lengthens a text, so one that is too long already is not escaped.
    if len(text) <= limit:
        escaped = _UNSAFE.sub(lambda match: f"%{ord(match.group()):02X}.", text)
        if len(escaped) <= limit:
            return escaped
    # surrogatepass: any text has a sum, and two texts never the same bytes.
    return "%sha256." + hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
