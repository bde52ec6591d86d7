"""One MNS queue: which messages are visible, until when, and which receipt handle holds each.

No clock, socket or task: callers pass the time. A message is in one state:

    DELAYED -> ACTIVE <-> INACTIVE (received) -> GONE (deleted, expired, or moved to the dead-letter queue)
    BLOCKED (FIFO queues: behind another message of its group)

Two heaps hold what is received next and what becomes visible next. A heap entry carries the version of its message;
an entry that a later change made stale is skipped by it, so no heap is ever searched.
"""

import hashlib
import heapq
import random
import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum
from itertools import count
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field

from consumer.sandbox.protocol import MnsError, message_not_exist

Property = tuple[str, str, str]
"""Name, value and type of a user or system property."""

# Older pages allow 256 characters, newer ones 120 (facts/mns.md#queue-names): an existing queue may have a longer
# name than a new one may get.
_LONGEST_NAME: Final = 256
LONGEST_NEW_NAME: Final = 120
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*")

# Element name -> (field, lowest, highest, unit). Source: facts/mns.md#create-queue.
_RANGES: Final = {
    "DelaySeconds": ("delay_s", 0, 604_800, "seconds"),
    "MaximumMessageSize": ("maximum_message_bytes", 1024, 65_536, "bytes"),
    "MessageRetentionPeriod": ("retention_s", 60, 604_800, "seconds"),
    "VisibilityTimeout": ("visibility_timeout_s", 1, 43_200, "seconds"),
    "PollingWaitSeconds": ("polling_wait_s", 0, 30, "seconds"),
}
_BOOLEANS: Final = {"true": True, "false": False}
_MOST_DIGITS: Final = 9

# 36 or 37 characters, such as 8-0zxj... (facts/mns.md#receipt-handles); the number before the hyphen is the priority's.
_HANDLE: Final = re.compile(r"[A-Za-z0-9-]{36,37}")

_MOST_STALE: Final = 1024


def whole_number(name: str, text: str, lowest: int, highest: int, unit: str = "") -> int:
    """Read a whole number of a request; InvalidArgument names its range (facts/mns.md#error-texts)."""
    text = text.strip()
    # isdecimal alone would take other scripts' digits; int() would take signs and underscores.
    if text.isascii() and text.isdecimal() and len(text) <= _MOST_DIGITS and lowest <= int(text) <= highest:
        return int(text)
    raise MnsError("InvalidArgument", f"The value of {name} should between {lowest} and {highest} {unit}".rstrip())


def check_queue_name(name: str, longest: int = _LONGEST_NAME) -> None:
    """Raise QueueNameLengthError or InvalidQueueName for what is no name of a queue."""
    if not 1 <= len(name) <= longest:
        raise MnsError("QueueNameLengthError", f"Queue name length should between 1 and {longest}.")
    if not _NAME.fullmatch(name):
        text = "A queue name starts with a letter or digit and holds letters, digits and hyphens only."
        raise MnsError("InvalidQueueName", text)


@dataclass(frozen=True, slots=True)
class QueueAttributes:
    """The six settings of a queue, with the service's defaults."""

    delay_s: int = 0
    maximum_message_bytes: int = 65_536
    retention_s: int = 345_600
    visibility_timeout_s: int = 30
    polling_wait_s: int = 0
    logging_enabled: bool = False

    def changed(self, elements: Mapping[str, str]) -> "QueueAttributes":
        """Replace attributes by those of a request's ``<Queue>``, each checked; unknown elements are ignored."""
        values: dict[str, int | bool] = {}
        for element, (name, lowest, highest, unit) in _RANGES.items():
            if element in elements:
                values[name] = whole_number(element, elements[element], lowest, highest, unit)
        if "LoggingEnabled" in elements:
            text = elements["LoggingEnabled"].strip().lower()
            if text not in _BOOLEANS:
                raise MnsError("InvalidArgument", f"LoggingEnabled must be True or False, not '{text}'.")
            values["logging_enabled"] = _BOOLEANS[text]
        # mypy can't match a dict of values with the fields' types; the table above does.
        return replace(self, **values)  # type: ignore[arg-type]

    def by_element(self) -> dict[str, str]:
        """The attributes as GetQueueAttributes writes them."""
        texts = {element: str(getattr(self, name)) for element, (name, *_) in _RANGES.items()}
        return {**texts, "LoggingEnabled": str(self.logging_enabled)}


