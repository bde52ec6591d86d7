"""Send dead letters to their queues again, one after the other, so that each shows at any moment how far it is.

    begin_replay   it says replaying, and its key is open
    send           its body, byte for byte
    finish_replay  it says replayed
    cancel_replay  instead, when it is certain that nothing was sent: it is what it was, and its key is closed

Where nobody knows whether it was sent, it goes on saying replaying: an operator decides, never this program; unless its
job has been done since, for then it was. What fails for the queue as a whole fails once: the queue's other letters are
not begun.

Elsewhere: which letters (``cli.dead_letters``), the two halves in the store (``store.queries``).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from enum import StrEnum

import anyio

from consumer.cloud.clients import open_clients
from consumer.cloud.faults import surely_not_sent
from consumer.cloud.mns import MnsQueue
from consumer.config import QueueSettings, Settings
from consumer.errors import CloudError, Fault, StoreError, UsageError
from consumer.store.queries import Begun, Operators, Progress, StoredLetter


class Outcome(StrEnum):
    """What became of one letter."""

    REPLAYED = "replayed"
    NOT_SENT = "not_sent"
    """Certainly not; the letter is what it was."""
    UNKNOWN = "unknown"
    """Perhaps; the letter says replaying."""
    NOT_TRIED = "not_tried"
    """Its queue failed before it; the letter is what it was."""
    CHANGED = "changed"
    """Somebody else replayed or purged it meanwhile; it was left alone."""
    HANDLED = "handled"
    """Perhaps sent before, and its job was done meanwhile; nothing was sent now, and the letter says replayed."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """A dead letter that is to be replayed, without its body: there may be very many.

    Args:
        id: Its number.
        progress: How far it was when it was chosen.
        reason: Why it was set aside.
        function: FunctionName or kind.
        job_id: JobId or RunId.
        queue: Its queue's identity.
    """

    id: int
    progress: Progress
    reason: str
    function: str
    job_id: str | None
    queue: str

    @classmethod
    def of(cls, stored: StoredLetter) -> Chosen:
        """What is kept of a letter while it waits for its turn."""
        job = stored.letter.job
        return cls(stored.id, stored.progress, stored.letter.reason.value, job.function, job.job_id, job.queue)


@dataclass(frozen=True, slots=True)
class Replayed:
    """How the replay of one letter ended.

    Args:
        chosen: The letter.
        outcome: What became of it.
        message_id: MNS's id of the new message, where it was sent.
        error: One line of why not.
    """

    chosen: Chosen
    outcome: Outcome
    message_id: str | None = None
    error: str | None = None


def lanes_for(settings: Settings, chosen: Sequence[Chosen]) -> Mapping[str, QueueSettings]:
    """Find the queue of each letter.

    Raises:
        UsageError: The settings do not have one of them; nothing was begun.
    """
    lanes = {lane.url.identity: lane for lane in settings.all_lanes()}
    for one in chosen:
        if one.queue not in lanes:
            known = ", ".join(lanes) or "none"
            raise UsageError(
                f"dead letter {one.id} is of the queue {one.queue}, expected one of the settings' queues ({known});"
                " name it by --notify-url, or choose others by --queue; nothing was replayed"
            )
    return {identity: lanes[identity] for identity in dict.fromkeys(one.queue for one in chosen)}


async def replay_letters(
    operators: Operators,
    settings: Settings,
    chosen: Sequence[Chosen],
    *,
    force: bool,
    rate: float | None,
    group_id: str | None = None,
) -> AsyncIterator[Replayed]:
    """Replay letters one by one, and tell of each as soon as it has ended.

    Args:
        operators: The store.
        settings: Where the queues are.
        chosen: Which letters.
        force: Also those that were replayed before, or whose job was done since they were perhaps sent.
        rate: At most so many a second; ``None`` is as fast as the queue takes them.
        group_id: MessageGroupId, for FIFO queues.

    Raises:
        UsageError: A letter's queue is none of the settings'; nothing was begun.
        StoreError: The store can't be reached; says what became of the letter under way.
    """
    lanes = lanes_for(settings, chosen)
    failed: dict[str, str] = {}
    async with AsyncExitStack() as stack:
        queues = {
            identity: (await stack.enter_async_context(open_clients(lane, ca_file=settings.ca_file))).queue
            for identity, lane in lanes.items()
        }
        next_at = anyio.current_time()
        for one in chosen:
            if one.queue in failed:
                yield Replayed(one, Outcome.NOT_TRIED, error=f"its queue failed before: {failed[one.queue]}")
                continue
            if rate is not None:
                await anyio.sleep_until(next_at)
                next_at = anyio.current_time() + 1 / rate
            ended, queue_failure = await _replay(operators, queues[one.queue], one, force=force, group_id=group_id)
            if queue_failure is not None:
                failed[one.queue] = queue_failure
            yield ended


async def _replay(
    operators: Operators, queue: MnsQueue, chosen: Chosen, *, force: bool, group_id: str | None
) -> tuple[Replayed, str | None]:
    """Replay one letter; beside how it ended, why its queue takes no others either."""
    try:
        begun = await operators.begin_replay(chosen.id, seen=chosen.progress, force=force)
    except UsageError as error:
        return Replayed(chosen, Outcome.CHANGED, error=str(error)), None
    if begun is None:
        return Replayed(chosen, Outcome.HANDLED), None
    try:
        message_id = await queue.send(begun.before.letter.body, group_id=group_id)
    except CloudError as error:
        ended = await _not_acknowledged(operators, chosen, begun, error)
        # A refused body says nothing of the next one.
        return ended, None if error.fault is Fault.REQUEST else f"{error.code}: {error.detail}"
    try:
        await operators.finish_replay(chosen.id)
    except (StoreError, UsageError) as error:
        raise StoreError(
            f"dead letter {chosen.id} was sent as message {message_id}, but could not be marked as replayed: {error}"
        ) from error
    return Replayed(chosen, Outcome.REPLAYED, message_id), None


async def _not_acknowledged(operators: Operators, chosen: Chosen, begun: Begun, error: CloudError) -> Replayed:
    if not surely_not_sent(error):
        told = f"nobody knows whether it was sent; it says replaying, look into the queue before the next try: {error}"
        return Replayed(chosen, Outcome.UNKNOWN, error=told)
    try:
        await operators.cancel_replay(begun)
    except (StoreError, UsageError) as failure:
        raise StoreError(
            f"dead letter {chosen.id} was not sent ({error.code}), but may go on saying replaying: {failure}"
        ) from error
    return Replayed(chosen, Outcome.NOT_SENT, error=f"it was not sent and is left as it was: {error}")
