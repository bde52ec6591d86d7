"""What operators ask of a store: look at what ended and what was set aside, send it again, throw it away.

A replay has two halves, because the queue and the store share no transaction:

    begin_replay   the letter says ``replaying`` and its key is open again, in one transaction
    (send)         the body goes to its queue
    finish_replay  the letter says ``replayed``

A crash between them leaves a letter that says ``replaying``, and it may be begun again. All of this works
from another process while the daemon runs. A replayed job that dies again is a new letter.

Elsewhere: sending (``cli``), the daemon's side of the same store (``store.ledger``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from consumer.errors import UsageError
from consumer.store.ledger import DeadLetter, Filter, JobRecord, LetterState


@dataclass(frozen=True, slots=True)
class StoredLetter:
    """A dead letter as it lies in the store.

    Args:
        id: Its number; never given to another.
        letter: What was set aside; its times as the daemon wrote them.
        state: How far it is on its way back.
        stored_at: UNIX seconds, by the store's clock.
        replayed_at: When it was last sent again; ``None`` when never.
    """

    id: int
    letter: DeadLetter
    state: LetterState
    stored_at: float
    replayed_at: float | None = None


@dataclass(frozen=True, slots=True)
class StoredJob:
    """A job that has ended, as it lies in the ledger.

    Args:
        record: What is kept of it.
        dead: Whether it ended as a dead letter.
        stored_at: UNIX seconds, by the store's clock.
    """

    record: JobRecord
    dead: bool
    stored_at: float


class Operators(Protocol):
    """The operators' side of a store. Every call raises ``StoreError`` when the store can't be reached."""

    async def close(self) -> None:
        """Let go of connections; nothing needs to be opened first."""

    async def list_letters(self, wanted: Filter, *, limit: int, offset: int = 0) -> Sequence[StoredLetter]:
        """Dead letters in the order in which they were stored, bodies included."""

    async def count_letters(self, wanted: Filter) -> int:
        """How many dead letters match: what a dry run prints."""

    async def get_letter(self, letter_id: int) -> StoredLetter:
        """One dead letter.

        Raises:
            UsageError: There is none of this number.
        """

    async def begin_replay(self, letter_id: int, *, force: bool = False) -> StoredLetter:
        """Mark a letter as being replayed and open its key again, with no failures and no starts.

        Raises:
            UsageError: There is none of this number, or it was replayed before and ``force`` is not said.
        """

    async def finish_replay(self, letter_id: int) -> None:
        """Mark a letter as replayed; saying it twice is fine.

        Raises:
            UsageError: There is none of this number, or its replay was never begun.
        """

    async def cancel_replay(self, letter_id: int) -> None:
        """Put a letter back whose body is known not to have been sent; its key stays open.

        Raises:
            UsageError: There is none of this number, or its replay was never begun.
        """

    async def purge(self, wanted: Filter) -> int:
        """Remove the dead letters that match, in small steps; their keys stay closed. Returns how many went."""

    async def list_jobs(self, wanted: Filter, *, limit: int, offset: int = 0) -> Sequence[StoredJob]:
        """Jobs that have ended, the latest first."""


def unknown_letter(letter_id: int) -> UsageError:
    """What is said of a number that no dead letter has."""
    return UsageError(f"no dead letter has the number {letter_id}; see 'mns-consumer dead-letters list'")


def replayed_already(letter_id: int, replayed_at: float | None) -> UsageError:
    """What is said when a letter that was sent again is to be sent once more."""
    when = "before" if replayed_at is None else f"at {datetime.fromtimestamp(replayed_at, UTC):%Y-%m-%d %H:%M:%S} UTC"
    return UsageError(f"dead letter {letter_id} was replayed {when}; say --force to send it once more")


def not_replaying(letter_id: int, state: LetterState) -> UsageError:
    """What is said when the end of a replay is told that never began."""
    return UsageError(f"dead letter {letter_id} is {state.value}, expected replaying; begin its replay first")
