"""Keep one queue's messages: who may see which, until when, and by which receipt handle.

Everything here is pure: no clock but the ``now_ms`` that is handed in, no sockets, no waiting. A message
is in exactly one state:

    DELAYED -> READY <-> OUT -> gone (deleted, expired, or moved to the dead-letter queue)
    HELD (FIFO only: behind another message of its group)

Two heaps hold what is next to be received and what is next to become visible; an entry that a later
change made stale is known by its version and skipped, so nothing is ever searched.

Elsewhere: what a message is (``message``), handles (``receipts``), waiting (``polls``), all queues of the
account (``account``), XML (``wire``).
"""

import heapq
import random
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final

from consumer.sandbox.attributes import QueueAttributes
from consumer.sandbox.message import Draft, Message, State
from consumer.sandbox.receipts import Receipts
from consumer.sandbox.refusal import MnsError, message_not_exist
from consumer.sandbox.settings import DlqPolicy

_FEWEST_STALE: Final = 1024


class Queue:
    """The messages of one queue and the rules they live by.

    Args:
        name: For errors and dead letters only.
        attributes: The six settings.
        created_ms: Time of creation.
        chance: Source of message ids and handles.
        lenient_handles: Keep replaced and expired handles working while their message lives.
        fifo: Keep order within a MessageGroupId.
        late_ms: A message that was hidden comes between half of it and all of it late. Its handle still ends in time.
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
        self.on_dead: Callable[[Message], None] | None = None
        self.on_change: Callable[[], None] | None = None
        self.counts = [0] * len(State)
        self._chance = chance
        self._late_ms = late_ms
        self._receipts = Receipts(chance, are_lenient=lenient_handles)
        self._seq = 0
        self._messages: dict[int, Message] = {}
        self._ready: list[tuple[int, int, int, Message]] = []
        self._timers: list[tuple[int, int, int, Message]] = []
        self._stale_timers = 0
        self._groups: dict[str, deque[Message]] = {}

    def __iter__(self) -> Iterator[Message]:
        """Give all messages that are still there, oldest first."""
        return iter(list(self._messages.values()))

    def __len__(self) -> int:
        return len(self._messages)

    # Verbs of the protocol.

    def send(self, draft: Draft, now_ms: int) -> Message:
        """Check a message against this queue's settings and take it in.

        Args:
            draft: Checked by the caller against the protocol's ranges.
            now_ms: The time.

        Raises:
            MnsError: InvalidArgument when a FIFO queue's message has no group, or the body is too long.
        """
        if self.fifo and not draft.group_id:
            raise MnsError("InvalidArgument", "MessageGroupId is mandatory for a FIFO queue.")
        limit_bytes = self.attributes.maximum_message_bytes
        if len(draft.body) > limit_bytes or len(draft.body.encode()) > limit_bytes:
            raise MnsError("InvalidArgument", f"The length of message should not be larger than {limit_bytes}.")
        return self.take(draft, now_ms)

    def take(self, draft: Draft, now_ms: int, *, enqueue_ms: int | None = None) -> Message:
        """Take a message in unchecked.

        ``enqueue_ms`` is when it first entered a queue, for one that is moved here: its retention goes on.
        """
        self._seq += 1
        entered_ms = now_ms if enqueue_ms is None else enqueue_ms
        message_id = f"{self._chance.getrandbits(128):032X}"
        message = Message(draft, seq=self._seq, message_id=message_id, enqueue_ms=entered_ms)
        self._messages[message.seq] = message
        delay_s = self.attributes.delay_s if draft.delay_s is None else draft.delay_s
        message.visible_ms = now_ms + delay_s * 1000
        if delay_s:
            self._receipts.renew(message)
        if self.fifo:
            message.group = draft.group_id
            line = self._groups.setdefault(draft.group_id, deque())
            line.append(message)
            if len(line) > 1:
                self._move(message, State.HELD)
                return message
        self._show_when_due(message, now_ms, State.DELAYED)
        return message

    def receive(self, limit: int, now_ms: int) -> list[Message]:
        """Hand out up to ``limit`` messages, each under a new receipt handle."""
        if self._timers and self._timers[0][0] <= now_ms:
            self.promote(now_ms)
        taken: list[Message] = []
        hidden_until_ms = now_ms + self.attributes.visibility_timeout_s * 1000
        while self._ready and len(taken) < limit:
            message = self._pop_ready(now_ms)
            if message is None:
                break
            message.dequeue_count += 1
            if message.dequeue_count == 1:
                message.first_dequeue_ms = now_ms
            self._receipts.renew(message)
            self._hide_until(message, hidden_until_ms, State.OUT)
            taken.append(message)
        return taken

    def peek(self, limit: int, now_ms: int) -> list[Message]:
        """Show what ``receive`` would hand out, and change nothing."""
        self.promote(now_ms)
        shown: list[Message] = []
        while self._ready and len(shown) < limit:
            message = self._pop_ready(now_ms)
            if message is None:
                break
            shown.append(message)
        for message in shown:
            heapq.heappush(self._ready, (message.priority, message.seq, message.version, message))
        return shown

    def delete(self, handle: str, now_ms: int) -> Message:
        """Delete by handle.

        Raises:
            MnsError: MessageNotExist for a dead handle, ReceiptHandleError for what is none.
        """
        message = self.find(handle, now_ms)
        self._remove(message, now_ms)
        return message

    def hide(self, handle: str, visibility_timeout_s: int, now_ms: int) -> Message:
        """Hide a message from now on for that long, and replace its handle.

        Raises:
            MnsError: As for ``delete``.
        """
        message = self.find(handle, now_ms)
        self._receipts.renew(message)
        late_ms = self._chance.randint(self._late_ms // 2, self._late_ms) if self._late_ms else 0
        self._hide_until(message, now_ms + visibility_timeout_s * 1000, State.OUT, late_ms)
        return message

    def find(self, handle: str, now_ms: int) -> Message:
        """Find the message that a handle still holds.

        Raises:
            MnsError: As for ``delete``.
        """
        message = self._receipts.find(handle)
        if self._is_expired(message, now_ms):
            self._remove(message, now_ms)
            raise message_not_exist()
        if not self._receipts.are_lenient and message.visible_ms <= now_ms:
            raise message_not_exist()
        return message

    # What only faults do.

    def revoke(self, message: Message) -> None:
        """End a lease before its time: the message is visible at once and its handle dead."""
        if message.state == State.OUT:
            self._make_ready(message)
            self._receipts.drop(message)

    def duplicate(self, message: Message) -> None:
        """Make a second delivery of the same message, with a life of its own from here on."""
        draft = Draft(
            message.body, message.priority, 0, message.group_id,
            message.user_properties, message.system_properties,
        )  # fmt: skip
        self._seq += 1
        twin = Message(draft, seq=self._seq, message_id=message.message_id, enqueue_ms=message.enqueue_ms)
        twin.dequeue_count = message.dequeue_count - 1 if message.state == State.OUT else message.dequeue_count
        twin.first_dequeue_ms = message.first_dequeue_ms
        twin.is_duplicate = True
        self._messages[twin.seq] = twin
        self._make_ready(twin)

    # Time passing.

    def next_due_ms(self) -> int | None:
        """Give when the next hidden or delayed message becomes visible; None when there is none."""
        while self._timers and self._timers[0][2] != self._timers[0][3].version:
            heapq.heappop(self._timers)
            self._stale_timers -= 1
        return self._timers[0][0] if self._timers else None

    def promote(self, now_ms: int) -> None:
        """Make visible what is due, or drop or bury it."""
        timers = self._timers
        while timers and timers[0][0] <= now_ms:
            _, _, version, message = heapq.heappop(timers)
            # One entry fewer; when it was the live one, the move below counts it as stale once more.
            self._stale_timers -= 1
            if version != message.version:
                continue
            if self._is_expired(message, now_ms):
                self._remove(message, now_ms)
            elif self._is_dead(message):
                self._bury(message, now_ms)
            else:
                self._make_ready(message)

    def sweep(self, now_ms: int) -> None:
        """Bring states and counts up to date, as far as anyone can see them from outside."""
        self.promote(now_ms)
        while self._messages:
            oldest = next(iter(self._messages.values()))
            if not self._is_expired(oldest, now_ms):
                break
            self._remove(oldest, now_ms)

    # Inner parts.

    def _move(self, message: Message, state: State) -> None:
        if message.state != State.GONE:
            self.counts[message.state] -= 1
        if message.state in (State.DELAYED, State.OUT):
            self._stale_timers += 1
        if state != State.GONE:
            self.counts[state] += 1
        message.state = state
        message.version += 1

    def _make_ready(self, message: Message) -> None:
        self._move(message, State.READY)
        heapq.heappush(self._ready, (message.priority, message.seq, message.version, message))
        if self.on_change is not None:
            self.on_change()

    def _hide_until(self, message: Message, due_ms: int, state: State, late_ms: int = 0) -> None:
        self._move(message, state)
        message.visible_ms = due_ms
        heapq.heappush(self._timers, (due_ms + late_ms, message.seq, message.version, message))
        if self._stale_timers > _FEWEST_STALE and self._stale_timers * 2 > len(self._timers):
            self._timers = [entry for entry in self._timers if entry[2] == entry[3].version]
            heapq.heapify(self._timers)
            self._stale_timers = 0
        if self.on_change is not None:
            self.on_change()

    def _show_when_due(self, message: Message, now_ms: int, hidden: State) -> None:
        if message.visible_ms > now_ms:
            self._hide_until(message, message.visible_ms, hidden)
        else:
            self._make_ready(message)

    def _pop_ready(self, now_ms: int) -> Message | None:
        while self._ready:
            _, _, version, message = heapq.heappop(self._ready)
            if version != message.version:
                continue
            if self._is_expired(message, now_ms):
                self._remove(message, now_ms)
            elif self._is_dead(message):
                self._bury(message, now_ms)
            else:
                return message
        return None

    def _remove(self, message: Message, now_ms: int) -> None:
        was_held = message.state == State.HELD
        self._move(message, State.GONE)
        self._receipts.drop(message)
        del self._messages[message.seq]
        if message.group is None:
            return
        line = self._groups[message.group]
        line.remove(message)
        if not line:
            del self._groups[message.group]
        elif not was_held:
            self._show_when_due(line[0], now_ms, State.DELAYED)

    def _is_expired(self, message: Message, now_ms: int) -> bool:
        return message.enqueue_ms + self.attributes.retention_s * 1000 <= now_ms

    def _is_dead(self, message: Message) -> bool:
        policy = self.dlq
        return policy is not None and policy.enabled and message.dequeue_count >= policy.max_receive_count

    def _bury(self, message: Message, now_ms: int) -> None:
        self._remove(message, now_ms)
        if self.on_dead is not None:
            self.on_dead(message)
