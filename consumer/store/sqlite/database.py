"""The database file: how it is opened, its errors in plain words, and the operators' access.

WAL with ``synchronous=FULL``: what was answered is on disk, and operators read while the daemon writes. The file and
its companions are 0600, since they hold users' data.
"""

from __future__ import annotations

import asyncio
import math
import os
import sqlite3
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar, TypeVarTuple

from anyio import CancelScope

from consumer.errors import NoStoreError, StoreError, StoreLostError, StoreSchemaError, StoreUnsafeError, lacks_threads
from consumer.store.rows import check_revision, too_slow, unreleased
from consumer.store.sqlite.access import access_refusal
from consumer.store.sqlite.files import hard_link_refusal, lost_ledger_refusal

if TYPE_CHECKING:
    from consumer.store.session import Session

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")

BUSY_TIMEOUT_MS: Final = 5_000  # how long a writer waits for another one: operators' writes are short
QUERY_TIMEOUT_S: Final = 10.0  # after this an operator's query is stopped
_STEPS: Final = 50_000  # of SQLite's machine between two looks at the clock: about 1 ms
_CACHE_KIB: Final = 8 * 1024
_CHECKPOINT_PAGES: Final = 4_000
_WAL_LIMIT_BYTES: Final = 64 * 1024 * 1024

_MEANINGS: Final = {
    "SQLITE_FULL": "the disk is full; free some space",
    "SQLITE_READONLY": "it can be read but not written; give the daemon's user the right to write it",
    "SQLITE_IOERR": "the disk failed or is full; look at its free space and the kernel's log",
    "SQLITE_CORRUPT": "it is damaged; restore a backup",
    "SQLITE_NOTADB": "it is no SQLite database, or its start is damaged; name another file, or restore a backup",
    "SQLITE_BUSY": f"another process kept it locked for {BUSY_TIMEOUT_MS / 1000:g} s; end that one",
    "SQLITE_LOCKED": "another connection keeps it locked",
    "SQLITE_CANTOPEN": "it can't be opened; see that its directory exists and that the daemon's user may write there",
    "SQLITE_TOOBIG": "a value is larger than SQLite takes",
}
_KEEPS_CONNECTION: Final = ("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_TOOBIG", "SQLITE_FULL")


def explain(path: Path, error: sqlite3.Error | OSError) -> StoreError:
    """Turn an error of SQLite or the system into one line: the file, what failed, what to do."""
    if isinstance(error, OSError):
        return StoreError(f"store {path}: {error.strerror or error}; see that its directory exists and may be written")
    name = getattr(error, "sqlite_errorname", None) or type(error).__name__
    meaning = next((text for prefix, text in _MEANINGS.items() if name.startswith(prefix)), "SQLite refused the call")
    return StoreError(f"store {path}: {meaning} ({name}: {error})")


def spoils_connection(error: sqlite3.Error) -> bool:
    """Whether the next call needs a new connection."""
    name = getattr(error, "sqlite_errorname", None) or ""
    return not name.startswith(_KEEPS_CONNECTION)


def is_damage(error: sqlite3.Error) -> bool:
    """Whether a page of the file is not as SQLite wrote it."""
    name = getattr(error, "sqlite_errorname", None) or ""
    return name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB"))


def connect(path: Path, *, any_thread: bool = False) -> sqlite3.Connection:
    """Open a store, which is never made here.

    Args:
        path: The file.
        any_thread: Let every thread use the connection, one at a time; otherwise only this one.

    Returns:
        A connection without implicit transactions.

    Raises:
        StoreSchemaError: It has tables of another revision, or of another program.
        StoreLostError: The ledger that was made here is gone.
        StoreError: Anything else.
    """
    connection = open_file(path, any_thread=any_thread)
    try:
        found = revision_of(connection, path)
        if found is None:
            refuse_without_tables(path)
        check_revision(str(path), found)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
        connection.execute(f"PRAGMA journal_size_limit = {_WAL_LIMIT_BYTES}")
    except sqlite3.Error as error:
        connection.close()
        raise explain(path, error) from error
    except BaseException:
        connection.close()
        raise
    return connection


def open_file(path: Path, *, any_thread: bool = False) -> sqlite3.Connection:
    """Open a database, whatever its tables are.

    Raises:
        StoreLostError: The ledger that was made here is gone.
        StoreError: There is no such file, or it can't be opened.
    """
    if problem := lost_ledger_refusal(path):
        raise StoreLostError(problem)
    try:
        if not path.exists():
            raise NoStoreError(f"store {path}: there is no such file; the daemon makes it when it first runs")
        # mode=rw: a file that was removed meanwhile is not made again.
        address = f"{Path(os.path.abspath(path)).as_uri()}?mode=rw"  # noqa: PTH100 - links stay as they are
        connection = sqlite3.connect(
            address,
            uri=True,
            isolation_level=None,
            timeout=BUSY_TIMEOUT_MS / 1000,
            check_same_thread=not any_thread,
        )
        connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        connection.execute("PRAGMA synchronous = FULL")
    except (OSError, sqlite3.Error) as error:
        raise explain(path, error) from error
    return connection


