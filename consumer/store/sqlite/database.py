"""The database file: how it is opened, its schema, and the index of its keys.

WAL with ``synchronous=FULL``: what was answered is on disk, and operators read while the daemon writes. The file and
its companions are 0600, since they hold users' data.

    job       ended jobs; rows are only added at the end
    attempt   failures and starts of keys that have not ended: a handful of rows
    letter    dead letters; the index ``letter_waiting`` is what counting them reads

Ended jobs are found by a hash of their key. Hashes lie anywhere in a large index: filled row by row, each of five
million rows costs a page of its own to read, to log and to checkpoint. So the index is filled in bulk, in the order of
hashes; the newest rows are found in memory.

    fresh        entries that are not in ``job_by_key`` yet: a table in memory of the daemon's connection, read from the
                 end of ``job`` when that is opened
    job_by_key   the other entries
    indexed      one row: ``job_by_key`` is complete up to the row ``upto`` and holds no entry of rows below ``swept``.
                 The last pass moves rows up to ``begun`` and removes entries of rows below ``sweeping``; it is done up
                 to the head ``hand``, and the next daemon continues there

An entry is the upper half of a hash, the head, and a row's id: a third smaller than the whole hash, and one look in a
thousand reads a row in vain. An entry whose row is gone or is another key's is harmless, since the whole key is
compared: 14 bytes a row instead of a hundred.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from consumer.errors import StoreError, StoreSchemaError
from consumer.store.ledger import JobRecord
from consumer.store.sqlite.files import make_folder, open_file
from consumer.store.tables import JOB_COLUMNS, JOB_COLUMNS_SQL, fit_record, job_values

BUSY_TIMEOUT_MS: Final = 5_000
"""How long a writer waits for another one: operators' writes are short."""
_CACHE_KIB: Final = 8 * 1024
_CHECKPOINT_PAGES: Final = 4_000
_WAL_LIMIT_BYTES: Final = 64 * 1024 * 1024

_V1: Final = """
CREATE TABLE job (
  id INTEGER PRIMARY KEY, key_hash INTEGER NOT NULL, key TEXT NOT NULL, dead INTEGER NOT NULL,
  holder TEXT NOT NULL, stored_at REAL NOT NULL, queue TEXT NOT NULL, kind TEXT NOT NULL, function TEXT NOT NULL,
  message_id TEXT NOT NULL, job_id TEXT, state TEXT NOT NULL, code TEXT, message TEXT, user_data TEXT, result TEXT,
  attempts INTEGER NOT NULL, enqueued_at REAL NOT NULL, started_at REAL NOT NULL, ended_at REAL NOT NULL);
CREATE INDEX job_key ON job (key_hash);
CREATE TABLE attempt (
  key TEXT PRIMARY KEY, failures INTEGER NOT NULL, starts INTEGER NOT NULL, error TEXT, stored_at REAL NOT NULL
) WITHOUT ROWID;
CREATE INDEX attempt_age ON attempt (stored_at);
CREATE TABLE letter (
  id INTEGER PRIMARY KEY AUTOINCREMENT, replay TEXT NOT NULL, replayed_at REAL, stored_at REAL NOT NULL,
  reason TEXT NOT NULL, error TEXT NOT NULL, traceback TEXT, body BLOB NOT NULL, dequeue_count INTEGER NOT NULL,
  first_dequeued_at REAL NOT NULL, key TEXT NOT NULL, queue TEXT NOT NULL, kind TEXT NOT NULL,
  function TEXT NOT NULL, message_id TEXT NOT NULL, job_id TEXT, state TEXT NOT NULL, code TEXT, message TEXT,
  user_data TEXT, result TEXT, attempts INTEGER NOT NULL, enqueued_at REAL NOT NULL, started_at REAL NOT NULL,
  ended_at REAL NOT NULL);
CREATE INDEX letter_replayed ON letter (replayed_at) WHERE replay = 'replayed';
CREATE TABLE heartbeat (id INTEGER PRIMARY KEY CHECK (id = 1), stored_at REAL NOT NULL);
"""

