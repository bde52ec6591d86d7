"""Decide and write down, on SQLite, what becomes of the calls of one batch.

Runs in the writer's thread alone, so nothing here needs a lock. Running claims live in this object's memory:
the file has one owner, and when that ends its claims end with it. What has ended and what has failed is read
from the file at every claim, since operators open keys again.

    answers to claims and renewals go out first: they are reads and wait for no disk
    everything else but pruning is one transaction; memory follows only once it is on disk

Failures and starts are written as the numbers they come to, not as "one more": saying a call again after a
commit whose end nobody saw counts nothing twice.

Elsewhere: the thread and the batches (``store.sqlite``), the file (``store.sqlite_file``).
"""

from __future__ import annotations

import secrets
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from consumer.store.batch import Ages, Answer, Call, Kind
from consumer.store.clip import MAX_ERROR_BYTES, cut
from consumer.store.ledger import Claimed, DeadLetter, Elsewhere, Ended, JobRecord
from consumer.store.sqlite_file import key_hash, marks, writing
from consumer.store.sqlite_index import KeyIndex, ids_by_hash, next_id
from consumer.store.sqlite_prune import prune
from consumer.store.sqlite_rows import INSERT_JOB, INSERT_LETTER, job_row, letter_row

_SIZES: Final = (1, 4, 16, 64)
"""Lists are filled up to one of these lengths, so that few statements are prepared, and once."""
_MAX_SIZE: Final = _SIZES[-1]

Effect = Callable[[], None]


@dataclass(slots=True)
class _Claim:
    """A key that this process holds.

    Args:
        until: On the monotonic clock.
        failures: Written down before this claim.
        starts: Written down before this claim.
        started: Whether this claim has written down a start.
        doubtful: A commit about it failed: what the file says must be asked before it is written again.
    """

    until: float
    failures: int
    starts: int
    started: bool = False
    doubtful: bool = False

    @property
    def on_file(self) -> bool:
        """Whether the file may hold failures or starts of this key."""
        return self.failures > 0 or self.starts > 0 or self.started or self.doubtful


