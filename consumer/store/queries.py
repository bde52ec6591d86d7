"""What operators ask of a store: look at ended jobs and dead letters, replay letters, remove them.

It works from another process while the daemon runs. SQLAlchemy writes the statements, once for both engines; an
engine's ``Database`` carries them out on its own connection. Not SQLAlchemy's: behind a pooler it would leave prepared
statements in sessions of other programs.

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

import re
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Final, Protocol, TypeVar

from sqlalchemy import (
    ColumnElement,
    Delete,
    Dialect,
    Insert,
    Select,
    Table,
    Update,
    delete,
    exists,
    func,
    insert,
    literal,
    select,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite

from consumer.errors import UsageError
from consumer.policy import Reason
from consumer.store import tables
from consumer.store.ledger import (
    NEVER_REPLAYED,
    Begun,
    DeadLetterRecord,
    Filter,
    JobRecord,
    LetterState,
    Progress,
    StoredJob,
    StoredLetter,
)
from consumer.store.rows import JOB_COLUMNS, LETTER_COLUMNS, job_values, key_hash, key_id

_PURGE_STEP: Final = 200

T = TypeVar("T")


class Session(Protocol):
    """A connection, perhaps in a transaction."""

    async def fetch(self, statement: str, values: Sequence[object]) -> Sequence[Sequence[Any]]:
        """The rows of a query."""

    async def execute(self, statement: str, values: Sequence[object]) -> int:
        """The number of rows that a statement has changed."""

    async def now(self) -> float:
        """UNIX seconds by the store's clock."""


class Database(Protocol):
    """An engine's way to run work in a session."""

    async def run(self, work: Callable[[Session], Awaitable[T]], *, atomic: bool = False) -> T:
        """Run the work, in one transaction if ``atomic``. It may run a second time when a connection is lost.

        Raises:
            StoreError: The store can't be reached or refuses.
        """

    async def close(self) -> None:
        """Close what is open."""


class Engine(ABC):
    """What differs between the engines: the table of jobs."""

    dialect: Dialect
    jobs: Table
    letters: Table
    job_order: Sequence[ColumnElement[Any]]
    """The unique columns by which jobs are listed."""

    @abstractmethod
    def has_key(self, key: str) -> ColumnElement[bool]:
        """The condition that finds a key's job."""

    @abstractmethod
    def forget_attempts(self, key: str) -> Update | Delete:
        """Forget the failures and starts of a key. It may even run: that run continues."""

    @abstractmethod
    def close(self, job: StoredJob, now: float) -> Insert:
        """Insert an ended job, unless its key has ended or runs."""

    @abstractmethod
    def cursor(self, order: Sequence[Any]) -> str:
        """The values of ``job_order`` as text."""

    @abstractmethod
    def parse_cursor(self, text: str) -> Sequence[Any] | None:
        """The values of ``job_order``; ``None`` when the text is no cursor of this engine."""


class SqliteEngine(Engine):
    """Jobs are numbered in the order of their ends."""

    jobs = tables.SQLITE_JOBS
    letters = tables.SQLITE_LETTERS
    job_order = (jobs.c.id,)

    dialect = SQLiteDialect_pysqlite()

    def has_key(self, key: str) -> ColumnElement[bool]:
        """See ``Engine.has_key``."""
        return (self.jobs.c.key_hash == key_hash(key)) & (self.jobs.c.key == key)

    def forget_attempts(self, key: str) -> Delete:
        """See ``Engine.forget_attempts``."""
        return delete(tables.SQLITE_ATTEMPTS).where(tables.SQLITE_ATTEMPTS.c.key == key)

    def close(self, job: StoredJob, now: float) -> Insert:
        """See ``Engine.close``. Only the daemon's memory knows whether the key runs; a later row counts."""
        key = job.record.key
        row = {"key_hash": key_hash(key), "holder": "", **_ended_row(job, now)}
        values = select(*(literal(value, self.jobs.c[name].type) for name, value in row.items()))
        return insert(self.jobs).from_select(list(row), values.where(~exists().where(self.has_key(key))))

    def cursor(self, order: Sequence[Any]) -> str:
        """See ``Engine.cursor``."""
        return str(order[0])

    def parse_cursor(self, text: str) -> Sequence[Any] | None:
        """See ``Engine.parse_cursor``."""
        return [int(text)] if re.fullmatch(r"\d{1,18}", text, re.ASCII) else None