_V2: Final = """
CREATE TABLE job_by_key (head INTEGER NOT NULL, id INTEGER NOT NULL, PRIMARY KEY (head, id)) WITHOUT ROWID;
INSERT INTO job_by_key SELECT key_hash >> 32, id FROM job ORDER BY key_hash, id;
DROP INDEX job_key;
CREATE TABLE indexed (
  upto INTEGER NOT NULL, begun INTEGER NOT NULL, hand INTEGER NOT NULL,
  swept INTEGER NOT NULL, sweeping INTEGER NOT NULL);
INSERT INTO indexed SELECT coalesce(max(id), 0), coalesce(max(id), 0), 0, coalesce(min(id), 0), coalesce(min(id), 0)
  FROM job;
"""

_V3: Final = """
ALTER TABLE letter ADD COLUMN bytes INTEGER NOT NULL DEFAULT 0;
UPDATE letter SET bytes = length(body) + length(CAST(error AS BLOB)) + coalesce(length(CAST(traceback AS BLOB)), 0)
  + coalesce(length(CAST(message AS BLOB)), 0) + coalesce(length(CAST(user_data AS BLOB)), 0)
  + coalesce(length(CAST(result AS BLOB)), 0);
CREATE INDEX letter_held ON letter (replay, bytes);
"""

# SQLite reads the index alone only when that holds each column that the query names, ``replay`` too.
_V4: Final = """
DROP INDEX letter_held;
CREATE INDEX letter_waiting ON letter (queue, reason, replay, stored_at, bytes) WHERE replay <> 'replayed';
"""

MIGRATIONS: Final = (_V1, _V2, _V3, _V4)
"""Statements that lead from each schema version to the next."""

_MEANINGS: Final = {
    "SQLITE_FULL": "the disk is full; free some space",
    "SQLITE_READONLY": "it can be read but not written; give the daemon's user the right to write it",
    "SQLITE_IOERR": "the disk failed or is full; look at its free space and the kernel's log",
    "SQLITE_CORRUPT": "it is damaged; move it away to start afresh, or restore it",
    "SQLITE_NOTADB": "it is no SQLite database; name another file or move this one away",
    "SQLITE_BUSY": f"another process kept it locked for {BUSY_TIMEOUT_MS / 1000:g} s; end that one",
    "SQLITE_LOCKED": "another connection keeps it locked",
    "SQLITE_CANTOPEN": "it can't be opened; see that its directory exists and that the daemon's user may write there",
    "SQLITE_TOOBIG": "a value is larger than SQLite takes",
}
_KEEPS_CONNECTION: Final = ("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_TOOBIG", "SQLITE_FULL")

MAX_FRESH: Final = 131_072
"""Entries in memory (2 MiB) at which a pass over the index begins: five or more for each page of five million."""
_PACE: Final = 2
"""Rows that a pass moves per inserted row: no transaction is much larger for it."""
_SWEEP: Final = 4 * MAX_FRESH
"""Pruned rows at which a pass removes their entries too; to read the index for fewer costs more."""

_BEFORE_ALL: Final = -(2**31) - 1
_MOST: Final = 2**31 - 1

# Only constants are put into these texts.
_SPAN: Final = "FROM fresh WHERE head BETWEEN :first AND :last AND id <= :end"
_LAST: Final = f"SELECT head {_SPAN} ORDER BY head LIMIT 1 OFFSET :count - 1"
_MOVE: Final = f"INSERT OR IGNORE INTO job_by_key SELECT head, id {_SPAN}"
_FORGET: Final = f"DELETE {_SPAN}"
_SWEEP_OUT: Final = "DELETE FROM job_by_key WHERE head BETWEEN :first AND :last AND id < :oldest"
_UNINDEXED: Final = """
SELECT key_hash >> 32 AS head, id FROM job, indexed WHERE id > upto AND NOT (id <= begun AND head <= hand)
"""
_IDS: Final = """
SELECT id FROM job WHERE key = :key AND id IN (
  SELECT id FROM job_by_key WHERE head = :hash >> 32
  UNION ALL SELECT id FROM job WHERE id > (SELECT upto FROM indexed) AND key_hash = :hash) ORDER BY id
"""