class DlqPolicy(BaseModel):
    """Where a queue's messages go once they were received too often (facts/mns.md#dead-letter-queues)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    enabled: bool = True
    dead_letter_target_queue: Annotated[str, Field(min_length=1)]
    max_receive_count: Annotated[int, Field(ge=1, le=1000)] = 16


class State(IntEnum):
    """The state of a message."""

    DELAYED = 0
    ACTIVE = 1
    INACTIVE = 2
    BLOCKED = 3
    GONE = 4


@dataclass(slots=True, eq=False)
class Message:
    """One message. A sender sets the first six fields, the queue all others. Times are milliseconds since 1970.

    Attributes:
        delay_s: None takes the queue's DelaySeconds.
        group: The FIFO group whose line the message stands in; None in a standard queue.
    """

    body: str
    priority: int = 8
    delay_s: int | None = None
    group_id: str = ""
    user_properties: tuple[Property, ...] = ()
    system_properties: tuple[Property, ...] = ()
    message_id: str = ""
    body_md5: str = field(init=False)
    seq: int = 0
    enqueue_ms: int = 0
    first_dequeue_ms: int = 0
    visible_ms: int = 0
    dequeue_count: int = 0
    handle: str | None = None
    old_handles: tuple[str, ...] = ()
    is_duplicate: bool = False
    state: State = State.GONE
    version: int = 0
    group: str | None = None

    def __post_init__(self) -> None:
        """Compute the protocol's checksum, which is not for security."""
        self.body_md5 = hashlib.md5(self.body.encode(), usedforsecurity=False).hexdigest().upper()


