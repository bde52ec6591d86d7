"""What operators read: jobs that have ended and dead letters, by filters, page by page, counted, in groups.

Pages go by key, forwards and backwards: ``after`` and ``before`` name the last record of the page before and the first
one of the page after, which need not exist any more. Reading never waits for the daemon, nor it for a reader: each page
is a query of its own.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import fields
from typing import Any, Final

from sqlalchemy import ColumnElement, Select, Table, func, literal, literal_column, select, tuple_
from sqlalchemy.sql.dml import ReturningDelete

from consumer.errors import UsageError
from consumer.message.notification import job_keys, job_of, key_pieces
from consumer.policy import Reason
from consumer.store.ledger import (
    COUNT_CAP,
    Filter,
    JobRecord,
    LetterCount,
    LetterGroup,
    LetterOfJob,
    OpenJob,
    RunRecord,
    StoredJob,
    StoredLetter,
)
from consumer.store.queries.engine import Engine
from consumer.store.rows import JOB_COLUMNS, RUN_COLUMNS, STORED_LETTER_COLUMNS, read_letter
from consumer.store.session import Database, Session

_MOST_OF_A_JOB: Final = 200
_NOT_BY_NAME: Final = {"ids", "since", "until", "state", "error"}
_BY_NAME: Final = tuple(field.name for field in fields(Filter) if field.name not in _NOT_BY_NAME)
"""Fields of a filter that a column of the same name equals."""


class Reader:
    """Reads a store. Each call raises ``StoreError`` when the store can't be reached, or a query takes too long."""

    def __init__(self, database: Database, engine: Engine) -> None:
        self._database = database
        self._engine = engine
        jobs, letters = engine.jobs.c, engine.letters.c
        self._letters = select(*(letters[name] for name in STORED_LETTER_COLUMNS))
        self._jobs = select(
            *engine.job_order, jobs.dead, jobs.stored_at.label("ended"), *(jobs[name] for name in JOB_COLUMNS)
        ).where(jobs.dead.is_not(None))

    async def close(self) -> None:
        """Close what is open."""
        await self._database.close()

    async def list_letters(
        self,
        wanted: Filter,
        *,
        limit: int,
        after: int | None = None,
        before: int | None = None,
        latest_first: bool = False,
    ) -> Sequence[StoredLetter]:
        """One page of dead letters in the order of their numbers, bodies included.

        Args:
            wanted: The filter.
            limit: The size of the page.
            after: The page begins after this number.
            before: Instead, the page ends before this number.
            latest_first: Descending numbers.
        """
        letters = self._engine.letters
        rows = await self._page(
            self._letters.where(*self._matching(letters, wanted)),
            [letters.c.id],
            limit=limit,
            after=None if after is None else [after],
            before=None if before is None else [before],
            latest_first=latest_first,
        )
        return [read_letter(row) for row in rows]

    async def walk_letters(
        self, wanted: Filter, *, page: int = 100, latest_first: bool = False
    ) -> AsyncIterator[StoredLetter]:
        """Yield the dead letters that match, in the order of their numbers; one page is in memory.

        Each letter that was stored when the walk began comes once, as it is when its page is read; not one that is
        removed before that. No snapshot is held: a slow reader would keep the store from tidying up.
        """
        newest, after = await self._newest_letter(), None
        while letters := await self.list_letters(wanted, limit=page, after=after, latest_first=latest_first):
            for stored in letters:
                if stored.id <= newest:
                    yield stored
            after = letters[-1].id
            if after > newest and not latest_first:
                return

    async def count_letters(self, wanted: Filter, *, cap: int = COUNT_CAP) -> int:
        """How many dead letters match; ``cap + 1`` when there are more than ``cap``."""
        letters = self._engine.letters
        some = (
            select(literal(1).label("one")).select_from(letters).where(*self._matching(letters, wanted)).limit(cap + 1)
        )
        ((count,),) = await self._fetch(select(func.count()).select_from(some.subquery()))
        return int(count)

    async def group_letters(self, wanted: Filter, *, limit: int) -> Sequence[LetterGroup]:
        """The dead letters that match in groups of one fingerprint, the largest first."""
        letters = self._engine.letters
        column = letters.c
        size, latest = func.count().label("size"), func.max(column.id).label("latest")
        groups = (
            select(column.error_fingerprint, size, func.min(column.stored_at), func.max(column.stored_at), latest)
            .where(*self._matching(letters, wanted))
            .group_by(column.error_fingerprint)
            .order_by(size.desc(), latest.desc())
            .limit(limit)
            .subquery()
        )
        example = letters.alias()
        statement = select(example.c.reason, example.c.function, example.c.error, groups).join(
            example, example.c.id == groups.c.latest
        )
        rows = await self._fetch(statement.order_by(groups.c.size.desc(), groups.c.latest.desc()))
        return [LetterGroup(Reason(reason), *rest) for reason, *rest in rows]

    async def count_by_reason(self, wanted: Filter, *, limit: int) -> Sequence[LetterCount]:
        """How many dead letters match, for each function and reason, the most first."""
        column = self._engine.letters.c
        size, latest = func.count().label("size"), func.max(column.id).label("latest")
        errors = func.count(column.error_fingerprint.distinct())
        times = func.min(column.stored_at), func.max(column.stored_at)
        rows = await self._fetch(
            select(column.function, column.reason, size, errors, *times, latest)
            .where(*self._matching(self._engine.letters, wanted))
            .group_by(column.function, column.reason)
            .order_by(size.desc(), latest.desc())
            .limit(limit)
        )
        return [LetterCount(function, Reason(reason), *rest) for function, reason, *rest in rows]

    async def get_letter(self, letter_id: int) -> StoredLetter:
        """One dead letter.

        Raises:
            UsageError: There is none of this number.
        """
        return await self._database.run(lambda session: self._get(session, letter_id))

    async def list_jobs(
        self,
        wanted: Filter,
        *,
        limit: int,
        dead: bool | None = None,
        after: str | None = None,
        before: str | None = None,
    ) -> Sequence[StoredJob]:
        """One page of the jobs that have ended, the latest first.

        Args:
            wanted: The filter. One with a field that only dead letters have matches none.
            limit: The size of the page.
            dead: Only those that ended as a dead letter (``True``) or as done (``False``).
            after: The page begins after the job of this cursor.
            before: Instead, the page ends before the job of this cursor.

        Raises:
            UsageError: A cursor is none of this store.
        """
        if wanted.is_of_letters:
            return []
        engine = self._engine
        statement = self._jobs.where(*self._matching(engine.jobs, wanted))
        if dead is not None:
            statement = statement.where(engine.jobs.c.dead.is_(dead))
        rows = await self._page(
            statement,
            engine.job_order,
            limit=limit,
            after=self._parse_cursor(after),
            before=self._parse_cursor(before),
            latest_first=True,
        )
        return [self._stored_job(row) for row in rows]

    async def list_open(
        self,
        *,
        limit: int,
        running: bool | None = None,
        queue: str | None = None,
        function: str | None = None,
        job_id: str | None = None,
    ) -> Sequence[OpenJob]:
        """The jobs that have begun and not ended, the latest first.

        Args:
            limit: The most of them.
            running: Those that run (``True``), or that wait for their next run (``False``). A store in a file has only
                the latter: its daemon alone knows what it runs.
            queue: Of this queue, ``account/region/name``.
            function: Of this function. It is unknown until a first run has ended.
            job_id: Of this JobId or RunId.
        """
        begins, holds = key_pieces(queue, job_id)

        async def look(session: Session) -> Sequence[OpenJob]:
            statement = self._engine.open_jobs(await session.now(), running=running)
            column = statement.selected_columns
            found = statement.where(column.key.startswith(begins, autoescape=True))
            if function is not None:
                found = found.where(column.function == function)
            if job_id is not None:
                last = column.key.endswith(holds, autoescape=True)
                inner = column.key.contains(f"{holds}|", autoescape=True)
                found = found.where(last | inner | (column.job_id == job_id))
            latest_first = found.order_by(literal_column("since").desc()).limit(limit)
            return [_open_job(row) for row in await session.fetch(*self._engine.written(latest_first))]

        return await self._database.run(look)

    async def letters_of(self, *jobs: JobRecord) -> Mapping[str, LetterOfJob]:
        """The latest dead letter of each of these jobs, by its key; found by the JobId, which has an index."""
        column = self._engine.letters.c
        fields = (column.key, column.id, column.reason, column.error)
        job_ids = [job.job_id for job in jobs if job.job_id is not None]
        rows = (
            await self._fetch(select(*fields).where(column.job_id.in_(job_ids)).order_by(column.id)) if job_ids else []
        )
        return {key: LetterOfJob(number, Reason(reason), error) for key, number, reason, error in rows}

    async def list_runs(self, *keys: str) -> Sequence[RunRecord]:
        """The stored runs of these keys, the oldest first. The last run of an ended job is in its record."""
        runs = self._engine.runs.c
        found = select(*(runs[name] for name in RUN_COLUMNS)).where(self._engine.runs_of(*keys)).order_by(runs.id)
        return [RunRecord(*row) for row in await self._fetch(found)] if keys else []

    async def find_job(
        self, job_id: str, *, queue: str | None = None, queues: Sequence[str] = ()
    ) -> tuple[Sequence[StoredJob], Sequence[StoredLetter]]:
        """The ends of one job, the latest first, and its dead letters.

        Looked up by the keys that it may have in the given queues and in those of its letters. Only if that finds
        nothing, every job is looked at.

        Args:
            job_id: JobId or RunId.
            queue: Of this queue alone.
            queues: Where it may have been, when ``queue`` is not given.
        """
        wanted = Filter(job_id=job_id, queue=queue)
        letters = await self.list_letters(wanted, limit=_MOST_OF_A_JOB)
        places = dict.fromkeys([queue] if queue else [*queues, *(one.letter.job.queue for one in letters)])
        keys = {key for place in places for key in job_keys(place, job_id)} | {one.letter.job.key for one in letters}
        found = self._latest_first(self._jobs.where(self._engine.has_key(*keys)))
        jobs: Sequence[StoredJob] = [self._stored_job(row) for row in await self._fetch(found)] if keys else []
        if not jobs and not letters:
            jobs = await self.list_jobs(wanted, limit=_MOST_OF_A_JOB)
        return jobs, letters

    async def _page(
        self,
        statement: Select[Any],
        order: Sequence[ColumnElement[Any]],
        *,
        limit: int,
        after: Sequence[Any] | None,
        before: Sequence[Any] | None,
        latest_first: bool,
    ) -> Sequence[Sequence[Any]]:
        """One page by the unique columns ``order``; one that ends before a record is read backwards."""
        backwards = before is not None
        descending = latest_first is not backwards
        edge = before if backwards else after
        if edge is not None:
            place = tuple_(*order)
            statement = statement.where(place < tuple_(*edge) if descending else place > tuple_(*edge))
        ordered = statement.order_by(*(column.desc() if descending else column for column in order))
        rows = await self._fetch(ordered.limit(limit))
        return rows[::-1] if backwards else rows

    def _matching(self, table: Table, wanted: Filter) -> Sequence[ColumnElement[bool]]:
        """What a filter demands of a row; the table has the columns of the fields that are given."""
        column = table.c
        given = ((name, getattr(wanted, name)) for name in _BY_NAME)
        found = [column[name] == value for name, value in given if value is not None]
        if wanted.state is not None:
            found.append(column.replay == wanted.state.value)
        if wanted.ids:
            found.append(column.id.in_(wanted.ids))
        if wanted.error is not None:
            found.append(column.error.icontains(wanted.error, autoescape=True))
        return [*found, *self._engine.in_time(table, wanted.since, wanted.until)]

    async def _fetch(self, statement: Select[Any] | ReturningDelete[Any]) -> Sequence[Sequence[Any]]:
        return await self._database.run(lambda session: session.fetch(*self._engine.written(statement)))

    async def _get(self, session: Session, letter_id: int, *, lock: bool = False) -> StoredLetter:
        statement = self._letters.where(self._engine.letters.c.id == letter_id)
        rows = await session.fetch(*self._engine.written(statement.with_for_update() if lock else statement))
        if not rows:
            raise unknown_letter(letter_id)
        return read_letter(rows[0])

    async def _newest_letter(self) -> int:
        """The highest number of a letter; 0 without any."""
        ((newest,),) = await self._fetch(select(func.max(self._engine.letters.c.id)))
        return newest or 0

    def _latest_first(self, statement: Select[Any]) -> Select[Any]:
        return statement.order_by(*(column.desc() for column in self._engine.job_order))

    def _stored_job(self, row: Sequence[Any]) -> StoredJob:
        width = len(self._engine.job_order)
        dead, stored_at, *record = row[width:]
        return StoredJob(JobRecord(*record), bool(dead), stored_at, self._engine.cursor(row[:width]))

    def _parse_cursor(self, text: str | None) -> Sequence[Any] | None:
        if text is None:
            return None
        if (values := self._engine.parse_cursor(text)) is None:
            raise UsageError(
                f"unknown cursor {text[:80]!r}: expected the cursor of a listed job; begin with the first page"
            )
        return values


def _open_job(row: Sequence[Any]) -> OpenJob:
    key, function, job_id, *rest = row
    queue, id_of_key = job_of(key)
    return OpenJob(key, queue, function, id_of_key or job_id, *rest)


def unknown_letter(letter_id: int) -> UsageError:
    """The error for a number that no dead letter has."""
    return UsageError(f"no dead letter has the number {letter_id}; see 'mns-consumer dead-letters list'")