class PostgresEngine(Engine):
    """A key has a row while it is open too. Several jobs may end at one time: the key decides among them."""

    jobs = tables.POSTGRES_JOBS
    letters = tables.POSTGRES_LETTERS
    job_order = (jobs.c.stored_at, jobs.c.key_id)

    dialect = PGDialect_asyncpg()  # type: ignore[no-untyped-call]  # as it comes

    def has_key(self, key: str) -> ColumnElement[bool]:
        """See ``Engine.has_key``."""
        return self.jobs.c.key_id == key_id(key)

    def forget_attempts(self, key: str) -> Update:
        """See ``Engine.forget_attempts``."""
        return update(self.jobs).where(self.has_key(key)).values(_NO_ATTEMPTS)

    def close(self, job: StoredJob, now: float) -> Insert:
        """See ``Engine.close``. Like a claim, it takes over a key whose lease has ended."""
        row = _ended_row(job, now)
        column = self.jobs.c
        statement = upsert(self.jobs).values(key_id=key_id(job.record.key), claimed_at=now, **row)
        return statement.on_conflict_do_update(
            index_elements=[column.key_id],
            set_={**row, **_NO_ATTEMPTS, "holder": None, "held_until": None},
            where=column.dead.is_(None) & (column.held_until.is_(None) | (column.held_until <= now)),
        )

    def cursor(self, order: Sequence[Any]) -> str:
        """See ``Engine.cursor``."""
        stored_at, key = order
        return f"{stored_at}-{key.hex()}"

    def parse_cursor(self, text: str) -> Sequence[Any] | None:
        """See ``Engine.parse_cursor``."""
        found = re.fullmatch(r"(\d{1,12}\.\d{1,9})-([0-9a-f]{32})", text, re.ASCII)
        return None if found is None else [float(found[1]), bytes.fromhex(found[2])]


_NO_ATTEMPTS: Final = {"failures": 0, "starts": 0, "started": False, "error": None}


def _ended_row(job: StoredJob, now: float) -> dict[str, Any]:
    return {"dead": job.dead, "stored_at": now, **dict(zip(JOB_COLUMNS, job_values(job.record), strict=True))}


