"""The submissions: which jobs were, or were to be, sent to MPS, and what became of each.

    record -> intent      committed before the call to MPS
           -> submitted   MPS has answered with the JobId
           -> unknown     no answer: the job may exist and be billed. Nothing sends it again
           -> refused     it does not exist: MPS or the network refused the call
    submitted -> ended    the ledger has closed its job
              -> expired  MPS keeps a job for three months, and its end was never reported

MPS has no list of jobs and takes no token against a second submission, so a job that is not recorded can't be found
again (facts/iproduction.md#submit-is-not-idempotent). A process that dies during the call leaves an ``intent``; after
``CALL_LIMIT_S`` it counts as ``unknown``.

Clients, commands and daemons use it at the same time, each by short transactions. The statements are the same on both
engines, and written by hand: a daemon does without SQLAlchemy, which takes 30 MiB.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, fields
from typing import Final, TypeVar

from consumer.errors import UsageError
from consumer.message.notification import job_key
from consumer.policy import SubmissionState
from consumer.store.ledger import COUNT_CAP
from consumer.store.rows import MAX_ERROR_BYTES, cut, fit, key_hash, key_id
from consumer.store.session import Database, Session

T = TypeVar("T")

CALL_LIMIT_S: Final = 120.0
"""After this an ``intent`` has no process any more that waits for MPS's answer: a call takes at most 30 s."""
MAX_REF_CHARACTERS: Final = 200
IS_OPEN: Final = "state IN ('intent', 'submitted', 'unknown')"
"""The condition that finds the open submissions, as ``SubmissionState.open``."""


@dataclass(frozen=True, slots=True)
class NewSubmission:
    """What is to be sent.

    Args:
        queue: The identity of the queue that handles its end: ``account/region/name``.
        request: JSON: the parameters of the call.
        ref: The caller's idempotency key, at most ``MAX_REF_CHARACTERS``; ``None`` for a submission of its own.
    """

    queue: str
    function: str
    request: str
    ref: str | None = None


@dataclass(frozen=True, slots=True)
class Submission:
    """A submission in the store. Times are UNIX seconds by the store's clock; the fields are columns, in this order."""

    id: int
    state: SubmissionState
    ref: str  # a random one where the caller gave none
    call_id: str  # random: of the call that may send it
    queue: str  # ``account/region/name``
    function: str
    request: str  # JSON: the parameters of the call
    created_at: float
    job_id: str | None = None
    request_id: str | None = None  # of MPS's answer
    error: str | None = None
    submitted_at: float | None = None
    closed_at: float | None = None  # when it was ended, expired, refused or unknown
    next_at: float | None = None  # when MPS is asked for it, unless its end is known by then
    asked: int = 0  # how often MPS was asked


@dataclass(frozen=True, slots=True)
class Dialect:
    """What differs between the engines.

    Args:
        numbered: How a numbered parameter begins.
        hashed: A key as the table of jobs finds it.
        words: What stands in braces in the statements below. ``lock`` makes a choice of rows skip those that another
            transaction holds; ``ended`` finds the ended jobs of the hashes at ``{}``; ``newest`` is the place of the
            newest ended job, and ``ended_since`` finds those after the place ``$2``, up to ``$3``.
        longest: The longest stretch between two places that one statement looks at.
    """

    numbered: str
    hashed: Callable[[str], object]
    words: Mapping[str, str]
    longest: float


SQLITE: Final = Dialect(
    "?",
    key_hash,
    {
        "submission": "submission",
        "job": "job",
        "lock": "",
        "ended": "key_hash IN ({})",
        "newest": "coalesce(max(id), 0) FROM job",
        "ended_since": "id > $2 AND id <= $3",
    },
    longest=20_000,  # numbers: it keeps the file locked for about 50 ms
)
POSTGRES: Final = Dialect(
    "$",
    key_id,
    {
        "submission": "mns_consumer_submission",
        "job": "mns_consumer_job",
        "lock": " FOR UPDATE SKIP LOCKED",
        "ended": "key_id IN ({}) AND dead IS NOT NULL",
        # A transaction that began earlier may commit later, so each look begins a minute before the end of the last.
        "newest": "coalesce(max(stored_at), extract(epoch FROM now())::double precision) FROM mns_consumer_job"
        " WHERE dead IS NOT NULL",
        "ended_since": "dead IS NOT NULL AND stored_at > $2 - 60 AND stored_at <= $3",
    },
    longest=600,  # seconds
)

