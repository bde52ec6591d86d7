"""What the daemon asks of a store: one small interface that both engines fulfil.

The ledger answers one question, "has this job ended before?", and keeps what ended. Dead letters are
messages set aside with their raw bytes. Both live in one store because a message's end closes its key
and files its dead letter in *one* transaction.

    claim() -> Claimed      run it; then exactly one of done / fail / release / bury
            -> Ended        it has ended before: delete the message, run nothing
            -> Elsewhere    another process runs it: come back later

Every write is idempotent: the caller may not know whether the first try went through, and says it again.
Every call raises ``StoreError`` when the store can't be reached; then nothing may be deleted. A call that is
cancelled still runs its course: whoever cancels a claim releases its key. Calls about one key take effect in
the order in which they were made, also when nobody waited for the earlier ones.

Elsewhere: when to call what (``engine.process``, ``engine.settle``), what a key is (``message.key``), what
operators ask of the same store (``store.dead_letters``), which engine a setting means (``store.open``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from consumer.policy import Reason


@dataclass(slots=True)  # not frozen: that costs 0.1 us a field, for every message
class Claimed:
    """The key is ours.

    Args:
        failures: How often its handler has failed before.
        starts: How often a run was written down as started without an end.
    """

    failures: int = 0
    starts: int = 0


@dataclass(frozen=True, slots=True)
class Ended:
    """The key has ended before.

    Args:
        dead: Whether it ended as a dead letter rather than done.
        function: As in the ``JobRecord`` that closed it.
        state: Likewise.
        user_data: Likewise.
    """

    dead: bool
    function: str = ""
    state: str = ""
    user_data: str | None = None


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """Another holder runs it.

    Args:
        remaining_s: Seconds until its claim ends unless it is renewed.
    """

    remaining_s: float


@dataclass(slots=True)  # not frozen: that costs 0.1 us a field, for every message
class JobRecord:
    """What is kept of a job that has ended; the ledger's row. Times are UNIX seconds.

    Args:
        key: The ledger key (``message.key``).
        queue: The queue's identity, ``account/region/name``.
        kind: The message's kind.
        function: FunctionName, or the kind's own name for other kinds.
        job_id: JobId or RunId, where there is one.
        message_id: MNS's MessageId.
        state: The job's state as it came.
        code: The job's code.
        message: The job's message.
        user_data: UserData as text.
        result: The result as text; ``None`` when the handler wanted none.
        attempts: Runs of the handler, this one included.
        enqueued_at: When MNS took the message.
        started_at: When this run began.
        ended_at: When it ended.
    """

    key: str
    queue: str
    kind: str
    function: str
    message_id: str
    job_id: str | None = None
    state: str = ""
    code: str | None = None
    message: str | None = None
    user_data: str | None = None
    result: str | None = None
    attempts: int = 1
    enqueued_at: float = 0.0
    started_at: float = 0.0
    ended_at: float = 0.0


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message set aside, with all that is needed to understand it and to send it again.

    Args:
        job: What is known of its job; ``job.key`` is closed with it.
        reason: Why, as one word of the fixed list.
        error: One sentence: what was expected, what came.
        traceback: The handler's traceback, cut; ``None`` where none was raised.
        body: The raw bytes as MNS handed them out, untouched.
        dequeue_count: How often MNS had handed it out.
        first_dequeued_at: UNIX seconds.
    """

    job: JobRecord
    reason: Reason
    error: str
    body: bytes
    traceback: str | None = None
    dequeue_count: int = 1
    first_dequeued_at: float = 0.0


@dataclass(frozen=True, slots=True)
class LettersHeld:
    """What a store holds of dead letters that are not replayed.

    Args:
        letters: How many.
        size_bytes: Their bodies and texts together, in bytes.
    """

    letters: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class WaitingLetters:
    """The dead letters of one queue and reason that are not replayed.

    Args:
        queue: The queue's identity, ``account/region/name``.
        reason: Why they were set aside.
        count: Number of letters, at least 1.
        size_bytes: Their bodies and texts together.
        oldest_at: When the oldest was stored: UNIX seconds by the store's clock.
    """

    queue: str
    reason: Reason
    count: int
    size_bytes: int
    oldest_at: float


class LetterState(StrEnum):
    """How far a dead letter is on its way back."""

    SET_ASIDE = "set_aside"
    """Never sent again."""
    REPLAYING = "replaying"
    """Its key is open again; whether its body was sent is not known until the replay is finished."""
    REPLAYED = "replayed"
    """Sent to its queue again."""


class Standby(Protocol):
    """Keeps a ledger's claims while its event loop is blocked: used in another thread's event loop."""

    async def renew(self, keys: Sequence[str], lease_s: float) -> Sequence[str]:
        """See ``Ledger.renew``; a key that is not known to be lost counts as ours.

        Raises:
            StoreError: The store can't be reached.
        """

    async def take_back_starts(self, keys: Sequence[str]) -> None:
        """Take back the starts that our claims have written down; the claims stay.

        Raises:
            StoreError: As above.
        """

    async def close(self) -> None:
        """Let go of what was opened for this."""