class Operators:
    """The operators' access to a store. Each call raises ``StoreError`` when the store can't be reached.

    A call about a letter raises ``UsageError`` when there is none of this number.
    """

    def __init__(self, database: Database, engine: Engine) -> None:
        self._database = database
        self._engine = engine
        jobs, letters = engine.jobs.c, engine.letters.c
        self._letters = select(
            *(letters[name] for name in ("id", "replay", "stored_at", "replayed_at", *LETTER_COLUMNS, *JOB_COLUMNS))
        )
        self._jobs = select(
            *engine.job_order, jobs.dead, jobs.stored_at.label("ended"), *(jobs[name] for name in JOB_COLUMNS)
        ).where(jobs.dead.is_not(None))
        self._latest_first = [column.desc() for column in engine.job_order]

    async def close(self) -> None:
        """Close what is open."""
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
        number = self._engine.letters.c.id
        statement = self._letters.where(*self._of_letters(wanted)).limit(limit)
        if after is not None:
            statement = statement.where(number < after if latest_first else number > after)
        statement = statement.order_by(number.desc() if latest_first else number)
        return [_stored_letter(row) for row in await self._fetch(statement)]

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
        statement = select(func.count()).select_from(self._engine.letters).where(*self._of_letters(wanted))
        ((count,),) = await self._fetch(statement)
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
        engine = self._engine

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
            is_ended = engine.has_key(key) & engine.jobs.c.dead.is_not(None)
            await self._execute(session, delete(engine.jobs).where(is_ended))
            await self._execute(session, engine.forget_attempts(key))
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
            ended, engine = begun.ended, self._engine
            if ended is not None and await self._execute(session, engine.close(ended, await session.now())):
                await self._execute(session, engine.forget_attempts(ended.record.key))

        await self._database.run(cancel, atomic=True)

    async def purge(self, wanted: Filter) -> int:
        """Remove the matching dead letters in small steps and return their number; their keys stay closed."""
        letters = self._engine.letters
        step = select(letters.c.id).where(*self._of_letters(wanted)).order_by(letters.c.id).limit(_PURGE_STEP)
        statement = delete(letters).where(letters.c.id.in_(step))
        purged = 0
        while removed := await self._database.run(lambda session: self._execute(session, statement)):
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
        engine = self._engine
        statement = self._jobs.where(*_of_records(engine.jobs, wanted)).order_by(*self._latest_first).limit(limit)
        if dead is not None:
            statement = statement.where(engine.jobs.c.dead.is_(dead))
        if after is not None:
            if (values := engine.parse_cursor(after)) is None:
                raise UsageError(
                    f"unknown cursor {after[:80]!r}: expected the cursor of a listed job; begin with the first page"
                )
            statement = statement.where(tuple_(*engine.job_order) < tuple_(*values))
        return [self._stored_job(row) for row in await self._fetch(statement)]

    async def _fetch(self, statement: Select[Any]) -> Sequence[Sequence[Any]]:
        return await self._database.run(lambda session: session.fetch(*self._written(statement)))

    async def _execute(self, session: Session, statement: Update | Delete | Insert) -> int:
        return await session.execute(*self._written(statement))

    def _written(self, statement: Select[Any] | Update | Delete | Insert) -> tuple[str, list[object]]:
        """The statement as the engine's SQL, and the values of its parameters in their order."""
        options = {"render_postcompile": True}  # as many parameters as a list has values
        written = statement.compile(dialect=self._engine.dialect, compile_kwargs=options)
        return written.string, [written.params[name] for name in written.positiontup or ()]

    async def _get(self, session: Session, letter_id: int, *, lock: bool = False) -> StoredLetter:
        statement = self._letters.where(self._engine.letters.c.id == letter_id)
        rows = await session.fetch(*self._written(statement.with_for_update() if lock else statement))
        if not rows:
            raise unknown_letter(letter_id)
        return _stored_letter(rows[0])

    async def _find_ended(self, session: Session, key: str) -> StoredJob | None:
        """How a key has ended; ``None`` while it is open. Of several rows the last one counts."""
        statement = self._jobs.where(self._engine.has_key(key)).order_by(*self._latest_first).limit(1)
        rows = await session.fetch(*self._written(statement.with_for_update()))
        return self._stored_job(rows[0]) if rows else None

    async def _set_progress(self, session: Session, letter_id: int, progress: Progress) -> None:
        letters = self._engine.letters
        marks = {"replay": progress.state.value, "replayed_at": progress.replayed_at}
        await self._execute(session, update(letters).where(letters.c.id == letter_id).values(marks))

    def _stored_job(self, row: Sequence[Any]) -> StoredJob:
        width = len(self._engine.job_order)
        dead, stored_at, *record = row[width:]
        return StoredJob(JobRecord(*record), bool(dead), stored_at, self._engine.cursor(row[:width]))

    def _of_letters(self, wanted: Filter) -> list[ColumnElement[bool]]:
        letters = self._engine.letters
        conditions = _of_records(letters, wanted)
        if wanted.reason is not None:
            conditions.append(letters.c.reason == wanted.reason.value)
        if wanted.state is not None:
            conditions.append(letters.c.replay == wanted.state.value)
        if wanted.ids:
            conditions.append(letters.c.id.in_(wanted.ids))
        return conditions


def _of_records(table: Table, wanted: Filter) -> list[ColumnElement[bool]]:
    given = {"queue": wanted.queue, "function": wanted.function, "job_id": wanted.job_id}
    conditions = [table.c[name] == value for name, value in given.items() if value is not None]
    if wanted.since is not None:
        conditions.append(table.c.stored_at >= wanted.since)
    return conditions


def _stored_letter(row: Sequence[Any]) -> StoredLetter:
    letter_id, state, stored_at, replayed_at, *values = row
    letter = dict(zip(LETTER_COLUMNS, values, strict=False))
    record = DeadLetterRecord(job=JobRecord(*values[len(letter) :]), **{**letter, "reason": Reason(letter["reason"])})
    return StoredLetter(letter_id, record, LetterState(state), stored_at, replayed_at)


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
