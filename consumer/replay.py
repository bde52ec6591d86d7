"""Replay: send dead letters to their queues again.

    choose          which letters, without their bodies
    replay_letters  for each letter in turn:
      begin_replay    the letter is ``replaying``, and its key is open
      send            its body, byte for byte
      finish_replay   the letter is ``replayed``
      cancel_replay   instead, if the body was certainly not sent: letter and key are what they were

A letter shows at any moment how far its replay is. If it is unknown whether the body was sent, the letter stays
``replaying`` and an operator decides; unless its job has been done since, because then it was sent. An error of the
queue as a whole ends the replay for that queue: its other letters are not begun.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import anyio

from consumer.cloud.clients import open_clients
from consumer.cloud.faults import surely_not_sent
from consumer.cloud.mns import MnsQueue
from consumer.config import QueueSettings
from consumer.errors import CloudError, Fault, StoreError, UsageError
from consumer.store.ledger import Begun, Filter, LetterState, Progress, StoredLetter
from consumer.store.queries import Operators, replayed_already


class ReplayOutcome(StrEnum):
    """What the replay of one letter did."""

    REPLAYED = "replayed"
    NOT_SENT = "not_sent"
    """Certainly not sent; the letter is what it was."""
    UNKNOWN = "unknown"
    """Perhaps sent; the letter is ``replaying``."""
    NOT_TRIED = "not_tried"
    """Its queue failed for an earlier letter; this one is what it was."""
    CHANGED = "changed"
    """Another operator replayed or purged it meanwhile; this replay did nothing."""
    HANDLED = "handled"
    """Perhaps sent by an earlier replay, and its job was done since; it was not sent now, and is ``replayed``."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A dead letter to replay, as it was when it was chosen; without its body, because there may be very many."""

    id: int
    progress: Progress
    reason: str
    function: str
    job_id: str | None
    queue: str

    @classmethod
    def of(cls, stored: StoredLetter) -> Candidate:
        """A letter without its body."""
        job = stored.letter.job
        return cls(stored.id, stored.progress, stored.letter.reason.value, job.function, job.job_id, job.queue)