class Ledger(Protocol):
    """The daemon's side of a store.

    Except for ``close``, each call raises ``StoreError`` when the store can't be reached or takes no writes;
    the same call may be made again and finds the store as soon as it is back.
    """

    async def open(self) -> None:
        """Get ready: check the schema, take ownership.

        Raises:
            StoreError: Out of reach; ``StoreBusyError``, ``StoreSchemaError`` where another try is no use.
        """

    async def close(self) -> None:
        """Let go, after every write that was accepted is on disk. Closing twice is fine."""

    async def claim(self, key: str, lease_s: float) -> Claimed | Ended | Elsewhere:
        """Take a key for ``lease_s`` seconds, unless it has ended or somebody holds it.

        A holder finds its own claim ``Elsewhere`` too, until it lets go or the lease ends.

        Raises:
            ValueError: ``lease_s`` is not finite or not above 0: a bug in the caller.
        """

    async def renew(self, keys: Sequence[str], lease_s: float) -> Sequence[str]:
        """Keep claims that are ours; returns the keys that are ours no longer.

        A claim whose lease has ended is still ours as long as nobody has taken it over.

        Raises:
            ValueError: As for ``claim``, also with no keys.
        """

    async def start(self, key: str) -> int:
        """Write down that a run begins, once a claim; returns the starts without an end, this one included.

        A key that is not ours is left alone; then the starts it has are returned.
        """

    async def done(self, record: JobRecord) -> bool:
        """Close a key as done.

        Returns:
            ``True`` when it is closed by us, also when said again; ``False`` when the claim is no longer
            ours or the key has ended otherwise (then nothing is written).
        """

    async def fail(self, key: str, error: str) -> int:
        """Count one failure of the handler, end its start, and let go; returns the failures so far.

        A key that is not ours is left alone; then the failures it has are returned.
        """

    async def release(self, key: str) -> None:
        """Let go without counting anything; also takes back a start that was written down."""

    async def bury(self, letter: DeadLetter) -> bool:
        """Store a dead letter and close its key, in one transaction.

        The error is cut to 2 KiB, the traceback to 16 KiB; text that a database refuses (NUL, halves of
        surrogate pairs) is replaced by U+FFFD. The body stays byte for byte.

        Returns:
            As ``done``; said again it stores no second letter.
        """

    async def prune(self, *, older_than_s: float, limit: int, letters_older_than_s: float | None = None) -> int:
        """Remove at most ``limit`` old records; call again while it returns ``limit``.

        Args:
            older_than_s: Age, by the store's own clock, past which ended jobs, replayed dead letters and the
                failures of keys that never ended go; in seconds.
            limit: The size of one step, so that messages never wait long behind it.
            letters_older_than_s: Age past which dead letters go that nobody replayed; ``None`` keeps them.

        Returns:
            How many records went.
        """

    async def waiting(self) -> Sequence[WaitingLetters]:
        """Count the dead letters that are not replayed, by queue and reason, in their order; no row means none.

        Scans an index: about 30 ms for 100,000 letters on SQLite.
        """

    async def letters_held(self) -> LettersHeld:
        """Sum up ``waiting``."""

    async def now(self) -> float:
        """UNIX seconds by the clock that the store's times are written by: this computer's, or the database's."""

    async def ping(self) -> None:
        """Prove that the store answers and takes writes; raises ``StoreError`` when not."""

    def busy_s(self) -> float:
        """For how many seconds the disk has been at the call that it is carrying out; 0 between two calls.

        Answered from memory, also while the disk hangs. A database on the network answers or fails within its own
        time-outs: there it is always 0.
        """

    async def watch(self) -> None:
        """Return when the store is closed.

        Raises:
            StoreDiedError: It will answer no more calls in this process.
        """

    def standby(self) -> Standby:
        """What keeps the claims while this ledger's event loop is blocked; may be called from any thread."""


@dataclass(frozen=True, slots=True)
class Filter:
    """Which records an operator asks for; every field that is given must match.

    Args:
        queue: The queue's identity, ``account/region/name``.
        function: FunctionName, or the kind's own name.
        reason: Why it was set aside; no job that was done has one.
        job_id: JobId or RunId.
        since: Stored at or after this time, UNIX seconds.
        ids: Numbers of dead letters; empty means any. Jobs have no numbers: these match none.
        state: How far a dead letter is on its way back; jobs have none: any state matches none.
    """

    queue: str | None = None
    function: str | None = None
    reason: Reason | None = None
    job_id: str | None = None
    since: float | None = None
    ids: Sequence[int] = field(default=())
    state: LetterState | None = None
