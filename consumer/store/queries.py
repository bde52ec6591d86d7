"""What operators ask of a store: look at ended jobs and dead letters, replay letters, remove them.

It works from another process while the daemon runs. One implementation serves both engines.

A replay has two phases, because queue and store share no transaction:

    begin_replay   one transaction: the letter is ``replaying``, and its key is open again
    (send)         its body goes to its queue
    finish_replay  the letter is ``replayed``
    cancel_replay  instead, when certainly nothing was sent: letter and key are as before

A crash between the phases leaves a letter that is ``replaying``; its replay may be begun again. A caller passes what it
saw of the letter, and a letter that has changed since stays as it is: of two commands at once one sends. A replayed job
that dies again is a new letter.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Protocol, TypeVar

from consumer.errors import UsageError
from consumer.store.ledger import DeadLetterRecord, Filter, JobRecord, LetterState
from consumer.store.rows import JOB_COLUMNS_SQL, LETTER_COLUMNS_SQL, read_letter

_PURGE_STEP: Final = 200

T = TypeVar("T")


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
class StoredJob:
    """An ended job in the ledger."""

    record: JobRecord
    dead: bool  # it ended as a dead letter
    stored_at: float  # UNIX seconds by the store's clock
    cursor: str = field(default="", compare=False)  # its place in the order of ``list_jobs``


@dataclass(frozen=True, slots=True)
class Begun:
    """A replay that has begun, with what is needed to cancel it."""

    before: StoredLetter
    began_at: float  # the letter's ``replayed_at`` until the replay ends
    ended: StoredJob | None  # how its key had ended; ``None`` when it was open


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """What differs between the engines' SQL. ``{}`` stands for a column or a parameter."""

    jobs: str  # the table of jobs, like ``letters``
    letters: str
    mark: str  # what a parameter's number follows
    read_time: str  # a stored time as UNIX seconds
    write_time: str
    for_update: str  # ends a SELECT that locks its rows until the transaction ends
    hash_key: Callable[[str], Sequence[object]]  # what finds a key's job
    has_key: str  # the condition with these parameters
    forget_attempts: str  # with these parameters
    close: str  # inserts an ended job unless its key has ended or runs
    close_values: Callable[[StoredJob], Sequence[object]]
    job_order: Sequence[str]  # the unique columns by which jobs are listed
    read_cursor: str  # these columns of a row as one text
    write_cursor: Sequence[str]  # the values of ``parse_cursor`` as these columns
    parse_cursor: Callable[[str], Sequence[object] | None]


class Session(Protocol):
    """A connection, perhaps in a transaction."""

    async def fetch(self, statement: str, *values: object) -> Sequence[Sequence[Any]]:
        """The rows of a query."""

    async def execute(self, statement: str, *values: object) -> int:
        """The number of rows that a statement has changed."""

    async def now(self) -> float:
        """UNIX seconds by the store's clock."""


class Database(Protocol):
    """An engine's way to run work in a session."""

    dialect: Dialect

    async def run(self, work: Callable[[Session], Awaitable[T]], *, atomic: bool = False) -> T:
        """Run the work, in one transaction if ``atomic``. It may run a second time when a connection is lost.

        Raises:
            StoreError: The store can't be reached or refuses.
        """

    async def close(self) -> None:
        """Close what is open."""


class _Conditions:
    """A WHERE clause and its parameters."""

    def __init__(self, dialect: Dialect, wanted: Filter) -> None:
        self.values: list[object] = []
        self._mark = dialect.mark
        self._texts = ["1 = 1"]
        self.add("queue = {}", wanted.queue)
        self.add("function = {}", wanted.function)
        self.add("job_id = {}", wanted.job_id)
        self.add(f"stored_at >= {dialect.write_time}", wanted.since)

    def __str__(self) -> str:
        return " AND ".join(self._texts)

    def add(self, text: str, *values: object) -> None:
        """Add a condition, unless it has no value."""
        if values in {(), (None,)}:
            return
        first = len(self.values) + 1
        self._texts.append(text.format(*(f"{self._mark}{first + number}" for number in range(len(values)))))
        self.values += values


def _of_letters(dialect: Dialect, wanted: Filter) -> _Conditions:
    where = _Conditions(dialect, wanted)
    where.add("reason = {}", wanted.reason)
    where.add("replay = {}", wanted.state)
    where.add(f"id IN ({', '.join(['{}'] * len(wanted.ids))})", *wanted.ids)
    return where