_COLUMNS: Final = ", ".join(field.name for field in fields(Submission))
_RECORD: Final = """INSERT INTO {submission} (state, ref, call_id, queue, function, request, created_at)
VALUES ('intent', $1, $2, $3, $4, $5, $6) ON CONFLICT (ref) DO NOTHING"""
_RECORD_AGAIN: Final = """UPDATE {submission} SET state = 'intent', call_id = $2, queue = $3, function = $4,
request = $5, created_at = $6, error = NULL, closed_at = NULL WHERE ref = $1 AND state = 'refused'"""
_FIND: Final = f"SELECT {_COLUMNS} FROM {{submission}} WHERE "  # noqa: S608 - names of columns
_SUBMITTED: Final = """UPDATE {submission} SET state = 'submitted', job_id = $2, key = $3, request_id = $4,
submitted_at = $5, next_at = $6, closed_at = NULL, error = NULL WHERE id = $1 AND state IN ('intent', 'unknown')"""
_CLOSE: Final = """UPDATE {submission} SET state = $2, error = $3, closed_at = $4, next_at = NULL
WHERE id = $1 AND state IN ('intent', 'submitted')"""
_TAKE_DUE: Final = """UPDATE {submission} SET next_at = $4 WHERE id IN (SELECT id FROM {submission}
WHERE queue = $1 AND next_at <= $2 ORDER BY next_at LIMIT $3{lock}) RETURNING """
_ASK_AGAIN: Final = "UPDATE {submission} SET asked = asked + $2, next_at = $3 WHERE id = $1 AND state = 'submitted'"
_NEWEST: Final = "SELECT {newest}"
_NOTE_ENDED: Final = """UPDATE {submission} SET state = 'ended', closed_at = $1, next_at = NULL
WHERE state = 'submitted' AND key IN (SELECT key FROM {job} WHERE {ended_since})"""
_LOSE: Final = """UPDATE {submission} SET state = 'unknown', closed_at = $2, error = $3 WHERE id IN
(SELECT id FROM {submission} WHERE queue = $1 AND state = 'intent' AND created_at <= $4 LIMIT 1000)"""
_TRACK: Final = """INSERT INTO {submission} (state, ref, call_id, queue, function, request, created_at, job_id, key,
submitted_at, next_at) VALUES ('submitted', $1, '', $2, $3, '{{}}', $4, $5, $6, $4, $4) ON CONFLICT (ref) DO NOTHING"""
_LIST_OPEN: Final = f"{IS_OPEN} AND id < $1 AND ($2 = '' OR queue = $2) ORDER BY id DESC LIMIT $3"
_OPEN_QUEUES: Final = f"SELECT DISTINCT queue FROM {{submission}} WHERE {IS_OPEN}"  # noqa: S608 - a constant
_COUNT: Final = "SELECT count(*) FROM (SELECT 1 FROM {submission} WHERE queue = $1 AND state = $2 LIMIT $3) AS found"
_PRUNE: Final = """DELETE FROM {submission} WHERE id IN
(SELECT id FROM {submission} WHERE closed_at <= $1 ORDER BY closed_at LIMIT $2)"""
_NO_ANSWER: Final = "the process ended before MPS answered: the job may exist and be billed"