INSERT_JOB: Final = (
    f"INSERT INTO job (key_hash, id, dead, holder, stored_at, {JOB_COLUMNS_SQL})"  # noqa: S608 - constants only
    f" VALUES ({','.join('?' * (5 + len(JOB_COLUMNS)))})"
)


def key_hash(key: str) -> int:
    """A key's hash as SQLite's integers hold it: 64 bits, signed. Rows keep the whole key, so equal hashes are safe."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big", signed=True)


def job_row(record: JobRecord, *, row_id: int, dead: bool, holder: str, now: float) -> tuple[Any, ...]:
    """The parameters of ``INSERT_JOB``; the hash and the id come first."""
    return (key_hash(record.key), row_id, dead, holder, now, *job_values(fit_record(record)))


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


def connect(path: Path, *, create: bool, any_thread: bool = False) -> sqlite3.Connection:
    """Open the file and bring its schema up to date.

    Args:
        path: The file.
        create: Make the file, and its directory (0700), when missing. That opens and closes the file: not for one that
            this process has open already (see ``FileOwner``).
        any_thread: Let every thread use the connection, one at a time; otherwise only this one.

    Returns:
        A connection without implicit transactions.

    Raises:
        StoreSchemaError: A newer version of this program wrote the file.
        StoreError: Anything else.
    """
    try:
        if create:
            make_folder(path.parent)
            # SQLite gives its companions the mode of the file.
            os.close(open_file(path))
        elif not path.exists():
            raise StoreError(f"store {path}: there is no such file; the daemon makes it when it first runs")
        # mode=rw: a file that was removed meanwhile is not made again.
        address = f"{Path(os.path.abspath(path)).as_uri()}?mode=rw"  # noqa: PTH100 - links stay as they are
        connection = sqlite3.connect(
            address,
            uri=True,
            isolation_level=None,
            timeout=BUSY_TIMEOUT_MS / 1000,
            check_same_thread=not any_thread,
        )
    except (OSError, sqlite3.Error) as error:
        raise explain(path, error) from error
    try:
        connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        _migrate(connection, path)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
        connection.execute(f"PRAGMA journal_size_limit = {_WAL_LIMIT_BYTES}")
    except sqlite3.Error as error:
        connection.close()
        raise explain(path, error) from error
    except BaseException:
        connection.close()
        raise
    return connection


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


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    if _version(connection, path) == len(MIGRATIONS):
        return
    with writing(connection):
        # Read again under the lock: another process may have migrated meanwhile.
        found = _version(connection, path)
        for number, script in enumerate(MIGRATIONS[found:], start=found + 1):
            # Not executescript(), which commits the transaction first.
            for statement in filter(str.strip, script.split(";")):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {number}")


def _version(connection: sqlite3.Connection, path: Path) -> int:
    found = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if found > len(MIGRATIONS):
        raise StoreSchemaError(
            f"store {path} has schema version {found}, this program knows {len(MIGRATIONS)};"
            " run the newer mns-consumer that wrote it, or name another store"
        )
    return found


@dataclass(slots=True)
class _Pass:
    """One pass over the index, from the least head to the greatest."""

    end: int
    """The greatest id that it moves."""
    oldest: int
    """It removes entries below this id."""
    sweeps: bool
    """Whether there may be any."""
    hand: int = _BEFORE_ALL
    """The last head that is done."""


class KeyIndex:
    """The daemon's side of the index: makes new rows findable, and moves entries from memory to the file.

    Works within the caller's transaction. When that fails, call ``learn`` before anything else.
    """

    def __init__(self) -> None:
        self._fresh = 0
        self._pass: _Pass | None = None

    def learn(self, connection: sqlite3.Connection) -> None:
        """Read which rows are not in the index yet; takes 0.1 s for ``MAX_FRESH`` of them."""
        connection.execute("PRAGMA temp_store = MEMORY")
        connection.execute("DROP TABLE IF EXISTS temp.fresh")
        connection.execute(
            "CREATE TEMP TABLE fresh (head INTEGER NOT NULL, id INTEGER NOT NULL, PRIMARY KEY (head, id)) WITHOUT ROWID"
        )
        self._fresh = connection.execute(f"INSERT INTO fresh {_UNINDEXED}").rowcount
        upto, end, hand, swept, oldest = connection.execute(
            "SELECT upto, begun, hand, swept, sweeping FROM indexed"
        ).fetchone()
        self._pass = _Pass(end, oldest, oldest > swept, hand) if end > upto else None

    def add(self, connection: sqlite3.Connection, rows: Sequence[tuple[int, int]]) -> None:
        """Make inserted rows findable, given their hashes and ids, ids ascending, at least one; move others along."""
        # An id comes again when a replay removed the last row of the table; its entry is still here then.
        statement = "INSERT OR IGNORE INTO fresh (head, id) VALUES (? >> 32, ?)"
        self._fresh += connection.executemany(statement, rows).rowcount
        if self._pass is None and self._fresh >= MAX_FRESH:
            self._pass = _begin_pass(connection, rows[-1][1])
        if self._pass is not None:
            self._advance(connection, self._pass, _PACE * len(rows))

    def _advance(self, connection: sqlite3.Connection, current: _Pass, count: int) -> None:
        span = {"end": current.end, "oldest": current.oldest, "first": current.hand, "last": _MOST}
        found = connection.execute(_LAST, {**span, "count": count}).fetchone()
        if found is not None:
            span["last"] = found[0]
        connection.execute(_MOVE, span)
        self._fresh -= connection.execute(_FORGET, span).rowcount
        if current.sweeps:
            # After the move: rows may have gone while their entries were in memory.
            connection.execute(_SWEEP_OUT, span)
        if found is None:
            connection.execute("UPDATE indexed SET upto = begun, swept = sweeping")
            self._pass = None
            return
        current.hand = found[0]
        connection.execute("UPDATE indexed SET hand = ?", found)


def _begin_pass(connection: sqlite3.Connection, end: int) -> _Pass:
    oldest, swept = connection.execute("SELECT (SELECT min(id) FROM job), swept FROM indexed").fetchone()
    sweeps = oldest - swept >= _SWEEP
    begun = _Pass(end, oldest if sweeps else swept, sweeps)
    connection.execute("UPDATE indexed SET begun = ?, hand = ?, sweeping = ?", (begun.end, begun.hand, begun.oldest))
    return begun


@cache
def ids_by_hash(count: int) -> str:
    """The daemon's query of the ids of rows that have the head of one of ``count`` hashes, its parameters."""
    heads = ",".join(f"?{number} >> 32" for number in range(1, count + 1))
    return (
        f"SELECT id FROM job_by_key WHERE head IN ({heads})"  # noqa: S608 - question marks only
        f" UNION ALL SELECT id FROM fresh WHERE head IN ({heads})"
    )