def revision_of(connection: sqlite3.Connection, path: Path) -> str | None:
    """The revision of the tables; ``None`` for an empty file.

    Raises:
        StoreSchemaError: They are of before the first release, or of another program.
    """
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if "revision" in tables and "letter" in tables:
        (found,) = connection.execute("SELECT max(version_num) FROM revision").fetchone()
        return str(found)
    if "job" in tables and connection.execute("PRAGMA user_version").fetchone()[0]:
        raise unreleased(str(path), f"move {path}* away")
    if tables:
        raise StoreSchemaError(f"store {path}: it is another program's database; name another file")
    return None


@contextmanager
def writing(connection: sqlite3.Connection) -> Iterator[None]:
    """One write transaction: on disk when the block ends, rolled back when it raises."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        # After some errors (a full disk) SQLite has rolled back already; a second ROLLBACK would be an error.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def refuse_without_tables(path: Path) -> NoReturn:
    """Raise ``StoreLostError`` where a ledger was made, else ``StoreError``."""
    if problem := lost_ledger_refusal(path, without_tables=True):
        raise StoreLostError(problem)
    raise NoStoreError(f"store {path}: it holds no ledger; the daemon makes one when it first runs")


class SqliteDatabase:
    """A ``Database`` in a file, which is never made here: short transactions beside a running daemon.

    Each call opens and closes the file: operators come rarely, and an open connection would keep the daemon's
    write-ahead log from being checkpointed. Statements run in worker threads.

    Args:
        path: The file.
        is_limited: Stop a query after ``QUERY_TIMEOUT_S``.
        beside_daemon: Refuse the file while its write-ahead log is gone: a daemon uses it.
    """

    def __init__(self, path: Path, *, is_limited: bool = True, beside_daemon: bool = False) -> None:
        self._path = Path(os.path.realpath(path))
        self._is_limited = is_limited
        self._log = Path(f"{self._path}-wal") if beside_daemon else None

    async def run(self, work: Callable[[Session], Awaitable[T]], *, atomic: bool = False) -> T:
        """See ``Database.run``."""
        thread = _Thread(self._path)
        try:
            connection = await thread.run(self._connect)
            try:
                return await self._run(connection, thread, work, atomic=atomic)
            except sqlite3.Error as error:
                raise explain(self._path, error) from error
            finally:
                # Rolls back what was not committed.
                await thread.run(connection.close)
        finally:
            thread.end()

    async def _run(
        self,
        connection: sqlite3.Connection,
        thread: _Thread,
        work: Callable[[Session], Awaitable[T]],
        *,
        atomic: bool,
    ) -> T:
        session = SqliteSession(connection, self._path, QUERY_TIMEOUT_S if self._is_limited else math.inf, thread)
        if not atomic:
            return await work(session)
        await session.execute("BEGIN IMMEDIATE")
        result = await work(session)
        await session.execute("COMMIT")
        return result

    async def close(self) -> None:
        """See ``Database.close``: nothing stays open."""

    def _connect(self) -> sqlite3.Connection:
        if problem := access_refusal(self._path, by_owner=False) or hard_link_refusal(self._path):
            raise StoreUnsafeError(problem)
        if self._log is not None and not self._log.exists():
            # SQLite would make a new one, beside the one that the daemon's own connection still writes.
            raise StoreError(f"store {self._path}: {self._log.name} is gone while the daemon uses it")
        return connect(self._path, any_thread=True)


class _Thread:
    """The one thread of a session.

    A shared pool would not do: with all its threads waiting for the file's lock, the session that holds it could not go
    on. And what handlers run on threads must not wait for a store.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="mns-consumer-session")

    async def run(self, function: Callable[[*Arguments], T], *arguments: *Arguments) -> T:
        """Run a function to its end, also when the caller is cancelled.

        Raises:
            StoreError: The thread could not be started.
        """
        try:
            done = asyncio.get_running_loop().run_in_executor(self._executor, partial(function, *arguments))
        except RuntimeError as error:
            if not lacks_threads(error):
                raise
            text = f"store {self._path}: no thread could be started; raise the limit of threads"
            raise StoreError(text) from error
        with CancelScope(shield=True):
            await asyncio.wait([done])
        return done.result()

    def end(self) -> None:
        """Let the thread end."""
        self._executor.shutdown(wait=False)


class SqliteSession:
    """A ``Session``; the connection may be used in any thread, one at a time."""

    def __init__(self, connection: sqlite3.Connection, path: Path, limit_s: float, thread: _Thread) -> None:
        self._connection = connection
        self._path = path
        self._limit_s = limit_s
        self._thread = thread

    async def fetch(self, statement: str, values: Sequence[object] = ()) -> Sequence[Sequence[Any]]:
        """See ``Session.fetch``."""
        return (await self._thread.run(self._run, statement, values))[0]

    async def execute(self, statement: str, values: Sequence[object] = ()) -> int:
        """See ``Session.execute``."""
        return (await self._thread.run(self._run, statement, values))[1]

    async def now(self) -> float:
        """See ``Session.now``."""
        return time.time()

    def _run(self, statement: str, values: Sequence[Any]) -> tuple[list[tuple[Any, ...]], int]:
        deadline = time.monotonic() + self._limit_s
        self._connection.set_progress_handler(lambda: time.monotonic() > deadline, _STEPS)
        try:
            cursor = self._connection.execute(statement, values)
            return cursor.fetchall(), cursor.rowcount
        except sqlite3.OperationalError as error:
            if error.sqlite_errorname != "SQLITE_INTERRUPT":
                raise
            raise too_slow(str(self._path), self._limit_s) from error
