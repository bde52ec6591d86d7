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
from consumer.store.rows import key_hash
from consumer.store.sqlite.database import JOB_ROW_SQL, JOB_ROW_WIDTH, connect, explain, job_row
from consumer.store.sqlite.files import access_refusal, hard_link_refusal

_CURSOR: Final = re.compile(r"\d{1,18}", re.ASCII)
_CLOSE: Final = (
    f"INSERT INTO job ({JOB_ROW_SQL}) SELECT {', '.join('?' * JOB_ROW_WIDTH)}"  # noqa: S608 - constants only
    " WHERE NOT EXISTS (SELECT 1 FROM job WHERE key_hash = ?1 AND key = ?5)"
)
"""Only the daemon's memory knows whether the key runs. Such a run ends later, and the later row counts."""

T = TypeVar("T")


def _close_values(job: StoredJob) -> Sequence[object]:
    return job_row(job.record, dead=job.dead, holder="", now=time.time())


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
        hash_key=lambda key: (key_hash(key), key),
        has_key="key_hash = ?1 AND key = ?2",
        forget_attempts="DELETE FROM attempt WHERE key = ?2",
        close=_CLOSE,
        close_values=_close_values,
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

    def _fetch(self, statement: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        return self._connection.execute(statement, values).fetchall()
