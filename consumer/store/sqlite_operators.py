"""The operators' side of a store on SQLite: short transactions of their own beside a running daemon.

Each call opens the file, does its work in a worker thread and closes it: an operator's look is rare, and an
open connection would keep the daemon's write-ahead log from being folded back.

Elsewhere: what each call means (``store.dead_letters``), the tables (``store.sqlite_file``).
"""

from __future__ import annotations

import os
import re
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final, TypeVar

from anyio import to_thread

from consumer.errors import StoreUnsafeError
from consumer.store.dead_letters import (
    NEVER_REPLAYED,
    Begun,
    Progress,
    StoredJob,
    StoredLetter,
    demand_begun,
    demand_unchanged,
    is_handled,
    not_replaying,
    replayed_already,
    unknown_cursor,
    unknown_letter,
)
from consumer.store.file_access import other_names, refusal
from consumer.store.ledger import Filter, LetterState
from consumer.store.sqlite_file import connect, explain, marks, writing
from consumer.store.sqlite_index import add_row, ids_of, next_id, remove_rows
from consumer.store.sqlite_rows import SELECT_JOB, SELECT_LETTER, job_row, stored_job, stored_letter

_PURGE_STEP: Final = 200
_CURSOR: Final = re.compile(r"\d{1,18}", re.ASCII)

T = TypeVar("T")


class SqliteOperators:
    """``Operators`` on a file.

    Args:
        path: The file; it is never made here.
    """

    def __init__(self, path: Path) -> None:
        self._path = Path(os.path.realpath(path))

    async def close(self) -> None:
        """See ``Operators.close``: nothing is kept open."""

    async def list_letters(
        self, wanted: Filter, *, limit: int, after: int | None = None, latest_first: bool = False
    ) -> Sequence[StoredLetter]:
        """See ``Operators.list_letters``."""
        where, values = _letters_where(wanted)
        if after is not None:
            where, values = f"{where} AND id {'<' if latest_first else '>'} ?", [*values, after]
        statement = f"{SELECT_LETTER} WHERE {where} ORDER BY id {'DESC' if latest_first else 'ASC'} LIMIT ?"

        def look(connection: sqlite3.Connection) -> list[StoredLetter]:
            return [stored_letter(row) for row in connection.execute(statement, [*values, limit])]

        return await self._with(look)

    async def count_letters(self, wanted: Filter) -> int:
        """See ``Operators.count_letters``."""
        where, values = _letters_where(wanted)
        statement = f"SELECT count(*) FROM letter WHERE {where}"  # noqa: S608 - names of columns and question marks
        return await self._with(lambda connection: int(connection.execute(statement, values).fetchone()[0]))

    async def get_letter(self, letter_id: int) -> StoredLetter:
        """See ``Operators.get_letter``."""
        return await self._with(lambda connection: _get(connection, letter_id))

    async def begin_replay(
        self, letter_id: int, *, seen: Progress = NEVER_REPLAYED, force: bool = False
    ) -> Begun | None:
        """See ``Operators.begin_replay``."""

        def begin(connection: sqlite3.Connection) -> Begun | None:
            with writing(connection):
                found = _get(connection, letter_id)
                demand_unchanged(found, seen)
                if found.state is LetterState.REPLAYED and not force:
                    raise replayed_already(letter_id, found.replayed_at)
                key = found.letter.job.key
                ended = _ended(connection, key)
                now = time.time()
                if is_handled(found, ended) and not force:
                    _set(connection, letter_id, Progress(LetterState.REPLAYED, now))
                    return None
                _set(connection, letter_id, Progress(LetterState.REPLAYING, now))
                remove_rows(connection, key)
                connection.execute("DELETE FROM attempt WHERE key = ?", (key,))
                return Begun(found, now, ended)

        return await self._with(begin)

    async def finish_replay(self, letter_id: int) -> None:
        """See ``Operators.finish_replay``."""

        def finish(connection: sqlite3.Connection) -> None:
            with writing(connection):
                state = _get(connection, letter_id).state
                if state is LetterState.SET_ASIDE:
                    raise not_replaying(letter_id, state)
                if state is LetterState.REPLAYING:
                    _set(connection, letter_id, Progress(LetterState.REPLAYED, time.time()))

        await self._with(finish)

    async def cancel_replay(self, begun: Begun) -> None:
        """See ``Operators.cancel_replay``."""

        def cancel(connection: sqlite3.Connection) -> None:
            letter_id, ended = begun.before.id, begun.ended
            with writing(connection):
                demand_begun(_get(connection, letter_id), begun)
                _set(connection, letter_id, begun.before.progress)
                if ended is not None and _ended(connection, ended.record.key) is None:
                    # No holder: whoever should run it just now, which only the daemon's memory knows, ends it later,
                    # and the later row counts.
                    number, now = next_id(connection), time.time()
                    add_row(connection, job_row(ended.record, number=number, dead=ended.dead, holder="", now=now))
                    connection.execute("DELETE FROM attempt WHERE key = ?", (ended.record.key,))

        await self._with(cancel)

    async def purge(self, wanted: Filter) -> int:
        """See ``Operators.purge``."""
        where, values = _letters_where(wanted)
        # Names of columns and question marks only.
        statement = f"DELETE FROM letter WHERE id IN (SELECT id FROM letter WHERE {where} ORDER BY id LIMIT ?)"  # noqa: S608 - as above

        def step(connection: sqlite3.Connection) -> int:
            return connection.execute(statement, [*values, _PURGE_STEP]).rowcount

        gone = 0
        while removed := await self._with(step):
            gone += removed
        return gone

    async def list_jobs(
        self, wanted: Filter, *, limit: int, dead: bool | None = None, after: str | None = None
    ) -> Sequence[StoredJob]:
        """See ``Operators.list_jobs``."""
        if wanted.ids or wanted.reason is not None or wanted.state is not None:
            return []
        where, values = _where(wanted)
        if dead is not None:
            where, values = f"{where} AND dead = ?", [*values, dead]
        if after is not None:
            if not _CURSOR.fullmatch(after):
                raise unknown_cursor(after)
            where, values = f"{where} AND id < ?", [*values, int(after)]
        statement = f"{SELECT_JOB} WHERE {where} ORDER BY id DESC LIMIT ?"

        def look(connection: sqlite3.Connection) -> list[StoredJob]:
            return [stored_job(row) for row in connection.execute(statement, [*values, limit])]

        return await self._with(look)

    async def _with(self, work: Callable[[sqlite3.Connection], T]) -> T:
        def run() -> T:
            if problem := refusal(self._path, by_owner=False) or other_names(self._path):
                raise StoreUnsafeError(problem)
            with closing(connect(self._path, create=False)) as connection:
                try:
                    return work(connection)
                except sqlite3.Error as error:
                    raise explain(self._path, error) from error

        return await to_thread.run_sync(run)


