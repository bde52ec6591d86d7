"""The operators' access to the database file: short transactions beside a running daemon.

Each call opens and closes the file: operators come rarely, and an open connection would keep the daemon's write-ahead
log from being checkpointed. Statements run in worker threads.
"""

from __future__ import annotations

import os
import re
import sqlite3
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from anyio import CancelScope, to_thread

from consumer.errors import StoreUnsafeError
from consumer.store.queries import Dialect, Session, StoredJob
from consumer.store.sqlite.database import INSERT_JOB, connect, explain, job_row, key_hash
from consumer.store.sqlite.files import access_refusal, hard_link_refusal

_CURSOR: Final = re.compile(r"\d{1,18}", re.ASCII)
_NO_ROW: Final = -1
_FIND_IDS: Final = "SELECT id FROM job WHERE key_hash = ? AND key = ? ORDER BY id"
_REMOVE_JOBS: Final = "DELETE FROM job WHERE key_hash = ? AND key = ?"
_FORGET_ATTEMPTS: Final = "DELETE FROM attempt WHERE key = ?"

T = TypeVar("T")


def _parse_cursor(text: str) -> Sequence[object] | None:
    return [int(text)] if _CURSOR.fullmatch(text) else None


class SqliteDatabase:
    """A ``Database`` in a file, which is never made here."""

    dialect = Dialect(
        jobs="job",
        letters="letter",
        mark="?",
        read_time="{}",
        write_time="{}",
        for_update="",
        job_id="id",
        job_order=("id",),
        read_cursor="CAST(id AS TEXT)",
        write_cursor=("{}",),
        parse_cursor=_parse_cursor,
    )

    def __init__(self, path: Path) -> None:
        self._path = Path(os.path.realpath(path))

    async def run(self, work: Callable[[Session], Awaitable[T]], *, atomic: bool = False) -> T:
        """See ``Database.run``."""
        connection = await to_thread.run_sync(self._connect)
        try:
            session = SqliteSession(connection)
            if not atomic:
                return await work(session)
            await session.execute("BEGIN IMMEDIATE")
            result = await work(session)
            await session.execute("COMMIT")
        except sqlite3.Error as error:
            raise explain(self._path, error) from error
        else:
            return result
        finally:
            # Rolls back what was not committed.
            with CancelScope(shield=True):
                await to_thread.run_sync(connection.close)

    async def close(self) -> None:
        """See ``Database.close``: nothing stays open."""

    def _connect(self) -> sqlite3.Connection:
        if problem := access_refusal(self._path, by_owner=False) or hard_link_refusal(self._path):
            raise StoreUnsafeError(problem)
        return connect(self._path, create=False, any_thread=True)


class SqliteSession:
    """A ``Session``; the connection may be used in any thread, one at a time."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    async def fetch(self, statement: str, *values: object) -> Sequence[Sequence[Any]]:
        """See ``Session.fetch``."""
        return await to_thread.run_sync(self._fetch, statement, values)

    async def execute(self, statement: str, *values: object) -> int:
        """See ``Session.execute``."""
        cursor = await to_thread.run_sync(self._connection.execute, statement, values)
        return cursor.rowcount

    async def now(self) -> float:
        """See ``Session.now``."""
        return time.time()

    async def locate(self, key: str) -> object:
        """See ``Session.locate``: a row's id; of several rows the last one counts."""
        rows = await self.fetch(_FIND_IDS, key_hash(key), key)
        return rows[-1][0] if rows else _NO_ROW

    async def reopen(self, key: str) -> None:
        """See ``Session.reopen``."""
        await self.execute(_REMOVE_JOBS, key_hash(key), key)
        await self.execute(_FORGET_ATTEMPTS, key)

    async def close_again(self, job: StoredJob) -> None:
        """See ``Session.close_again``.

        Whether the key runs is known to the daemon's memory alone. A run ends later, and the later row counts; so the
        row has no holder.
        """
        key = job.record.key
        if await self.locate(key) != _NO_ROW:
            return
        await self.execute(INSERT_JOB, *job_row(job.record, dead=job.dead, holder="", now=time.time()))
        await self.execute(_FORGET_ATTEMPTS, key)

    def _fetch(self, statement: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        return self._connection.execute(statement, values).fetchall()
