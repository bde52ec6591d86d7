"""What differs between the engines: the table of jobs.

SQLAlchemy writes the statements; an engine's ``Database`` carries them out on its own connection. Not SQLAlchemy's:
behind a pooler it would leave prepared statements in sessions of other programs.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Final, TypeAlias

from sqlalchemy import (
    ColumnElement,
    Delete,
    Dialect,
    Insert,
    ScalarSelect,
    Select,
    Table,
    Update,
    case,
    delete,
    exists,
    false,
    func,
    insert,
    literal,
    null,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite

from consumer.store import tables
from consumer.store.ledger import StoredJob
from consumer.store.rows import JOB_COLUMNS, OPEN_COLUMNS, job_values, key_hash, key_id

Statement: TypeAlias = Select[Any] | Update | Delete | Insert

_CLOCK_STEP_S: Final = 86_400.0
"""How far a clock may be set back: a machine that took its time zone's time for UTC is off by less."""


class Engine(ABC):
    """What differs between the engines: the table of jobs."""

    dialect: Dialect
    jobs: Table
    letters: Table
    runs: Table
    job_order: Sequence[ColumnElement[Any]]
    """The unique columns by which jobs are listed."""

    def written(self, statement: Statement) -> tuple[str, list[object]]:
        """A statement as the engine's SQL, and the values of its parameters in their order."""
        options = {"render_postcompile": True}  # as many parameters as a list has values
        written = statement.compile(dialect=self.dialect, compile_kwargs=options)
        return written.string, [written.params[name] for name in written.positiontup or ()]

    def in_time(self, table: Table, since: float | None, until: float | None) -> Sequence[ColumnElement[bool]]:
        """The conditions that find the rows stored at ``since`` or later, and before ``until``."""
        stored = table.c.stored_at
        found = [] if since is None else [stored >= since]
        return found if until is None else [*found, stored < until]

    @abstractmethod
    def has_key(self, *keys: str) -> ColumnElement[bool]:
        """The condition that finds the jobs of these keys."""

    @abstractmethod
    def runs_of(self, *keys: str) -> ColumnElement[bool]:
        """The condition that finds the stored runs of these keys."""

    @abstractmethod
    def open_jobs(self, now: float, *, running: bool | None) -> Select[Any]:
        """Of each open key that is held (``running``), of which a run has ended and that is not held, or either.

        The columns: key, function, job id, failures, error, since, held until, retry at, holder.
        """

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
    runs = tables.SQLITE_RUNS
    job_order = (jobs.c.id,)

    dialect = SQLiteDialect_pysqlite()

    def in_time(self, table: Table, since: float | None, until: float | None) -> Sequence[ColumnElement[bool]]:
        """See ``Engine.in_time``. Numbers rise with time, so that the listing's own order ends where the time does.

        A clock that was set back has put later rows at earlier times: up to ``_CLOCK_STEP_S`` they are found too.
        """
        found = [*super().in_time(table, since, until)]
        if since is not None:
            found.append(table.c.id >= _first_id(table, since - _CLOCK_STEP_S))
        return found if until is None else [*found, table.c.id < _first_id(table, until + _CLOCK_STEP_S)]

    def has_key(self, *keys: str) -> ColumnElement[bool]:
        """See ``Engine.has_key``."""
        return self.jobs.c.key_hash.in_(map(key_hash, keys)) & self.jobs.c.key.in_(keys)

    def runs_of(self, *keys: str) -> ColumnElement[bool]:
        """See ``Engine.runs_of``."""
        return self.runs.c.key_hash.in_(map(key_hash, keys)) & self.runs.c.key.in_(keys)

    def open_jobs(self, now: float, *, running: bool | None) -> Select[Any]:  # noqa: ARG002 - as the other engine's
        """See ``Engine.open_jobs``. The file does not say what its daemon holds."""
        attempts = tables.SQLITE_ATTEMPTS
        fields = (
            attempts.c.stored_at.label("since"),
            null().label("held_until"),
            attempts.c.retry_at,
            null().label("holder"),
        )
        return select(*_about_open(attempts), *fields).where(false() if running else _has_run(attempts))

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


