"""The queues of an account in a region, their clock, and the long polls that wait on them."""

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import formatdate
from functools import partial
from typing import Final

from consumer.sandbox.protocol import MnsError, queue_not_exist
from consumer.sandbox.queue import DlqPolicy, Message, Queue, QueueAttributes, check_queue_name
from consumer.sandbox.settings import SandboxSettings

_MOST_QUEUES: Final = 1000  # facts/mns.md#limits


class Clock:
    """Real time plus an offset that tests move, so that a retention of days takes one call.

    The Date header follows it, as clients compare it with NextVisibleTime. The time window of signatures does not:
    the client signs with its own real clock.
    """

    def __init__(self) -> None:
        self.offset_ms = 0
        self._on_move: list[Callable[[], None]] = []

    def now_ms(self) -> int:
        """Milliseconds since 1970, by this clock."""
        return time.time_ns() // 1_000_000 + self.offset_ms

    def advance(self, seconds: float) -> None:
        """Move it (back, when negative), and call everyone who waits by it."""
        self.offset_ms += round(seconds * 1000)
        for call in self._on_move:
            call()

    def when_moved(self, call: Callable[[], None]) -> None:
        """Let this be called each time that the clock is moved."""
        self._on_move.append(call)

    def date_header(self) -> str:
        """The value of the Date header."""
        return formatdate(self.now_ms() // 1000, usegmt=True)


class LongPolls:
    """The long polls that wait on one queue. A change of the queue wakes one of them, and a poll that ends the next.

    A woken poll checks its own connection and takes its messages in the same step, so nothing is dequeued for a client
    that has gone.
    """

    def __init__(self, queue: Queue, clock: Clock) -> None:
        self._queue = queue
        self._clock = clock
        self._waiting: list[asyncio.Event] = []
        self._is_closed = False
        queue.on_change = self.wake

    def __len__(self) -> int:
        return len(self._waiting)

    async def receive(self, limit: int, wait_s: float, is_abandoned: Callable[[], bool]) -> list[Message]:
        """Take 1 to ``limit`` messages, waiting up to ``wait_s`` seconds for the first; none for an abandoned poll.

        QueueNotExist is raised when the queue is deleted meanwhile.
        """
        deadline_s = time.monotonic() + wait_s
        try:
            while not is_abandoned():
                now_ms = self._clock.now_ms()
                taken = self._queue.receive(limit, now_ms)
                left_s = deadline_s - time.monotonic()
                if taken or left_s <= 0:
                    return taken
                due_ms = self._queue.next_due_ms()
                if due_ms is not None:
                    left_s = min(left_s, max(due_ms - now_ms, 1) / 1000)
                await self._wait(left_s)
                if self._is_closed:
                    raise queue_not_exist()
            return []
        finally:
            # The next one takes what this poll left, or waits for what it waited for.
            self.wake()

    def wake(self) -> None:
        """Let one poll look at the queue in the next turn of the loop."""
        for waiter in self._waiting:
            if not waiter.is_set():
                waiter.set()
                return

    def close(self) -> None:
        """End every poll: the queue is deleted."""
        self._is_closed = True
        for waiter in self._waiting:
            waiter.set()

    async def _wait(self, most_s: float) -> None:
        waiter = asyncio.Event()
        timer = asyncio.get_running_loop().call_later(most_s, waiter.set)
        self._waiting.append(waiter)
        try:
            await waiter.wait()
        finally:
            timer.cancel()
            self._waiting.remove(waiter)


@dataclass(slots=True)
class Mailbox:
    """A queue and the long polls that wait on it."""

    queue: Queue
    polls: LongPolls


class Account:
    """The queues by name, and what limits them together."""

    def __init__(self, settings: SandboxSettings, clock: Clock, chance: random.Random) -> None:
        self.clock = clock
        self.held_long_polls = 0
        self.max_long_polls = settings.max_long_polls
        self._settings = settings
        self._chance = chance
        self._mailboxes: dict[str, Mailbox] = {}
        self._policies: dict[str, DlqPolicy] = {}
        self._fifo = set(settings.fifo_queues)
        clock.when_moved(self._wake)
        for name, policy in settings.dlq_policies.items():
            self.set_dlq(name, policy)

    def get(self, name: str) -> Mailbox:
        """Look a queue up; QueueNotExist where there is none."""
        mailbox = self._mailboxes.get(name)
        if mailbox is None:
            raise queue_not_exist()
        return mailbox

    def has(self, name: str) -> bool:
        """Whether there is such a queue."""
        return name in self._mailboxes

    def create(self, name: str, elements: Mapping[str, str] | None = None) -> bool:
        """Create a queue with the attributes of a request's ``<Queue>``; False when an equal one exists.

        Any other one that exists is QueueAlreadyExist; a wrong name or attribute has its own error.
        """
        check_queue_name(name)
        attributes = QueueAttributes().changed(elements or {})
        if name in self._mailboxes:
            if self._mailboxes[name].queue.attributes == attributes:
                return False
            raise MnsError("QueueAlreadyExist", "The queue you want to create is already exist.")
        if len(self._mailboxes) >= _MOST_QUEUES:
            # The code for this is not documented.
            raise MnsError("InvalidArgument", f"An account holds at most {_MOST_QUEUES} queues.")
        queue = Queue(
            name,
            attributes,
            created_ms=self.clock.now_ms(),
            chance=self._chance,
            lenient_handles=self._settings.lenient_handles,
            fifo=name in self._fifo,
            late_ms=round(self._settings.late_redelivery_s * 1000),
        )
        queue.on_dead_letter = partial(self._move_dead_letter, queue)
        queue.dlq = self._policies.get(name)
        self._mailboxes[name] = Mailbox(queue, LongPolls(queue, self.clock))
        return True

    def ensure(self, name: str) -> Mailbox:
        """Look a queue up; create it with the defaults where it is missing."""
        if name not in self._mailboxes:
            self.create(name)
        return self._mailboxes[name]

    def delete(self, name: str) -> None:
        """Delete a queue and end its long polls; a missing queue is no error (facts/mns.md#delete-queue)."""
        mailbox = self._mailboxes.pop(name, None)
        if mailbox is not None:
            mailbox.polls.close()

    def all(self) -> list[Mailbox]:
        """Every queue, by name."""
        return [self._mailboxes[name] for name in sorted(self._mailboxes)]

    def page(self, prefix: str, marker: str, number: int) -> tuple[list[Queue], str]:
        """One page of queues by name, and the marker of the next page ("" after the last)."""
        names = sorted(name for name in self._mailboxes if name.startswith(prefix) and name >= marker)
        queues = [self._mailboxes[name].queue for name in names[:number]]
        return queues, names[number] if len(names) > number else ""

    def batch_limit(self, asked: int) -> int:
        """How many messages a batch receive may bring: fewer than it asks for under ``small_batches``."""
        return self._chance.randint(1, asked) if self._settings.small_batches else asked

    def set_dlq(self, name: str, policy: DlqPolicy | None) -> None:
        """Set or clear the dead-letter policy of a queue, which need not exist yet."""
        if policy is None:
            self._policies.pop(name, None)
        elif policy.dead_letter_target_queue == name:
            raise MnsError("InvalidArgument", "A queue can't be its own dead-letter queue.")
        else:
            check_queue_name(policy.dead_letter_target_queue)
            self._policies[name] = policy
        if name in self._mailboxes:
            self._mailboxes[name].queue.dlq = policy

    def make_fifo(self, name: str) -> None:
        """Make a queue that does not exist yet a FIFO queue."""
        if name in self._mailboxes and not self._mailboxes[name].queue.fifo:
            raise MnsError("QueueAlreadyExist", "A queue's kind can't be changed once it exists.")
        self._fifo.add(name)

    def advance_clock(self, seconds: float) -> None:
        """Move the clock (back, when negative) and wake the long polls of every account."""
        self.clock.advance(seconds)

    def _wake(self) -> None:
        for mailbox in self._mailboxes.values():
            mailbox.polls.wake()

    def _move_dead_letter(self, queue: Queue, message: Message) -> None:
        if queue.dlq is None:
            return
        arn = f"acs:mns:{self._settings.region}:{self._settings.account}:/queues/{queue.name}"
        origin = (("DLQSourceArn", arn, "STRING"), ("DLQOriginMessageId", message.message_id, "STRING"))
        moved = Message(
            message.body,
            message.priority,
            0,
            message.group_id,
            message.user_properties,
            (*message.system_properties, *origin),
        )
        target = self.ensure(queue.dlq.dead_letter_target_queue).queue
        target.enqueue(moved, self.clock.now_ms(), enqueue_ms=message.enqueue_ms)