class Book:
    """The claims of one process and its part in the file."""

    def __init__(self) -> None:
        self._holder = secrets.token_hex(8)
        self._claims: dict[str, _Claim] = {}
        self._ended: list[tuple[Any, ...]] = []
        # Keys that may have failures or starts on file. Only this process adds any, so most claims need no look there.
        self._attempted: set[str] = set()
        self._index = KeyIndex()
        self._learnt_from: sqlite3.Connection | None = None
        self._write: dict[Kind, Callable[[sqlite3.Connection, Call], tuple[Any, Effect | None]]] = {
            Kind.START: self._start,
            Kind.TAKE_BACK: self._take_back,
            Kind.DONE: self._done,
            Kind.FAIL: self._fail,
            Kind.RELEASE: self._release,
            Kind.BURY: self._bury,
            Kind.PING: _beat,
            Kind.PRUNE: _prune,
        }

    def read(self, connection: sqlite3.Connection, calls: Sequence[Call]) -> list[Answer]:
        """Answer the claims and renewals of a batch; no key stands in it twice."""
        self._learn(connection)
        answers = [Answer(call, self._renew(*call.value)) for call in calls if call.kind is Kind.RENEW]
        return answers + self._claim(connection, [call for call in calls if call.kind is Kind.CLAIM])

    def write(self, connection: sqlite3.Connection, calls: Sequence[Call]) -> list[Answer]:
        """Carry out calls of any other kind in one transaction; on disk when it returns.

        Raises:
            sqlite3.Error: Nothing is known to be written; every call may be made again.
        """
        if all(self._needs_no_file(call) for call in calls):
            for call in calls:
                self._claims.pop(str(call.key), None)
            return [Answer(call) for call in calls]
        answers: list[Answer] = []
        effects: list[Effect] = []
        self._learn(connection)
        try:
            with writing(connection):
                for call in calls:
                    result, effect = self._write[call.kind](connection, call)
                    answers.append(Answer(call, result))
                    if effect is not None:
                        effects.append(effect)
                if self._ended:
                    connection.executemany(INSERT_JOB, self._ended)
                    self._index.add(connection, [row[:2] for row in self._ended])
        except BaseException:
            self._learnt_from = None
            for call in calls:
                if call.key in self._claims:
                    self._claims[call.key].doubtful = True
            raise
        finally:
            self._ended.clear()
        for effect in effects:
            effect()
        return answers

    def _learn(self, connection: sqlite3.Connection) -> None:
        """Read what is kept in memory of the file, once a connection and after a transaction that failed."""
        if connection is not self._learnt_from:
            self._attempted = {key for (key,) in connection.execute("SELECT key FROM attempt")}
            self._index.learn(connection)
            self._learnt_from = connection

    def _claim(self, connection: sqlite3.Connection, calls: Sequence[Call]) -> list[Answer]:
        now = time.monotonic()
        answers: list[Answer] = []
        free: list[Call] = []
        for call in calls:
            held = self._claims.get(str(call.key))
            if held is not None and held.until > now:
                answers.append(Answer(call, Elsewhere(held.until - now)))
            else:
                free.append(call)
        keys = [str(call.key) for call in free]
        # All is read before anything is taken: when reading fails, no claim may stay behind that nobody knows of.
        ended = _look_up_ended(connection, keys)
        counts = _look_up_counts(connection, [key for key in keys if key in self._attempted])
        for call, key in zip(free, keys, strict=True):
            if key in ended:
                self._claims.pop(key, None)
                answers.append(Answer(call, ended[key]))
                continue
            failures, starts = counts.get(key, (0, 0))
            self._claims[key] = _Claim(now + call.value, failures, starts)
            answers.append(Answer(call, Claimed(failures, starts)))
        return answers

    def _renew(self, keys: Sequence[str], lease_s: float) -> list[str]:
        until = time.monotonic() + lease_s
        gone = []
        for key in keys:
            held = self._claims.get(key)
            if held is None:
                gone.append(key)
            else:
                held.until = until
        return gone

    def _needs_no_file(self, call: Call) -> bool:
        if call.kind is not Kind.RELEASE:
            return False
        held = self._claims.get(str(call.key))
        return held is None or not (held.started or held.doubtful)

    def _start(self, connection: sqlite3.Connection, call: Call) -> tuple[int, Effect | None]:
        key = str(call.key)
        held = self._claims.get(key)
        if held is None:
            return _counts(connection, key)[1], None
        self._set_counts(connection, key, held.failures, held.starts + 1)
        return held.starts + 1, lambda: setattr(held, "started", True)

    def _take_back(self, connection: sqlite3.Connection, call: Call) -> tuple[None, Effect | None]:
        key = str(call.key)
        held = self._claims.get(key)
        if held is None or not held.started:
            return None, None
        self._set_counts(connection, key, held.failures, held.starts)
        return None, lambda: setattr(held, "started", False)

    def _fail(self, connection: sqlite3.Connection, call: Call) -> tuple[int, Effect | None]:
        key = str(call.key)
        held = self._claims.get(key)
        if held is None:
            return _counts(connection, key)[0], None
        self._set_counts(connection, key, held.failures + 1, held.starts, cut(call.value, MAX_ERROR_BYTES))
        return held.failures + 1, lambda: self._forget(key)

    def _release(self, connection: sqlite3.Connection, call: Call) -> tuple[None, Effect | None]:
        key = str(call.key)
        held = self._claims.get(key)
        if held is not None and (held.started or held.doubtful):
            self._set_counts(connection, key, held.failures, held.starts)
        return None, lambda: self._forget(key)

    def _done(self, connection: sqlite3.Connection, call: Call) -> tuple[bool, Effect | None]:
        record: JobRecord = call.value
        return self._end(connection, record, None)

    def _bury(self, connection: sqlite3.Connection, call: Call) -> tuple[bool, Effect | None]:
        letter: DeadLetter = call.value
        return self._end(connection, letter.job, letter)

    def _end(
        self, connection: sqlite3.Connection, record: JobRecord, letter: DeadLetter | None
    ) -> tuple[bool, Effect | None]:
        key = record.key
        dead = letter is not None
        held = self._claims.get(key)
        if held is None or held.doubtful:
            row = connection.execute(
                f"SELECT dead, holder FROM job WHERE id IN ({ids_by_hash(1)}) AND key = ?2",  # noqa: S608 - constants only
                (key_hash(key), key),
            ).fetchone()
            if row is not None or held is None:
                return row == (dead, self._holder), lambda: self._forget(key)
        now = time.time()
        # All of a batch go in by one statement; nothing in between looks for them, since no key is there twice.
        number = self._ended[-1][1] + 1 if self._ended else next_id(connection)
        self._ended.append(job_row(record, number=number, dead=dead, holder=self._holder, now=now))
        if letter is not None:
            connection.execute(INSERT_LETTER, letter_row(letter, now=now))
        if held.on_file:
            connection.execute("DELETE FROM attempt WHERE key = ?", (key,))
            return True, lambda: self._forget_all(key)
        return True, lambda: self._forget(key)

    def _forget(self, key: str) -> None:
        self._claims.pop(key, None)

    def _forget_all(self, key: str) -> None:
        self._forget(key)
        self._attempted.discard(key)

    def _set_counts(
        self, connection: sqlite3.Connection, key: str, failures: int, starts: int, error: str | None = None
    ) -> None:
        if failures == 0 and starts == 0:
            connection.execute("DELETE FROM attempt WHERE key = ?", (key,))
            return
        # Before it is known to be written: one that is here in vain costs a look.
        self._attempted.add(key)
        connection.execute(
            "INSERT INTO attempt (key, failures, starts, error, stored_at) VALUES (?, ?, ?, ?, ?)"
            " ON CONFLICT (key) DO UPDATE SET failures = excluded.failures, starts = excluded.starts,"
            " stored_at = excluded.stored_at, error = coalesce(excluded.error, error)",
            (key, failures, starts, error, time.time()),
        )