@dataclass(frozen=True, slots=True)
class Chosen:
    """The letters to replay, and how many matched but were left alone."""

    letters: Sequence[Candidate]
    replayed: int = 0
    """Replayed before: these need ``force``."""
    unknown: int = 0
    """An earlier replay was interrupted: these may have been sent."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """The end of one letter's replay: the new message's id if it was sent, otherwise one line that says why not."""

    letter: Candidate
    outcome: ReplayOutcome
    message_id: str | None = None
    error: str | None = None


async def choose(operators: Operators, wanted: Filter, *, force: bool = False) -> Chosen:
    """Choose the letters to replay; changes nothing.

    A filter chooses letters that were never replayed. If it names numbers or the state ``replaying``, it also chooses
    those whose replay was interrupted.
    ``force`` chooses whatever matches.

    Raises:
        UsageError: A number is unknown, or its letter was replayed and ``force`` is false.
    """
    if wanted.ids:
        named = [await operators.get_letter(letter_id) for letter_id in dict.fromkeys(wanted.ids)]
        for stored in named:
            if stored.state is LetterState.REPLAYED and not force:
                raise replayed_already(stored.id, stored.replayed_at)
        return Chosen([Candidate.of(stored) for stored in named])
    found = [Candidate.of(stored) async for stored in operators.walk_letters(wanted)]
    if force:
        return Chosen(found)
    meant = {LetterState.SET_ASIDE, wanted.state} - {LetterState.REPLAYED}
    left = Counter(one.progress.state for one in found if one.progress.state not in meant)
    letters = [one for one in found if one.progress.state in meant]
    return Chosen(letters, left[LetterState.REPLAYED], left[LetterState.REPLAYING])


def queues_of(letters: Sequence[Candidate], lanes: Sequence[QueueSettings]) -> Mapping[str, QueueSettings]:
    """Find the lane of each letter's queue, by the queue's identity.

    Raises:
        UsageError: A letter's queue is not in the settings; nothing was begun.
    """
    known = {lane.url.identity: lane for lane in lanes}
    for one in letters:
        if one.queue not in known:
            raise UsageError(
                f"dead letter {one.id} is of the queue {one.queue}, expected one of the settings' queues"
                f" ({', '.join(known) or 'none'}); name it by --notify-url, or choose others by --queue;"
                " nothing was replayed"
            )
    return {queue: known[queue] for queue in dict.fromkeys(one.queue for one in letters)}


async def replay_letters(
    operators: Operators,
    letters: Sequence[Candidate],
    lanes: Sequence[QueueSettings],
    *,
    force: bool = False,
    rate: float | None = None,
    group_id: str | None = None,
    ca_file: Path | None = None,
) -> AsyncIterator[Replayed]:
    """Replay letters one by one, at most ``rate`` a second; yields each result at once.

    ``lanes`` are all queues of the settings. ``force`` replays letters that were replayed before, or whose job was done
    since they were perhaps sent. ``group_id`` is the MessageGroupId for FIFO queues.

    Raises:
        UsageError: A letter's queue is not in the settings; nothing was begun.
        StoreError: The store failed; the text says what became of the letter in progress.
    """
    failed: dict[str, str] = {}
    async with AsyncExitStack() as stack:
        queues = {
            identity: (await stack.enter_async_context(open_clients(lane, ca_file=ca_file))).queue
            for identity, lane in queues_of(letters, lanes).items()
        }
        next_at = anyio.current_time()
        for one in letters:
            if one.queue in failed:
                error = f"its queue failed before: {failed[one.queue]}"
                yield Replayed(one, ReplayOutcome.NOT_TRIED, error=error)
                continue
            if rate is not None:
                await anyio.sleep_until(next_at)
                next_at = anyio.current_time() + 1 / rate
            result, queue_failure = await _replay(operators, queues[one.queue], one, force=force, group_id=group_id)
            if queue_failure is not None:
                failed[one.queue] = queue_failure
            yield result


async def _replay(
    operators: Operators, queue: MnsQueue, letter: Candidate, *, force: bool, group_id: str | None
) -> tuple[Replayed, str | None]:
    """Replay one letter; returns the result, and the queue's error if its other letters would fail, too."""
    try:
        begun = await operators.begin_replay(letter.id, seen=letter.progress, force=force)
    except UsageError as error:
        return Replayed(letter, ReplayOutcome.CHANGED, error=str(error)), None
    if begun is None:
        return Replayed(letter, ReplayOutcome.HANDLED), None
    try:
        message_id = await queue.send(begun.before.letter.body, group_id=group_id)
    except CloudError as error:
        result = await _not_acknowledged(operators, letter, begun, error)
        # A refused body says nothing about the next one.
        return result, None if error.fault is Fault.REQUEST else f"{error.code}: {error.detail}"
    try:
        await operators.finish_replay(letter.id)
    except (StoreError, UsageError) as error:
        raise StoreError(
            f"dead letter {letter.id} was sent as message {message_id}, but could not be marked as replayed: {error}"
        ) from error
    return Replayed(letter, ReplayOutcome.REPLAYED, message_id), None


async def _not_acknowledged(operators: Operators, letter: Candidate, begun: Begun, error: CloudError) -> Replayed:
    if not surely_not_sent(error):
        text = f"unknown whether it was sent; it stays replaying, look into the queue before the next try: {error}"
        return Replayed(letter, ReplayOutcome.UNKNOWN, error=text)
    try:
        await operators.cancel_replay(begun)
    except (StoreError, UsageError) as failure:
        raise StoreError(
            f"dead letter {letter.id} was not sent ({error.code}), but may stay replaying: {failure}"
        ) from error
    return Replayed(letter, ReplayOutcome.NOT_SENT, error=f"it was not sent and is what it was: {error}")
