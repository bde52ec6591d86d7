"""Hold what one message is: what its sender said, and where it is in its life.

Elsewhere: the rules that move it from state to state (``queue``), its XML (``wire``).
"""

import hashlib
from dataclasses import dataclass
from enum import IntEnum

Property = tuple[str, str, str]
"""Name, value and type of a user or system property, as sent."""


class State(IntEnum):
    """Where a message is in its life."""

    DELAYED = 0
    READY = 1
    OUT = 2
    HELD = 3
    GONE = 4


@dataclass(slots=True)
class Draft:
    """What a sender says of a message; ``delay_s`` None is the queue's own."""

    body: str
    priority: int = 8
    delay_s: int | None = None
    group_id: str = ""
    user_properties: tuple[Property, ...] = ()
    system_properties: tuple[Property, ...] = ()


class Message:
    """One message of one queue. Times are milliseconds since 1970.

    ``rendered`` belongs to ``wire``: the parts of the XML that never change. ``group`` is the FIFO group
    the message stands in line in; None when it stands in none.
    """

    __slots__ = (
        "body", "body_md5", "dequeue_count", "enqueue_ms", "first_dequeue_ms", "group", "group_id", "handle",
        "is_duplicate", "message_id", "old_handles", "priority", "rendered", "seq", "state",
        "system_properties", "user_properties", "version", "visible_ms",
    )  # fmt: skip

    def __init__(self, draft: Draft, *, seq: int, message_id: str, enqueue_ms: int) -> None:
        self.seq = seq
        self.message_id = message_id
        self.body = draft.body
        # Not for security: the protocol's own checksum.
        self.body_md5 = hashlib.md5(draft.body.encode(), usedforsecurity=False).hexdigest().upper()
        self.priority = draft.priority
        self.group_id = draft.group_id
        self.group: str | None = None
        self.user_properties = draft.user_properties
        self.system_properties = draft.system_properties
        self.enqueue_ms = enqueue_ms
        self.first_dequeue_ms = 0
        self.visible_ms = enqueue_ms
        self.dequeue_count = 0
        self.handle: str | None = None
        self.old_handles: list[str] | None = None
        self.is_duplicate = False
        self.state = State.GONE
        self.version = 0
        self.rendered: tuple[str, str] | None = None
