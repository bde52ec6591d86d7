"""Find ended jobs by their key on SQLite: an index that is filled in bulk, in the order of hashes.

Hashes lie anywhere in a large index: filled row by row, each row of five million costs a page of its own to read,
to log and to fold back. So the newest rows are known from memory, and go over by and by, neighbours together.

    job          the rows; they are the truth
    fresh        entries of those that no page of the index holds yet: a table in memory that only the daemon's
                 connection sees, read from the end of ``job`` again by each new one
    job_by_key   entries of all others
    indexed      one row: ``job_by_key`` is complete up to the row ``upto`` and holds no entry of rows below ``swept``.
                 The last pass takes rows up to ``begun`` along and takes out entries of those below ``sweeping``; it
                 is done up to the head ``hand``, and the next daemon goes on from there

An entry is the upper half of a hash, the head, and a row's id: a third smaller than with all of it, and one look
in a thousand reads a row in vain. An entry whose row is gone, or is another's by now, does no harm: who looks
compares the whole key.

Elsewhere: the tables (``store.sqlite_file``), who ends jobs (``store.sqlite_book``, ``store.sqlite_operators``).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from consumer.store.sqlite_file import key_hash
from consumer.store.sqlite_rows import INSERT_JOB

MAX_FRESH: Final = 131_072
"""With so many in memory (2 MiB) a pass over the index begins: five or more for each page of five million."""
_PACE: Final = 2
"""Rows that a pass takes along for each that comes meanwhile: no transaction is much larger for it."""
_SWEEP: Final = 4 * MAX_FRESH
"""With so many rows gone a pass takes out their entries, too; to read them all for fewer costs more."""

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


@dataclass(slots=True)
class _Pass:
    """One way over the index, from the least head to the greatest.

    Args:
        end: The greatest id that it takes along.
        oldest: Entries below it are taken out.
        sweeps: Whether there may be any.
        hand: The last head that is done.
    """

    end: int
    oldest: int
    sweeps: bool
    hand: int = _BEFORE_ALL


class KeyIndex:
    """The daemon's side: makes new rows findable, and moves entries from memory to the file.

    Everything is done within the caller's transaction. When that fails, ``learn`` is called before anything else.
    """

    def __init__(self) -> None:
        self._fresh = 0
        self._pass: _Pass | None = None

    def learn(self, connection: sqlite3.Connection) -> None:
        """Read which rows are not in the index yet; takes a tenth of a second for ``MAX_FRESH`` of them."""
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
        """Make rows of ``job`` findable, and take others along into the file.

        Args:
            connection: In the transaction that wrote the rows.
            rows: The hash and the id of each, ids ascending; at least one.
        """
        # An id comes again when a replay took its row from the end of the table; its entry is still here then.
        statement = "INSERT OR IGNORE INTO fresh (head, id) VALUES (? >> 32, ?)"
        self._fresh += connection.executemany(statement, rows).rowcount
        if self._pass is None and self._fresh >= MAX_FRESH:
            self._pass = _begin(connection, rows[-1][1])
        if self._pass is not None:
            self._go_on(connection, self._pass, _PACE * len(rows))

    def _go_on(self, connection: sqlite3.Connection, way: _Pass, count: int) -> None:
        span = {"end": way.end, "oldest": way.oldest, "first": way.hand, "last": _MOST}
        found = connection.execute(_LAST, {**span, "count": count}).fetchone()
        if found is not None:
            span["last"] = found[0]
        connection.execute(_MOVE, span)
        self._fresh -= connection.execute(_FORGET, span).rowcount
        if way.sweeps:
            # After the move: rows may have gone while their entries were in memory.
            connection.execute(_SWEEP_OUT, span)
        if found is None:
            connection.execute("UPDATE indexed SET upto = begun, swept = sweeping")
            self._pass = None
            return
        way.hand = found[0]
        connection.execute("UPDATE indexed SET hand = ?", found)


def _begin(connection: sqlite3.Connection, end: int) -> _Pass:
    oldest, swept = connection.execute("SELECT (SELECT min(id) FROM job), swept FROM indexed").fetchone()
    sweeps = oldest - swept >= _SWEEP
    way = _Pass(end, oldest if sweeps else swept, sweeps)
    connection.execute("UPDATE indexed SET begun = ?, hand = ?, sweeping = ?", (way.end, way.hand, way.oldest))
    return way


@cache
def ids_by_hash(count: int) -> str:
    """A query, for the daemon, of the ids of rows whose head is that of one of so many hashes, its parameters."""
    heads = ",".join(f"?{number} >> 32" for number in range(1, count + 1))
    return (
        f"SELECT id FROM job_by_key WHERE head IN ({heads})"  # noqa: S608 - question marks only
        f" UNION ALL SELECT id FROM fresh WHERE head IN ({heads})"
    )


def ids_of(connection: sqlite3.Connection, key: str) -> list[int]:
    """The ids of a key's rows, ascending, for any process: what is not indexed yet is looked for row by row."""
    return [number for (number,) in connection.execute(_IDS, {"hash": key_hash(key), "key": key})]


def add_row(connection: sqlite3.Connection, row: Sequence[Any]) -> None:
    """Add a row of ``INSERT_JOB``, from any process: it is in the index at once."""
    connection.execute(INSERT_JOB, row)
    connection.execute("INSERT OR IGNORE INTO job_by_key (head, id) VALUES (? >> 32, ?)", row[:2])


def remove_rows(connection: sqlite3.Connection, key: str) -> None:
    """Remove a key's rows, from any process; a fresh entry stays in the daemon's memory and does no harm."""
    rows = [(key_hash(key), number) for number in ids_of(connection, key)]
    connection.executemany("DELETE FROM job_by_key WHERE head = ? >> 32 AND id = ?", rows)
    connection.executemany("DELETE FROM job WHERE id = ?", (row[1:] for row in rows))


def next_id(connection: sqlite3.Connection) -> int:
    """The id of the next row of ``job``.

    None that a pass has taken along is given again, even when its row is gone: it would never be taken along.
    """
    statement = "SELECT max(begun, coalesce((SELECT max(id) FROM job), 0)) + 1 FROM indexed"
    return int(connection.execute(statement).fetchone()[0])