def _get(connection: sqlite3.Connection, letter_id: int) -> StoredLetter:
    row = connection.execute(f"{SELECT_LETTER} WHERE id = ?", (letter_id,)).fetchone()
    if row is None:
        raise unknown_letter(letter_id)
    return stored_letter(row)


def _set(connection: sqlite3.Connection, letter_id: int, progress: Progress) -> None:
    values = (progress.state.value, progress.replayed_at, letter_id)
    connection.execute("UPDATE letter SET replay = ?, replayed_at = ? WHERE id = ?", values)


def _ended(connection: sqlite3.Connection, key: str) -> StoredJob | None:
    """How a key has ended; ``None`` while it is open."""
    rows = ids_of(connection, key)
    return stored_job(connection.execute(f"{SELECT_JOB} WHERE id = ?", rows[-1:]).fetchone()) if rows else None


def _where(wanted: Filter) -> tuple[str, list[Any]]:
    """The condition of what jobs and letters both have, and its parameters."""
    given = {"queue = ?": wanted.queue, "function = ?": wanted.function, "job_id = ?": wanted.job_id}
    conditions = {text: value for text, value in {**given, "stored_at >= ?": wanted.since}.items() if value is not None}
    return " AND ".join(conditions) or "1", list(conditions.values())


def _letters_where(wanted: Filter) -> tuple[str, list[Any]]:
    where, values = _where(wanted)
    if wanted.reason is not None:
        where, values = f"{where} AND reason = ?", [*values, wanted.reason.value]
    if wanted.state is not None:
        where, values = f"{where} AND replay = ?", [*values, wanted.state.value]
    if wanted.ids:
        where, values = f"{where} AND id IN ({marks(len(wanted.ids))})", [*values, *wanted.ids]
    return where, values
