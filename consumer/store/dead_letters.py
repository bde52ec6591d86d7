"""What operators ask of a store: look at what ended and what was set aside, send it again, throw it away.

A replay has two halves, because the queue and the store share no transaction:

    begin_replay   the letter says ``replaying`` and its key is open again, in one transaction
    (send)         the body goes to its queue
    finish_replay  the letter says ``replayed``
    cancel_replay  instead, when it is certain that nothing was sent: letter and key are what they were

A crash between them leaves a letter that says ``replaying``, and it may be begun again. Who begins says what he saw of
the letter, and begins nothing when that is no longer so: of two commands at once one sends. All of this works from
another process while the daemon runs. A replayed job that dies again is a new letter.

Elsewhere: sending (``cli``), the daemon's side of the same store (``store.ledger``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, Protocol

from consumer.errors import UsageError
from consumer.store.ledger import DeadLetter, Filter, JobRecord, LetterState


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a dead letter is on its way back; no two replays of a letter leave the same.

    Args:
        state: Sent again or not.
        replayed_at: As in ``StoredLetter``.
    """

    state: LetterState = LetterState.SET_ASIDE
    replayed_at: float | None = None


@dataclass(frozen=True, slots=True)
class StoredLetter:
    """A dead letter as it lies in the store.

    Args:
        id: Its number; never given to another.
        letter: What was set aside; its times as the daemon wrote them.
        state: How far it is on its way back.
        stored_at: UNIX seconds, by the store's clock.
        replayed_at: When it was last sent again, or that was last begun; ``None`` when never.
    """

    id: int
    letter: DeadLetter
    state: LetterState
    stored_at: float
    replayed_at: float | None = None

    @property
    def progress(self) -> Progress:
        """What a replay is begun from."""
        return Progress(self.state, self.replayed_at)


@dataclass(frozen=True, slots=True)
class StoredJob:
    """A job that has ended, as it lies in the ledger.

    Args:
        record: What is kept of it.
        dead: Whether it ended as a dead letter.
        stored_at: UNIX seconds, by the store's clock.
        cursor: Its place in the order of ``list_jobs``.
    """

    record: JobRecord
    dead: bool
    stored_at: float
    cursor: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Begun:
    """A replay that was begun, with what is needed to call it off.

    Args:
        before: The letter as it was.
        began_at: UNIX seconds, by the store's clock; the letter's ``replayed_at`` until the replay ends.
        ended: How its key had ended; ``None`` when it was open already.
    """

    before: StoredLetter
    began_at: float
    ended: StoredJob | None


NEVER_REPLAYED: Final = Progress()


