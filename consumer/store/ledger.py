"""The ledger: which jobs have ended, who may run the others, and the dead letters. Both engines implement it.

    claim() -> Claimed      run the job, then call exactly one of done, fail, release, set_aside
            -> Ended        the job has ended: delete the message, run nothing
            -> Elsewhere    another process runs the job: retry later

A dead letter is stored and its key closed in one transaction.

Every write is idempotent: a caller that got no answer repeats the call. A call raises ``StoreError`` when the store
can't be reached; then no message may be deleted. A cancelled call still takes effect, so release the key of a
cancelled claim. Calls about one key take effect in the order in which they were made, awaited or not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Protocol, Self, TypeAlias

from consumer.policy import Reason


@dataclass(slots=True)  # not frozen: 0.1 us a field for every message
class Claimed:
    """The key is ours."""

    failures: int = 0  # failed runs of the handler so far
    starts: int = 0  # recorded starts without an end
    trace_parent: str | None = None  # of the last run that left the job open, as in ``RunRecord``


@dataclass(frozen=True, slots=True)
class Ended:
    """The job has ended; the texts are those of its record."""

    dead: bool  # it ended as a dead letter
    function: str = ""
    state: str = ""
    user_data: str | None = None


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """Another claim on the key is running."""

    remaining_s: float  # seconds until that claim ends unless it is renewed


ClaimAnswer: TypeAlias = Claimed | Ended | Elsewhere


@dataclass(slots=True)  # not frozen: 0.1 us a field for every message
class JobRecord:
    """What the ledger keeps of an ended job. Times are UNIX seconds; the fields are the columns, in their order."""

    key: str
    queue: str  # ``account/region/name``
    kind: str
    function: str  # FunctionName, or the kind's name for other kinds
    message_id: str
    job_id: str | None = None  # JobId or RunId
    state: str = ""  # as received, like ``code`` and ``message``
    code: str | None = None
    message: str | None = None
    user_data: str | None = None
    result: str | None = None  # ``None`` when the handler wanted none
    attempts: int = 1  # runs of the handler, this one included
    enqueued_at: float = 0.0  # when MNS took the message
    started_at: float = 0.0  # when this run started
    ended_at: float = 0.0


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A run that has left its job open: a failure, or one that does not count.

    The run that ends a job is in its ``JobRecord``. Times are UNIX seconds by the daemon's clock; the fields are the
    columns, in their order.
    """

    key: str
    queue: str  # ``account/region/name``
    function: str  # as in ``JobRecord``
    message_id: str
    job_id: str | None
    attempt: int  # its number, from 1; a run that does not count and the next one have the same
    started_at: float
    ended_at: float
    result: str  # in one word
    error: str  # one sentence: what came, or what it waits for
    traceback: str | None = None  # in the store only with the last run of the same error
    retry_at: float | None = None  # when the message is delivered again; ``None`` where there is no message
    trace_parent: str | None = None  # its span, in the form of W3C's ``traceparent``


@dataclass(frozen=True, slots=True)
class DeadLetterRecord:
    """A message set aside, with all that is needed to understand it and to send it again."""

    job: JobRecord  # ``job.key`` is closed with the letter
    reason: Reason
    error: str  # one sentence: what was expected, what came
    body: bytes  # the raw bytes as MNS returned them
    traceback: str | None = None
    dequeue_count: int = 1
    first_dequeued_at: float = 0.0  # UNIX seconds
    error_fingerprint: str = ""  # equal for letters of one cause; empty where it is unknown
    hook_at: float | None = None  # UNIX seconds at which its hook is due; 0: from the start; None: none is due

    @property
    def size_bytes(self) -> int:
        """What it counts towards the limit: its body and its long texts."""
        texts = (self.error, self.traceback, self.job.message, self.job.user_data, self.job.result)
        return len(self.body) + sum(len(text.encode(errors="replace")) for text in texts if text)


@dataclass(frozen=True, slots=True)
class WaitingLetters:
    """The dead letters of one queue and reason that are not replayed."""

    queue: str  # ``account/region/name``
    reason: Reason
    count: int  # at least 1
    size_bytes: int  # bodies and texts
    oldest_at: float  # when the oldest was stored: UNIX seconds by the store's clock


@dataclass(frozen=True, slots=True)
class LettersHeld:
    """The dead letters of a store that are not replayed; ``size_bytes`` counts bodies and texts."""

    letters: int
    size_bytes: int

    @classmethod
    def of(cls, groups: Sequence[WaitingLetters]) -> Self:
        """The sum of all groups."""
        return cls(sum(group.count for group in groups), sum(group.size_bytes for group in groups))