def ids_of(connection: sqlite3.Connection, key: str) -> list[int]:
    """The ids of a key's rows, ascending, from any process: rows that are not indexed yet are scanned."""
    return [row_id for (row_id,) in connection.execute(_IDS, {"hash": key_hash(key), "key": key})]


def add_row(connection: sqlite3.Connection, row: Sequence[Any]) -> None:
    """Insert a row of ``INSERT_JOB`` from any process; it is in the index at once."""
    connection.execute(INSERT_JOB, row)
    connection.execute("INSERT OR IGNORE INTO job_by_key (head, id) VALUES (? >> 32, ?)", row[:2])


def remove_rows(connection: sqlite3.Connection, key: str) -> None:
    """Remove a key's rows from any process; an entry in the daemon's memory stays and is harmless."""
    rows = [(key_hash(key), row_id) for row_id in ids_of(connection, key)]
    connection.executemany("DELETE FROM job_by_key WHERE head = ? >> 32 AND id = ?", rows)
    connection.executemany("DELETE FROM job WHERE id = ?", (row[1:] for row in rows))


def next_id(connection: sqlite3.Connection) -> int:
    """The id of the next row of ``job``: above each id that a pass has moved, which would never be moved again."""
    statement = "SELECT max(begun, coalesce((SELECT max(id) FROM job), 0)) + 1 FROM indexed"
    return int(connection.execute(statement).fetchone()[0])