class Submissions:
    """A store's submissions. Each call raises ``StoreError`` when the store can't be reached."""

    def __init__(self, database: Database, dialect: Dialect) -> None:
        self._database = database
        self._dialect = dialect

    async def record(self, new: NewSubmission) -> tuple[Submission, bool]:
        """Record the intent to submit a job, on disk when this returns.

        Returns:
            The submission, and whether the caller is to send it. ``False``: there is one with the same ``ref``. One
            that was refused is sent again.

        Raises:
            UsageError: The ``ref`` can't be stored, or another request has the same.
        """
        ref, call_id = _ref(new.ref), secrets.token_hex(8)
        given = (ref, call_id, new.queue, new.function, fit(new.request))

        async def record(session: Session) -> Submission:
            now = await session.now()
            if not await self._execute(session, _RECORD, *given, now):
                await self._execute(session, _RECORD_AGAIN, *given, now)
            (found,) = await self._fetch(session, _FIND + "ref = $1", ref)
            return found

        found = await self._database.run(record, atomic=True)
        is_new = found.call_id == call_id
        if not is_new and (found.queue, found.function, found.request) != given[2:]:
            raise UsageError(
                f"ref {ref!r} belongs to submission {found.id} of {found.function}, whose request differs; expected"
                " the same request again, or another ref"
            )
        return found, is_new

    async def submitted(self, number: int, *, job_id: str, key: str, request_id: str, next_in_s: float) -> None:
        """MPS has accepted a job, whose ledger key is ``key``; it is asked for its end after ``next_in_s`` seconds."""

        async def note(session: Session) -> None:
            now = await session.now()
            await self._execute(session, _SUBMITTED, number, job_id, key, request_id, now, now + next_in_s)

        await self._database.run(note)

    async def close_as(self, number: int, state: SubmissionState, error: str | None = None) -> None:
        """Give an open submission its last state: ``unknown``, ``refused``, ``ended`` or ``expired``."""

        async def note(session: Session) -> None:
            text = error and cut(error, MAX_ERROR_BYTES)
            await self._execute(session, _CLOSE, number, state.value, text, await session.now())

        await self._database.run(note)

    async def get(self, number: int) -> Submission | None:
        """The submission of this number."""
        return await self._one("id = $1", number)

    async def find_ref(self, ref: str) -> Submission | None:
        """The submission with this ``ref``."""
        return await self._one("ref = $1", ref)

    async def find_job(self, job_id: str) -> Submission | None:
        """The submission of this job."""
        return await self._one("job_id = $1", job_id)

    async def track(self, queue: str, job_id: str, function: str = "") -> bool:
        """Record a job that another program has submitted; MPS is asked for it at once. ``False``: it was recorded."""

        async def note(session: Session) -> bool:
            if await self._fetch(session, _FIND + "job_id = $1", job_id):
                return False
            given = (f"tracked/{job_id}", queue, fit(function), await session.now(), job_id, job_key(queue, job_id))
            return bool(await self._execute(session, _TRACK, *given))

        return await self._database.run(note, atomic=True)

    async def list_open(
        self, *, limit: int, queue: str | None = None, before: int | None = None
    ) -> Sequence[Submission]:
        """The open submissions, the latest first, below the number ``before``."""

        async def find(session: Session) -> Sequence[Submission]:
            below = 2**62 if before is None else before
            return await self._fetch(session, _FIND + _LIST_OPEN, below, queue or "", limit)

        return await self._database.run(find)

    async def take_due(self, queue: str, *, limit: int, lease_s: float) -> Sequence[Submission]:
        """Take the open submissions of a queue whose end is due; no other caller gets them for ``lease_s`` seconds.

        Those whose jobs have ended in the ledger are closed and not returned.
        """

        async def take(session: Session) -> Sequence[Submission]:
            now = await session.now()
            found = await self._fetch(session, _TAKE_DUE + _COLUMNS, queue, now, limit, now + lease_s)
            ended = await self._ended(session, [one for one in found if one.job_id])
            for number in ended:
                await self._execute(session, _CLOSE, number, SubmissionState.ENDED.value, None, now)
            return [one for one in found if one.id not in ended]

        return await self._database.run(take, atomic=True)

    async def newest_end(self) -> float:
        """The place of the job that has ended last, for ``note_ended``."""

        async def find(session: Session) -> float:
            ((newest,),) = await session.fetch(self._written(_NEWEST), ())
            return float(newest)

        return await self._database.run(find)

    async def note_ended(self, after: float, until: float) -> None:
        """Close the submissions whose jobs have ended in the ledger between two places.

        A stretch that is too long for one statement, as after an outage, is left out: these are closed when they are
        due.
        """
        if not 0 < until - after <= self._dialect.longest:
            return

        async def note(session: Session) -> None:
            await self._execute(session, _NOTE_ENDED, await session.now(), after, until)

        await self._database.run(note)

    async def ask_again(self, number: int, *, after_s: float, asked: bool) -> None:
        """Ask for a job once more later; ``asked``: MPS has been asked and said that it still runs."""

        async def note(session: Session) -> None:
            await self._execute(session, _ASK_AGAIN, number, int(asked), await session.now() + after_s)

        await self._database.run(note)

    async def lose_intents(self, queue: str) -> int:
        """Count intents whose process has ended as ``unknown``; returns their number."""

        async def note(session: Session) -> int:
            now = await session.now()
            return await self._execute(session, _LOSE, queue, now, _NO_ANSWER, now - CALL_LIMIT_S)

        return await self._database.run(note)

    async def open_queues(self) -> AbstractSet[str]:
        """The queues that have open submissions."""

        async def find(session: Session) -> AbstractSet[str]:
            rows = await session.fetch(self._written(_OPEN_QUEUES), ())
            return frozenset(queue for (queue,) in rows)

        return await self._database.run(find)

    async def count(self, queue: str) -> Mapping[SubmissionState, int]:
        """The number of a queue's open submissions by state, each up to ``COUNT_CAP``."""

        async def count(session: Session) -> Mapping[SubmissionState, int]:
            counts = {}
            for state in SubmissionState.open():
                statement = self._written(_COUNT)
                ((counts[state],),) = await session.fetch(statement, (queue, state.value, COUNT_CAP))
            return counts

        return await self._database.run(count)

    async def prune(self, *, older_than_s: float, limit: int) -> int:
        """Remove at most ``limit`` submissions closed at least ``older_than_s`` seconds ago; returns their number."""

        async def remove(session: Session) -> int:
            return await self._execute(session, _PRUNE, await session.now() - older_than_s, limit)

        return await self._database.run(remove)

    async def close(self) -> None:
        """Close the connections."""
        await self._database.close()

    async def _one(self, condition: str, value: object) -> Submission | None:
        async def find(session: Session) -> Submission | None:
            found = await self._fetch(session, f"{_FIND}{condition} ORDER BY id DESC LIMIT 1", value)
            return found[0] if found else None

        return await self._database.run(find)

    async def _ended(self, session: Session, found: Sequence[Submission]) -> set[int]:
        """The numbers of those whose jobs have ended in the ledger."""
        keys = {job_key(one.queue, one.job_id): one.id for one in found if one.job_id is not None}
        if not keys:
            return set()
        marks = ", ".join(f"${number}" for number in range(1, len(keys) + 1))
        statement = self._written("SELECT key FROM {job} WHERE {ended}").replace("{}", self._numbered(marks))
        rows = await session.fetch(statement, [self._dialect.hashed(key) for key in keys])
        return {keys[key] for (key,) in rows if key in keys}

    async def _fetch(self, session: Session, statement: str, *values: object) -> list[Submission]:
        rows = await session.fetch(self._written(statement), values)
        return [Submission(number, SubmissionState(state), *rest) for number, state, *rest in rows]

    async def _execute(self, session: Session, statement: str, *values: object) -> int:
        return await session.execute(self._written(statement), values)

    def _written(self, statement: str) -> str:
        """A statement as the engine takes it."""
        return self._numbered(statement.format_map(self._dialect.words))

    def _numbered(self, statement: str) -> str:
        return statement.replace("$", self._dialect.numbered)


def _ref(ref: str | None) -> str:
    """The ``ref`` as it is stored.

    Raises:
        UsageError: It can't be stored as it is.
    """
    if ref is None:
        return secrets.token_hex(16)
    if not ref or len(ref) > MAX_REF_CHARACTERS or not ref.isprintable():
        raise UsageError(f"ref {ref[:50]!r}: expected 1 to {MAX_REF_CHARACTERS} printable characters")
    return ref