def _look_up_ended(connection: sqlite3.Connection, keys: Sequence[str]) -> dict[str, Ended]:
    """Which keys have ended, and how."""
    ended: dict[str, Ended] = {}
    for some in _padded([key_hash(key) for key in keys]):
        statement = f"SELECT key, dead, function, state, user_data FROM job WHERE id IN ({ids_by_hash(len(some))})"  # noqa: S608 - question marks only
        rows = connection.execute(statement, some)
        ended.update((key, Ended(bool(dead), *told)) for key, dead, *told in rows)
    return ended


def _look_up_counts(connection: sqlite3.Connection, keys: Sequence[str]) -> dict[str, tuple[int, int]]:
    """The failures and starts of those keys that have any."""
    counts: dict[str, tuple[int, int]] = {}
    for some in _padded(keys):
        rows = connection.execute(f"SELECT key, failures, starts FROM attempt WHERE key IN ({marks(len(some))})", some)  # noqa: S608 - question marks only
        counts.update((key, (failures, starts)) for key, failures, starts in rows)
    return counts


def _padded(values: Sequence[Any]) -> Iterator[list[Any]]:
    """A list in pieces of one of the lengths that statements are prepared for."""
    for first in range(0, len(values), _MAX_SIZE):
        some = values[first : first + _MAX_SIZE]
        size = next(size for size in _SIZES if size >= len(some))
        yield [*some, *[None] * (size - len(some))]


def _counts(connection: sqlite3.Connection, key: str) -> tuple[int, int]:
    row = connection.execute("SELECT failures, starts FROM attempt WHERE key = ?", (key,)).fetchone()
    return (0, 0) if row is None else (row[0], row[1])


def _beat(connection: sqlite3.Connection, _call: Call) -> tuple[None, None]:
    connection.execute("INSERT OR REPLACE INTO heartbeat (id, stored_at) VALUES (1, ?)", (time.time(),))
    return None, None


def _prune(connection: sqlite3.Connection, call: Call) -> tuple[int, None]:
    ages: Ages = call.value
    return prune(connection, ages), None