class Queue:
    """The messages of one queue.

    Args:
        chance: The source of message ids and receipt handles.
        lenient_handles: Replaced and expired handles keep working while their message exists.
        fifo: Keep order within a MessageGroupId.
        late_ms: A message hidden by ChangeMessageVisibility becomes visible between half of this and all of it late.
            Its handle still expires on time.
    """

    def __init__(
        self,
        name: str,
        attributes: QueueAttributes,
        *,
        created_ms: int,
        chance: random.Random,
        lenient_handles: bool = False,
        fifo: bool = False,
        late_ms: int = 0,
    ) -> None:
        self.name = name
        self.attributes = attributes
        self.created_ms = created_ms
        self.modified_ms = created_ms
        self.fifo = fifo
        self.dlq: DlqPolicy | None = None
        self.on_dead_letter: Callable[[Message], None] | None = None
        self.on_change: Callable[[], None] | None = None
        self.counts = [0] * len(State)
        self._chance = chance
        self._late_ms = late_ms
        self._lenient_handles = lenient_handles
        # Together 34 characters after the priority; no two queues share a prefix.
        self._handle_prefix = f"{chance.getrandbits(18 * 4):018x}"
        self._handle_numbers = count(10**15)
        self._by_handle: dict[str, Message] = {}
        self._seq = 0
        self._messages: dict[int, Message] = {}
        self._active: list[tuple[int, int, int, Message]] = []
        self._timers: list[tuple[int, int, int, Message]] = []
        self._groups: dict[str, deque[Message]] = {}

    def __iter__(self) -> Iterator[Message]:
        """All messages, oldest first."""
        return iter(list(self._messages.values()))

    def __len__(self) -> int:
        return len(self._messages)

    # The protocol's operations.

    def send(self, message: Message, now_ms: int) -> Message:
        """Enqueue a message; InvalidArgument when its body is too long or a FIFO queue's message has no group."""
        if self.fifo and not message.group_id:
            raise MnsError("InvalidArgument", "MessageGroupId is mandatory for a FIFO queue.")
        limit_bytes = self.attributes.maximum_message_bytes
        if len(message.body) > limit_bytes or len(message.body.encode()) > limit_bytes:
            raise MnsError("InvalidArgument", f"The length of message should not be larger than {limit_bytes}.")
        return self.enqueue(message, now_ms)

    def enqueue(self, message: Message, now_ms: int, *, enqueue_ms: int | None = None) -> Message:
        """Enqueue a message unchecked. ``enqueue_ms`` keeps the age of one that moves here from another queue."""
        message.message_id = f"{self._chance.getrandbits(128):032X}"
        message.enqueue_ms = now_ms if enqueue_ms is None else enqueue_ms
        self._add(message)
        delay_s = self.attributes.delay_s if message.delay_s is None else message.delay_s
        message.visible_ms = now_ms + delay_s * 1000
        if delay_s:
            self._renew_handle(message)
        if self.fifo:
            message.group = message.group_id
            line = self._groups.setdefault(message.group_id, deque())
            line.append(message)
            if len(line) > 1:
                self._move(message, State.BLOCKED)
                return message
        self._activate_when_due(message, now_ms)
        return message

    def receive(self, limit: int, now_ms: int) -> list[Message]:
        """Hand out up to ``limit`` messages, each with a new receipt handle."""
        if self._timers and self._timers[0][0] <= now_ms:
            self.promote(now_ms)
        taken: list[Message] = []
        hidden_until_ms = now_ms + self.attributes.visibility_timeout_s * 1000
        while self._active and len(taken) < limit:
            message = self._pop_active(now_ms)
            if message is None:
                break
            message.dequeue_count += 1
            if message.dequeue_count == 1:
                message.first_dequeue_ms = now_ms
            self._renew_handle(message)
            self._hide_until(message, hidden_until_ms, State.INACTIVE)
            taken.append(message)
        return taken

    def peek(self, limit: int, now_ms: int) -> list[Message]:
        """Show what ``receive`` would hand out, without changing anything."""
        self.promote(now_ms)
        found: list[Message] = []
        while len(found) < limit and (message := self._pop_active(now_ms)) is not None:
            found.append(message)
        for message in found:
            heapq.heappush(self._active, (message.priority, message.seq, message.version, message))
        return found

    def delete(self, handle: str, now_ms: int) -> Message:
        """Delete the message of a handle; MessageNotExist if it is dead, ReceiptHandleError if it is malformed."""
        message = self._held_by(handle, now_ms)
        self._remove(message, now_ms)
        return message

    def change_visibility(self, handle: str, visibility_timeout_s: int, now_ms: int) -> Message:
        """Hide a message for this long from now on and replace its handle; errors as for ``delete``."""
        message = self._held_by(handle, now_ms)
        self._renew_handle(message)
        late_ms = self._chance.randint(self._late_ms // 2, self._late_ms) if self._late_ms else 0
        self._hide_until(message, now_ms + visibility_timeout_s * 1000, State.INACTIVE, late_ms)
        return message

    # Faults.

    def revoke(self, message: Message) -> None:
        """End a lease early: the message becomes visible at once and its handle dies."""
        if message.state == State.INACTIVE:
            self._activate(message)
            self._drop_handles(message)

    def duplicate(self, message: Message) -> None:
        """Add a second copy of a message, visible at once and independent from then on."""
        receives = message.dequeue_count - 1 if message.state == State.INACTIVE else message.dequeue_count
        copy = Message(
            message.body,
            message.priority,
            group_id=message.group_id,
            user_properties=message.user_properties,
            system_properties=message.system_properties,
            message_id=message.message_id,
            enqueue_ms=message.enqueue_ms,
            visible_ms=message.enqueue_ms,
            first_dequeue_ms=message.first_dequeue_ms,
            dequeue_count=receives,
            is_duplicate=True,
        )
        self._add(copy)
        self._activate(copy)

    # Time.

    def next_due_ms(self) -> int | None:
        """When the next hidden or delayed message becomes visible; None when there is none."""
        while self._timers and self._timers[0][2] != self._timers[0][3].version:
            heapq.heappop(self._timers)
        return self._timers[0][0] if self._timers else None

    def promote(self, now_ms: int) -> None:
        """Make due messages visible; drop those past their retention, move dead letters."""
        while self._timers and self._timers[0][0] <= now_ms:
            _, _, version, message = heapq.heappop(self._timers)
            if version == message.version and not self._remove_if_over(message, now_ms):
                self._activate(message)

    def sweep(self, now_ms: int) -> None:
        """Bring states and counts up to date before they are shown."""
        self.promote(now_ms)
        while self._messages:
            oldest = next(iter(self._messages.values()))
            if not self._is_expired(oldest, now_ms):
                break
            self._remove(oldest, now_ms)

    def _add(self, message: Message) -> None:
        self._seq += 1
        message.seq = self._seq
        self._messages[message.seq] = message

    def _move(self, message: Message, state: State) -> None:
        if message.state != State.GONE:
            self.counts[message.state] -= 1
        if state != State.GONE:
            self.counts[state] += 1
        message.state = state
        message.version += 1

    def _activate(self, message: Message) -> None:
        self._move(message, State.ACTIVE)
        heapq.heappush(self._active, (message.priority, message.seq, message.version, message))
        if self.on_change is not None:
            self.on_change()

    def _activate_when_due(self, message: Message, now_ms: int) -> None:
        if message.visible_ms > now_ms:
            self._hide_until(message, message.visible_ms, State.DELAYED)
        else:
            self._activate(message)

    def _hide_until(self, message: Message, due_ms: int, state: State, late_ms: int = 0) -> None:
        self._move(message, state)
        message.visible_ms = due_ms
        entry = (due_ms + late_ms, message.seq, message.version, message)
        heapq.heappush(self._timers, entry)
        if len(self._timers) > 2 * len(self._messages) + _MOST_STALE:
            self._timers = [entry for entry in self._timers if entry[2] == entry[3].version]
            heapq.heapify(self._timers)
        if self.on_change is not None and self._timers[0] is entry:
            self.on_change()

    def _pop_active(self, now_ms: int) -> Message | None:
        while self._active:
            _, _, version, message = heapq.heappop(self._active)
            if version == message.version and not self._remove_if_over(message, now_ms):
                return message
        return None

    def _is_expired(self, message: Message, now_ms: int) -> bool:
        return message.enqueue_ms + self.attributes.retention_s * 1000 <= now_ms

    def _remove_if_over(self, message: Message, now_ms: int) -> bool:
        """Remove a message that is past its retention or was received too often; return whether it was removed."""
        policy = self.dlq
        if self._is_expired(message, now_ms):
            self._remove(message, now_ms)
        elif policy is not None and policy.enabled and message.dequeue_count >= policy.max_receive_count:
            self._remove(message, now_ms)
            if self.on_dead_letter is not None:
                self.on_dead_letter(message)
        else:
            return False
        return True

    def _remove(self, message: Message, now_ms: int) -> None:
        was_blocked = message.state == State.BLOCKED
        self._move(message, State.GONE)
        self._drop_handles(message)
        del self._messages[message.seq]
        if message.group is None:
            return
        line = self._groups[message.group]
        line.remove(message)
        if not line:
            del self._groups[message.group]
        elif not was_blocked:
            self._activate_when_due(line[0], now_ms)

    # Receipt handles.

    def _held_by(self, handle: str, now_ms: int) -> Message:
        message = self._by_handle.get(handle)
        if message is None:
            if _HANDLE.fullmatch(handle) is None:
                raise MnsError("ReceiptHandleError", "The receipt handle you provide is not valid.")
            raise message_not_exist()
        if self._is_expired(message, now_ms):
            self._remove(message, now_ms)
            raise message_not_exist()
        if not self._lenient_handles and message.visible_ms <= now_ms:
            raise message_not_exist()
        return message

    def _renew_handle(self, message: Message) -> None:
        old = message.handle
        if old is not None:
            if self._lenient_handles:
                message.old_handles += (old,)
            else:
                del self._by_handle[old]
        message.handle = handle = f"{message.priority}-{self._handle_prefix}{next(self._handle_numbers)}"
        self._by_handle[handle] = message

    def _drop_handles(self, message: Message) -> None:
        if message.handle is not None:
            del self._by_handle[message.handle]
            message.handle = None
        for handle in message.old_handles:
            del self._by_handle[handle]
        message.old_handles = ()