class LetterState(StrEnum):
    """How far the replay of a dead letter is."""

    SET_ASIDE = "set_aside"
    """Never replayed."""
    REPLAYING = "replaying"
    """Its key is open again; whether its body was sent is unknown until the replay is finished."""
    REPLAYED = "replayed"
    """Sent to its queue again."""


COUNT_CAP: Final = 10_000
"""Operators' counts end here: a higher one costs more than it says."""


@dataclass(frozen=True, slots=True)
class Filter:
    """Which records an operator asks for; each given field must match."""

    queue: str | None = None  # ``account/region/name``
    function: str | None = None
    reason: Reason | None = None  # matches dead letters only
    job_id: str | None = None
    since: float | None = None  # stored at or after this time, UNIX seconds
    until: float | None = None  # stored before this time
    ids: Sequence[int] = ()
    """Numbers of dead letters; empty means any. Matches dead letters only."""
    state: LetterState | None = None  # matches dead letters only
    error: str | None = None
    """Text in the error; ASCII letters match in either case. Matches dead letters only."""
    error_fingerprint: str | None = None  # matches dead letters only

    @property
    def is_of_letters(self) -> bool:
        """Whether only dead letters can match."""
        return bool(self.ids) or any((self.reason, self.state, self.error, self.error_fingerprint))


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the replay of a letter is; no two replays of a letter have the same."""

    state: LetterState = LetterState.SET_ASIDE
    replayed_at: float | None = None  # as in ``StoredLetter``


NEVER_REPLAYED: Final = Progress()


@dataclass(frozen=True, slots=True)
class StoredLetter:
    """A dead letter in the store. Times are UNIX seconds by the store's clock."""

    id: int  # its number, never given to another letter
    letter: DeadLetterRecord
    state: LetterState
    stored_at: float
    replayed_at: float | None = None  # when its last replay was begun or finished

    @property
    def progress(self) -> Progress:
        """What a replay is begun from."""
        return Progress(self.state, self.replayed_at)


@dataclass(frozen=True, slots=True)
class LetterGroup:
    """The dead letters of one fingerprint. Times are UNIX seconds by the store's clock."""

    reason: Reason  # of the latest letter, as the two texts
    function: str
    error: str
    error_fingerprint: str
    count: int
    first_at: float  # when the first was stored
    last_at: float
    latest: int  # the highest number of a letter


@dataclass(frozen=True, slots=True)
class LetterCount:
    """The dead letters of one function and reason. Times are UNIX seconds by the store's clock."""

    function: str
    reason: Reason
    count: int
    errors: int  # fingerprints among them
    first_at: float  # when the first was stored
    last_at: float
    latest: int  # the highest number of a letter


@dataclass(frozen=True, slots=True)
class StoredJob:
    """An ended job in the ledger."""

    record: JobRecord
    dead: bool  # it ended as a dead letter
    stored_at: float  # UNIX seconds by the store's clock
    cursor: str = field(default="", compare=False)  # its place in the order of ``list_jobs``


@dataclass(frozen=True, slots=True)
class LetterOfJob:
    """What a dead letter says of the end of its job."""

    id: int
    reason: Reason
    error: str


@dataclass(frozen=True, slots=True)
class OpenJob:
    """A job that has begun and not ended."""

    key: str
    queue: str  # ``account/region/name``
    function: str | None  # known once a run has ended, as ``error`` and ``retry_at``
    job_id: str | None
    failures: int
    error: str | None  # of the last run
    since: float  # when its last run ended or it was claimed: UNIX seconds by the store's clock
    held_until: float | None  # when the claim of the daemon that runs it ends; SQLite keeps claims in the daemon alone
    retry_at: float | None  # when its message is delivered again; ``None`` while it runs
    holder: str | None = None  # the random id of the daemon that runs it, where the store keeps claims

    @property
    def attempt(self) -> int:
        """The number of its present or next run."""
        return self.failures + 1


@dataclass(frozen=True, slots=True)
class Begun:
    """A replay that has begun, with what is needed to cancel it."""

    before: StoredLetter
    began_at: float  # the letter's ``replayed_at`` until the replay ends
    ended: StoredJob | None  # how its key had ended; ``None`` when it was open


class Standby(Protocol):
    """Keeps a ledger's claims while its event loop is blocked. Used in the event loop of another thread.

    ``renew`` and ``take_back_starts`` raise ``StoreError`` when the store can't be reached.
    """

    async def renew(self, keys: Sequence[str], lease_s: float) -> Sequence[str]:
        """See ``Ledger.renew``; a key counts as ours unless the store says that it is lost."""

    async def take_back_starts(self, keys: Sequence[str]) -> None:
        """Undo the starts that our claims have recorded; the claims stay."""

    async def close(self) -> None:
        """Release the standby's own resources."""


