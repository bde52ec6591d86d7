"""What MNS's answers become: messages with their receipts, failed deletes, a queue's attributes.

Values only. Times of the server's own clock are Unix seconds; the end of a lease is on this process's
monotonic clock, so that a step of the wall clock can neither lose a lease nor stretch it.

Elsewhere: reading the answers (``answer``), asking for them (``mns``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(slots=True)  # not frozen: that costs 0.1 us a field, for every message
class Receipt:
    """The right to delete or hide one message, for a while.

    Args:
        handle: The newest receipt handle; a later one kills it.
        expires_at: End of the lease in seconds of ``time.monotonic``: NextVisibleTime minus the answer's
            Date minus 1 s, counted from the answer's arrival.
    """

    handle: str
    expires_at: float


@dataclass(frozen=True, slots=True)
class Peeked:
    """A message as peeking shows it: nobody holds it, so it has no receipt.

    Args:
        message_id: 32 hex digits; stays the same over redeliveries.
        body: The body's bytes as they were transmitted; base64, where used, is not undone here.
        enqueued_at: When it was sent, Unix seconds of the server's clock.
        first_dequeued_at: When it was first received, likewise.
        dequeue_count: How often it was received, this time included.
        priority: 1 (first) to 16.
        group_id: MessageGroupId of a FIFO queue.
        user_properties: Name to value, types left out.
        system_properties: Likewise, such as ``traceparent``.
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


@dataclass(slots=True)  # not frozen: that costs 0.1 us a field, for every message
class Message:
    """A message that was received and is held by us; fields as in ``Peeked``.

    Args:
        receipt: The way back: what deletes or hides it.
    """

    message_id: str
    body: bytes
    receipt: Receipt
    enqueued_at: float
    first_dequeued_at: float
    dequeue_count: int
    priority: int
    group_id: str | None
    user_properties: Mapping[str, str]
    system_properties: Mapping[str, str]


@dataclass(slots=True)
class Batch:
    """What one receive brought.

    Args:
        messages: 0 to 16; none when the queue was empty.
        elapsed_s: From asking to the whole answer. An empty one that came much sooner than the wait asked
            for means: poll less (facts/mns.md#too-many-long-polls).
        server_offset_s: The server's clock minus ours. The Date header is whole seconds, so a difference
            within that is 0; anything else is good to half a second.
        problems: One line for each oddity: an entry that was skipped because an essential field is missing (it stays
            in its queue), a body that is not what its MD5 says (it is among the messages all the same, for skipped
            it would silently come back until its retention ends), and one for all messages beyond those asked for.
    """

    messages: Sequence[Message]
    elapsed_s: float
    server_offset_s: float
    problems: Sequence[str] = field(default=())


@dataclass(slots=True)
class DeleteFailure:
    """One handle that a batch delete did not delete.

    Args:
        handle: As it was given.
        code: The service's error code.
        gone: The handle is dead: the lease is lost, or the message was deleted already.
        retryable: The same handle may be deleted by trying again.
        detail: The service's own words, cut.
    """

    handle: str
    code: str
    gone: bool
    retryable: bool
    detail: str


@dataclass(slots=True)
class QueueAttributes:
    """How a queue is set up (facts/mns.md#get-queue-attributes).

    Args:
        name: The queue's name.
        visibility_timeout_s: For how long a receive hides a message.
        retention_s: After how long MNS drops a message silently.
        polling_wait_s: The long poll of a receive that names none.
        delay_s: The delay of a message that names none.
        max_message_bytes: The largest body.
        active_messages: Waiting; the service withdraws these three counts: ``None`` when they are missing.
        inactive_messages: Received and not yet deleted.
        delayed_messages: Not yet visible for the first time.
        created_at: Unix seconds.
        modified_at: Unix seconds.
        dlq_policy: The queue's own dead-letter policy as text; ``None`` when the answer has none.
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