class Operators:
    """The operators' access to a store. Each call raises ``StoreError`` when the store can't be reached.

    A call about a letter raises ``UsageError`` when there is none of this number.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._dialect = dialect = database.dialect
        stored_at, replayed_at = (dialect.read_time.format(column) for column in ("stored_at", "replayed_at"))
        # Only names of tables and columns, and numbers of parameters, are put into statements.
        self._select_letters = (
            f"SELECT id, replay, {stored_at}, {replayed_at}, {LETTER_COLUMNS_SQL}, {JOB_COLUMNS_SQL}"  # noqa: S608 - as above
            f" FROM {dialect.letters}"
        )
        self._latest_first = ", ".join(f"{column} DESC" for column in dialect.job_order)
        self._select_jobs = (
            f"SELECT {dialect.read_cursor}, dead, {stored_at}, {JOB_COLUMNS_SQL} FROM {dialect.jobs}"  # noqa: S608 - as above
            " WHERE dead IS NOT NULL"
        )

    async def close(self) -> None:
        """Close connections. Nothing has to be opened first."""
        await self._database.close()

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
        where = _of_letters(self._dialect, wanted)
        where.add("id < {}" if latest_first else "id > {}", after)
        order = "DESC" if latest_first else "ASC"
        statement = f"{self._select_letters} WHERE {where} ORDER BY id {order} LIMIT {int(limit)}"
        return [_stored_letter(row) for row in await self._fetch(statement, where.values)]

    async def walk_letters(
        self, wanted: Filter, *, page: int = 100, latest_first: bool = False
    ) -> AsyncIterator[StoredLetter]:
        """Yield each dead letter that matches, in the order of their numbers; one page is in memory."""
        after: int | None = None
        while letters := await self.list_letters(wanted, limit=page, after=after, latest_first=latest_first):
            for stored in letters:
                yield stored
            after = letters[-1].id

    async def count_letters(self, wanted: Filter) -> int:
        """How many dead letters match."""
        where = _of_letters(self._dialect, wanted)
        statement = f"SELECT count(*) FROM {self._dialect.letters} WHERE {where}"  # noqa: S608 - as above
        ((count,),) = await self._fetch(statement, where.values)
        return int(count)

    async def get_letter(self, letter_id: int) -> StoredLetter:
        """One dead letter."""
        return await self._database.run(lambda session: self._get(session, letter_id))

    async def begin_replay(
        self, letter_id: int, *, seen: Progress = NEVER_REPLAYED, force: bool = False
    ) -> Begun | None:
        """Mark a letter as ``replaying`` and open its key again, without failures and starts.

        A letter that is ``replaying`` may have been sent. If its job has been done since, it was: then the letter
        becomes ``replayed`` and its key stays closed, so that the job does not run once more.

        Args:
            letter_id: Its number.
            seen: The letter's progress when it was chosen.
            force: Also replay a letter that was replayed, or whose job was done since.

        Returns:
            ``None`` when its job was done since, without ``force``: send nothing.

        Raises:
            UsageError: Its progress is not what was seen, or it was replayed, without ``force``. Nothing changes.
        """
        dialect = self._dialect

        async def begin(session: Session) -> Begun | None:
            found = await self._get(session, letter_id, lock=True)
            _demand_unchanged(found, seen)
            if found.state is LetterState.REPLAYED and not force:
                raise replayed_already(letter_id, found.replayed_at)
            key = found.letter.job.key
            ended, now = await self._find_ended(session, key), await session.now()
            # The first begin opened the key, so whatever closed it came later.
            done_since = found.state is LetterState.REPLAYING and ended is not None and not ended.dead
            if done_since and not force:
                await self._set_progress(session, letter_id, Progress(LetterState.REPLAYED, now))
                return None
            await self._set_progress(session, letter_id, Progress(LetterState.REPLAYING, now))
            hashed = dialect.hash_key(key)
            await session.execute(f"DELETE FROM {dialect.jobs} WHERE {dialect.has_key} AND dead IS NOT NULL", *hashed)  # noqa: S608 - as above
            await session.execute(dialect.forget_attempts, *hashed)
            return Begun(found, now, ended)

        return await self._database.run(begin, atomic=True)

    async def finish_replay(self, letter_id: int) -> None:
        """Mark a letter as ``replayed``. Idempotent.

        Raises:
            UsageError: Its replay was never begun.
        """

        async def finish(session: Session) -> None:
            state = (await self._get(session, letter_id, lock=True)).state
            if state is LetterState.SET_ASIDE:
                raise UsageError(
                    f"dead letter {letter_id} is {state.value}, expected replaying; begin its replay first"
                )
            if state is LetterState.REPLAYING:
                await self._set_progress(session, letter_id, Progress(LetterState.REPLAYED, await session.now()))

        await self._database.run(finish, atomic=True)

    async def cancel_replay(self, begun: Begun) -> None:
        """Undo the begin of a replay whose body was certainly not sent.

        The letter is as before. A key that was closed is closed again in the same way, unless it has been claimed
        since: then that run ends it. A key that was open stays open: a message of an earlier replay may be on its way.

        Raises:
            UsageError: The letter is gone or in another replay. Nothing changes.
        """

        async def cancel(session: Session) -> None:
            before = begun.before
            found = await self._get(session, before.id, lock=True)
            if found.progress != Progress(LetterState.REPLAYING, begun.began_at):
                raise UsageError(
                    f"dead letter {found.id} is {found.state.value} by another command since its replay was begun;"
                    " it is left alone"
                )
            await self._set_progress(session, before.id, before.progress)
            ended, dialect = begun.ended, self._dialect
            if ended is not None and await session.execute(dialect.close, *dialect.close_values(ended)):
                await session.execute(dialect.forget_attempts, *dialect.hash_key(ended.record.key))

        await self._database.run(cancel, atomic=True)

    async def purge(self, wanted: Filter) -> int:
        """Remove the matching dead letters in small steps and return their number; their keys stay closed."""
        where, letters = _of_letters(self._dialect, wanted), self._dialect.letters
        statement = (
            f"DELETE FROM {letters} WHERE id IN"  # noqa: S608 - as above
            f" (SELECT id FROM {letters} WHERE {where} ORDER BY id LIMIT {_PURGE_STEP})"
        )
        purged = 0
        while removed := await self._database.run(lambda session: session.execute(statement, *where.values)):
            purged += removed
        return purged

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
        if wanted.ids or wanted.reason is not None or wanted.state is not None:
            return []
        dialect = self._dialect
        where = _Conditions(dialect, wanted)
        where.add("dead = {}", dead)
        if after is not None:
            if (values := dialect.parse_cursor(after)) is None:
                raise UsageError(
                    f"unknown cursor {after[:80]!r}: expected the cursor of a listed job; begin with the first page"
                )
            where.add(f"({', '.join(dialect.job_order)}) < ({', '.join(dialect.write_cursor)})", *values)
        statement = f"{self._select_jobs} AND {where} ORDER BY {self._latest_first} LIMIT {int(limit)}"
        return [_stored_job(row) for row in await self._fetch(statement, where.values)]

    async def _fetch(self, statement: str, values: Sequence[object]) -> Sequence[Sequence[Any]]:
        return await self._database.run(lambda session: session.fetch(statement, *values))

    async def _get(self, session: Session, letter_id: int, *, lock: bool = False) -> StoredLetter:
        statement = f"{self._select_letters} WHERE id = {self._dialect.mark}1{self._dialect.for_update if lock else ''}"
        rows = await session.fetch(statement, letter_id)
        if not rows:
            raise unknown_letter(letter_id)
        return _stored_letter(rows[0])

    async def _find_ended(self, session: Session, key: str) -> StoredJob | None:
        """How a key has ended; ``None`` while it is open. Of several rows the last one counts."""
        dialect = self._dialect
        statement = f"{self._select_jobs} AND {dialect.has_key} ORDER BY {self._latest_first} LIMIT 1"
        rows = await session.fetch(statement + dialect.for_update, *dialect.hash_key(key))
        return _stored_job(rows[0]) if rows else None

    async def _set_progress(self, session: Session, letter_id: int, progress: Progress) -> None:
        mark = self._dialect.mark
        await session.execute(
            f"UPDATE {self._dialect.letters} SET replay = {mark}1,"  # noqa: S608 - as above
            f" replayed_at = {self._dialect.write_time.format(f'{mark}2')} WHERE id = {mark}3",
            progress.state.value,
            progress.replayed_at,
            letter_id,
        )


def _stored_letter(row: Sequence[Any]) -> StoredLetter:
    letter_id, state, stored_at, replayed_at = row[:4]
    return StoredLetter(letter_id, read_letter(row[4:]), LetterState(state), stored_at, replayed_at)


def _stored_job(row: Sequence[Any]) -> StoredJob:
    cursor, dead, stored_at = row[:3]
    return StoredJob(JobRecord(*row[3:]), dead=bool(dead), stored_at=stored_at, cursor=cursor)


def unknown_letter(letter_id: int) -> UsageError:
    """The error for a number that no dead letter has."""
    return UsageError(f"no dead letter has the number {letter_id}; see 'mns-consumer dead-letters list'")


def replayed_already(letter_id: int, replayed_at: float | None) -> UsageError:
    """The error for a letter that was replayed, when ``--force`` is missing."""
    when = "before" if replayed_at is None else f"at {datetime.fromtimestamp(replayed_at, UTC):%Y-%m-%d %H:%M:%S} UTC"
    return UsageError(f"dead letter {letter_id} was replayed {when}; say --force to send it once more")


def _demand_unchanged(found: StoredLetter, seen: Progress) -> None:
    if found.progress == seen:
        return
    now = f"and is {found.state.value} now"
    if found.state is seen.state:
        now = "and another command has begun its replay once more since"
    raise UsageError(f"dead letter {found.id} was {seen.state.value} when it was chosen {now}; it is left alone")