class Operators(Protocol):
    """The operators' side of a store. Every call raises ``StoreError`` when the store can't be reached."""

    async def close(self) -> None:
        """Let go of connections; nothing needs to be opened first."""

    async def list_letters(
        self, wanted: Filter, *, limit: int, after: int | None = None, latest_first: bool = False
    ) -> Sequence[StoredLetter]:
        """One page of dead letters in the order of their numbers, bodies included.

        Args:
            wanted: The filter.
            limit: The size of the page.
            after: The number of the last letter of the page before; it need not exist any more.
            latest_first: Descending numbers.
        """

    async def count_letters(self, wanted: Filter) -> int:
        """How many dead letters match: what a dry run prints."""

    async def get_letter(self, letter_id: int) -> StoredLetter:
        """One dead letter.

        Raises:
            UsageError: There is none of this number.
        """

    async def begin_replay(
        self, letter_id: int, *, seen: Progress = NEVER_REPLAYED, force: bool = False
    ) -> Begun | None:
        """Mark a letter as being replayed and open its key again, with no failures and no starts.

        A letter that says ``replaying`` may have been sent. When its job has been done since, it was: sent once more
        it would run once more. Then the letter is marked as replayed, which it is, and its key stays closed.

        Args:
            letter_id: Its number.
            seen: The letter's progress when it was chosen.
            force: Also when it was replayed before, or its job was done since.

        Returns:
            ``None`` when its job was done since, and ``force`` is not said: send nothing.

        Raises:
            UsageError: There is none of this number, or its progress is no longer what was seen, or it was replayed
                before and ``force`` is not said; nothing is changed.
        """

    async def finish_replay(self, letter_id: int) -> None:
        """Mark a letter as replayed; saying it twice is fine.

        Raises:
            UsageError: There is none of this number, or its replay was never begun.
        """

    async def cancel_replay(self, begun: Begun) -> None:
        """Undo the begin of a replay whose body is known not to have been sent.

        The letter is what it was. A key that was closed is closed again, as dead or as done as it was, so that nothing
        is left open; unless somebody has claimed it since, whose end counts. One that was open already stays open: a
        message of an earlier replay may be on its way.

        Raises:
            UsageError: The letter is gone, or this is no longer its replay; nothing is changed.
        """

    async def purge(self, wanted: Filter) -> int:
        """Remove the dead letters that match, in small steps; their keys stay closed. Returns how many went."""

    async def list_jobs(
        self, wanted: Filter, *, limit: int, dead: bool | None = None, after: str | None = None
    ) -> Sequence[StoredJob]:
        """One page of the jobs that have ended, the latest first.

        Args:
            wanted: The filter. Jobs have no number, reason or state: a filter with one of them matches none.
            limit: The size of the page.
            dead: Only those that ended as a dead letter (``True``) or as done (``False``).
            after: The cursor of the last job of the page before; the job need not exist any more.

        Raises:
            UsageError: ``after`` is no cursor of this store.
        """


def unknown_letter(letter_id: int) -> UsageError:
    """What is said of a number that no dead letter has."""
    return UsageError(f"no dead letter has the number {letter_id}; see 'mns-consumer dead-letters list'")


def demand_unchanged(found: StoredLetter, seen: Progress) -> None:
    """See that a letter is still what was seen of it.

    Raises:
        UsageError: It is not.
    """
    if found.progress == seen:
        return
    now = f"and is {found.state.value} now"
    if found.state is seen.state:
        now = "and somebody else has begun its replay once more since"
    raise UsageError(f"dead letter {found.id} was {seen.state.value} when it was chosen {now}; it is left alone")


def is_handled(found: StoredLetter, ended: StoredJob | None) -> bool:
    """Whether a letter that was perhaps sent again was sent for certain, because its job has been done since."""
    # The key was opened when its replay was begun, so whatever closed it came later.
    return found.state is LetterState.REPLAYING and ended is not None and not ended.dead


def replayed_already(letter_id: int, replayed_at: float | None) -> UsageError:
    """What is said when a letter that was sent again is to be sent once more."""
    when = "before" if replayed_at is None else f"at {datetime.fromtimestamp(replayed_at, UTC):%Y-%m-%d %H:%M:%S} UTC"
    return UsageError(f"dead letter {letter_id} was replayed {when}; say --force to send it once more")


def demand_begun(found: StoredLetter, begun: Begun) -> None:
    """See that a letter's replay is still the one that was begun.

    Raises:
        UsageError: It is not.
    """
    if found.progress != Progress(LetterState.REPLAYING, begun.began_at):
        raise UsageError(
            f"dead letter {found.id} is {found.state.value} by somebody else's doing since its replay was begun;"
            " it is left alone"
        )


def not_replaying(letter_id: int, state: LetterState) -> UsageError:
    """What is said when the end of a replay is told that never began."""
    return UsageError(f"dead letter {letter_id} is {state.value}, expected replaying; begin its replay first")


def unknown_cursor(text: str) -> UsageError:
    """The error for a cursor that ``list_jobs`` did not give."""
    return UsageError(f"unknown cursor {text[:80]!r}: expected the cursor of a listed job; begin with the first page")