class Ledger(Protocol):
    """The daemon's access to a store.

    Each call but ``close`` raises ``StoreError`` when the store can't be reached or takes no writes. The call may be
    repeated; it succeeds once the store is back.
    """

    async def open(self) -> None:
        """Take ownership, and check the tables: a new store gets them, a file of an earlier revision is migrated.

        Raises:
            StoreError: Out of reach. ``StoreBusyError`` and ``StoreSchemaError``: another try can't succeed.
        """

    async def close(self) -> None:
        """Close the store once every accepted write is on disk. Idempotent."""

    async def claim(self, key: str, lease_s: float) -> ClaimAnswer:
        """Claim a key for ``lease_s`` seconds, unless its job has ended or another claim runs.

        A holder's own claim is ``Elsewhere`` too, until it is released or its lease ends.

        Raises:
            ValueError: ``lease_s`` is not finite or not above 0: a bug in the caller.
        """

    async def renew(self, keys: Sequence[str], lease_s: float) -> Sequence[str]:
        """Renew our claims; returns the keys whose claim is lost.

        A claim whose lease has ended is still ours until another holder takes it.

        Raises:
            ValueError: As for ``claim``, also without keys.
        """

    async def start(self, key: str) -> int:
        """Record that a run starts, at most once a claim; returns the starts without an end, this one included.

        A key that is not ours does not change; then its present number is returned.
        """

    async def done(self, record: JobRecord) -> bool:
        """Close a key as done.

        Returns:
            ``True`` when this holder has closed it, now or by an earlier call; ``False`` when the claim is lost or
            the key was closed otherwise. Then nothing is written.
        """

    async def fail(self, run: RunRecord) -> int:
        """Store a failed run and count it, undo its start and release the key; returns the failures so far.

        All in one transaction. Of a key's runs the last ``rows.RUNS_KEPT`` are kept. Texts are cut as by ``set_aside``.
        A key that is not ours does not change; then its present number is returned.
        """

    async def release(self, key: str, run: RunRecord | None = None) -> None:
        """Release a key and undo its recorded start; counts nothing. ``run`` is stored as by ``fail``."""

    async def set_aside(self, letter: DeadLetterRecord) -> bool:
        """Store a dead letter and close its key, in one transaction, once. Returns as ``done``.

        The error is cut to 2 KiB, the traceback to 16 KiB; characters that a database refuses (NUL, halves of
        surrogate pairs) become U+FFFD. The body stays byte for byte.
        """

    async def take_due_hooks(self, queue: str, *, limit: int, least_s: float, most_s: float) -> Sequence[StoredLetter]:
        """Take the letters of one queue whose hook is due and that no replay has taken, the longest due first.

        In the same step each becomes due again, after as many seconds as its letter is old, at least ``least_s`` and
        at most ``most_s``. So no other holder takes it meanwhile, a hook that fails or whose process dies is tried
        again with growing pauses, and nothing else has to be written for that.
        """

    async def hook_done(self, letter_id: int) -> None:
        """The hook has succeeded with a letter: it is due no more. A number without a letter changes nothing."""

    async def prune(self, *, older_than_s: float, limit: int, letters_older_than_s: float | None = None) -> int:
        """Remove at most ``limit`` old records and return their number; repeat while it equals ``limit``.

        Small steps keep messages from waiting behind it.

        Args:
            older_than_s: Age in seconds, by the store's clock, of ended jobs, stored runs, replayed dead letters and
                the failures of keys that never ended.
            limit: Rows of one step.
            letters_older_than_s: Age of dead letters that were not replayed; ``None`` keeps them.
        """

    async def waiting(self) -> Sequence[WaitingLetters]:
        """Count the dead letters that are not replayed, by queue and reason, in their order; no row means none.

        Scans an index: about 40 ms for 100,000 letters on SQLite.
        """

    async def now(self) -> float:
        """UNIX seconds by the clock of the store's times: this computer's, or the database's."""

    async def ping(self) -> None:
        """Prove by a write that the store works."""

    def is_migrating(self) -> bool:
        """Whether ``open`` is migrating the store, which may take minutes."""

    def busy_s(self) -> float:
        """Seconds that the disk has needed so far for the call in progress; 0 between calls.

        Answered from memory, also while the disk hangs. Always 0 for a database on the network, which answers or fails
        within its own time-outs.
        """

    async def watch(self) -> None:
        """Return when the store is closed.

        Raises:
            StoreDiedError: It answers no more calls in this process.
        """

    def standby(self) -> Standby:
        """Make what keeps the claims while this ledger's event loop is blocked; callable from any thread."""
