"""Hold all queues of the one account, and what is true of them together.

Elsewhere: the rules within a queue (``queue``), waiting (``polls``), the operations (``queue_api``,
``message_api``).
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass

from consumer.sandbox.attributes import QueueAttributes, check_queue_name
from consumer.sandbox.clock import Clock
from consumer.sandbox.message import Draft, Message
from consumer.sandbox.polls import Polls
from consumer.sandbox.queue import Queue
from consumer.sandbox.refusal import MnsError, queue_not_exist
from consumer.sandbox.settings import DlqPolicy, SandboxSettings

_MOST_QUEUES = 1000  # facts/mns.md#limits


@dataclass(slots=True)
class Mailbox:
    """A queue and the polls that wait on it."""

    queue: Queue
    polls: Polls


class Account:
    """The queues by name."""

    def __init__(self, settings: SandboxSettings, clock: Clock) -> None:
        self.clock = clock
        self.held_long_polls = 0
        self.max_long_polls = settings.max_long_polls
        self.small_batches = settings.small_batches
        self._settings = settings
        self._chance = random.Random()  # noqa: S311 - ids, no secrets; never the same twice, for a ledger outlives a sandbox
        self._mailboxes: dict[str, Mailbox] = {}
        self._policies = dict(settings.dlq_policies)
        self._fifo = set(settings.fifo_queues)

    def get(self, name: str) -> Mailbox:
        """Give a queue's mailbox.

        Raises:
            MnsError: QueueNotExist.
        """
        mailbox = self._mailboxes.get(name)
        if mailbox is None:
            raise queue_not_exist()
        return mailbox

    def create(self, name: str, given: Mapping[str, str] | None = None) -> bool:
        """Create a queue.

        Args:
            name: Its name.
            given: Settings by element name; the rest is the service's defaults.

        Returns:
            True when it is new, False when it was there with equal settings.

        Raises:
            MnsError: QueueAlreadyExist when it is there with other settings; InvalidQueueName,
                QueueNameLengthError, InvalidArgument.
        """
        check_queue_name(name)
        attributes = QueueAttributes().changed(given or {})
        there = self._mailboxes.get(name)
        if there is not None:
            if there.queue.attributes == attributes:
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
        queue.on_dead = lambda message: self._bury(queue, message)
        queue.dlq = self._policies.get(name)
        self._mailboxes[name] = Mailbox(queue, Polls(queue, self.clock))
        return True

    def ensure(self, name: str) -> Mailbox:
        """Give a queue's mailbox, created with the defaults where it is missing."""
        if name not in self._mailboxes:
            self.create(name)
        return self._mailboxes[name]

    def delete(self, name: str) -> None:
        """Delete a queue with its messages; its long polls end with QueueNotExist.

        Deleting what isn't there is a success, as the facts name no error of this call.
        """
        mailbox = self._mailboxes.pop(name, None)
        if mailbox is not None:
            mailbox.polls.close()

    def listed(self, prefix: str, marker: str, number: int) -> tuple[list[Queue], str]:
        """Give one page of queues by name, and the marker of the next page ("" at the end)."""
        names = sorted(name for name in self._mailboxes if name.startswith(prefix) and name >= marker)
        page = [self._mailboxes[name].queue for name in names[:number]]
        return page, names[number] if len(names) > number else ""

    def batch_limit(self, asked: int) -> int:
        """Give how many messages a batch receive may bring: all that it asks for, unless batches are to be small."""
        return self._chance.randint(1, asked) if self.small_batches else asked

    def all(self) -> list[Mailbox]:
        """Give every mailbox, by name."""
        return [self._mailboxes[name] for name in sorted(self._mailboxes)]

    def set_dlq(self, name: str, policy: DlqPolicy | None) -> None:
        """Set or clear a queue's dead-letter policy, also for when it is created later.

        Raises:
            MnsError: InvalidArgument when the policy names the queue itself.
        """
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
        """Let a queue that is still to be created keep order within groups.

        Raises:
            MnsError: QueueAlreadyExist when it is there as a normal queue.
        """
        if name in self._mailboxes and not self._mailboxes[name].queue.fifo:
            raise MnsError("QueueAlreadyExist", "A queue's kind can't be changed once it exists.")
        self._fifo.add(name)

    def advance_clock(self, seconds: float) -> None:
        """Move the messages' clock, and let every poll look again."""
        self.clock.advance(seconds)
        for mailbox in self._mailboxes.values():
            mailbox.polls.changed()

    def _bury(self, queue: Queue, message: Message) -> None:
        policy = queue.dlq
        if policy is None:
            return
        arn = f"acs:mns:{self._settings.region}:{self._settings.account}:/queues/{queue.name}"
        draft = Draft(
            message.body,
            message.priority,
            0,
            message.group_id,
            message.user_properties,
            (
                *message.system_properties,
                ("DLQSourceArn", arn, "STRING"),
                ("DLQOriginMessageId", message.message_id, "STRING"),
            ),
        )
        target = self.ensure(policy.dead_letter_target_queue).queue
        target.take(draft, self.clock.now_ms(), enqueue_ms=message.enqueue_ms)