def _first_id(table: Table, time: float) -> ScalarSelect[int]:
    """The first number stored at a time or later, found by halving."""
    row = table.alias()
    # Not the lowest number too: SQLite finds one end of an index at once, but scans it for both.
    span = select(literal(0).label("low"), (func.max(row.c.id) + 1).label("high")).cte(recursive=True)
    low, high = span.c
    middle = (low + high) // 2
    is_before = select(row.c.stored_at).where(row.c.id >= middle).order_by(row.c.id).limit(1).scalar_subquery() < time
    half = select(case((is_before, middle + 1), else_=low), case((is_before, high), else_=middle)).where(low < high)
    halves = span.union_all(half)
    return select(halves.c.low).where(halves.c.low == halves.c.high).scalar_subquery()


class PostgresEngine(Engine):
    """A key has a row while it is open too. Several jobs may end at one time: the key decides among them."""

    jobs = tables.POSTGRES_JOBS
    letters = tables.POSTGRES_LETTERS
    runs = tables.POSTGRES_RUNS
    job_order = (jobs.c.stored_at, jobs.c.key_id)

    dialect = PGDialect_asyncpg()  # type: ignore[no-untyped-call]  # as it comes

    def has_key(self, *keys: str) -> ColumnElement[bool]:
        """See ``Engine.has_key``."""
        return self.jobs.c.key_id.in_(map(key_id, keys))

    def runs_of(self, *keys: str) -> ColumnElement[bool]:
        """See ``Engine.runs_of``."""
        return self.runs.c.key_id.in_(map(key_id, keys))

    def open_jobs(self, now: float, *, running: bool | None) -> Select[Any]:
        """See ``Engine.open_jobs``."""
        column = self.jobs.c
        is_held = func.coalesce(column.held_until > now, false())
        held_until = case((is_held, column.held_until), else_=None)
        retry_at = case((is_held, None), else_=column.retry_at)
        holder = case((is_held, column.holder), else_=None)
        fields = (column.claimed_at.label("since"), held_until, retry_at, holder)
        has_run = _has_run(self.jobs)
        wanted = {True: is_held, False: ~is_held & has_run, None: is_held | has_run}
        return select(*_about_open(self.jobs), *fields).where(column.dead.is_(None), wanted[running])

    def forget_attempts(self, key: str) -> Update:
        """See ``Engine.forget_attempts``. An ended job keeps its function and id."""
        column = self.jobs.c
        of_open = {name: case((column.dead.is_(None), None), else_=column[name]) for name in OPEN_COLUMNS}
        return update(self.jobs).where(self.has_key(key)).values({**of_open, **_NO_ATTEMPTS})

    def close(self, job: StoredJob, now: float) -> Insert:
        """See ``Engine.close``. Like a claim, it takes over a key whose lease has ended."""
        row = _ended_row(job, now)
        column = self.jobs.c
        statement = upsert(self.jobs).values(key_id=key_id(job.record.key), claimed_at=now, **row)
        return statement.on_conflict_do_update(
            index_elements=[column.key_id],
            set_={**dict.fromkeys(OPEN_COLUMNS), **_NO_ATTEMPTS, **row, "holder": None, "held_until": None},
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


_NO_ATTEMPTS: Final = {"failures": 0, "starts": 0, "started": False}


def _about_open(table: Table) -> Sequence[ColumnElement[Any]]:
    column = table.c
    return (column.key, column.function, column.job_id, column.failures, column.error)


def _has_run(table: Table) -> ColumnElement[bool]:
    """Whether a run of an open key has ended; of one of before revision 0003 only its failures are known."""
    return or_(table.c.failures > 0, table.c.function.is_not(None))


def _ended_row(job: StoredJob, now: float) -> dict[str, Any]:
    return {"dead": job.dead, "stored_at": now, **dict(zip(JOB_COLUMNS, job_values(job.record), strict=True))}
