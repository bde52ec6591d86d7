"""What the commands of a batch do on SQLite. Runs in the writer's thread alone, so nothing here needs a lock.

Running claims are kept in memory: the file has one owner, and its claims end with it. What has ended or failed is read
from the file at every claim, since operators reopen keys.

    claims and renewals are answered first: they are reads and wait for no disk
    all writes but upkeep are one transaction; the memory changes once that is on disk

Failures and starts are written as totals, not as "one more": repeating a command whose commit got no answer counts
nothing twice.
"""

from __future__ import annotations

import secrets
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Final, TypeVar

from consumer.store.commands import (
    A,
    AnyCommand,
    ClaimCommand,
    Command,
    DoneCommand,
    EndRunCommand,
    KeyedCommand,
    ReleaseCommand,
    RenewCommand,
    Reply,
    SetAsideCommand,
    StartCommand,
    only,
)
from consumer.store.ledger import (
    Claimed,
    DeadLetterRecord,
    Elsewhere,
    Ended,
    JobRecord,
    RunRecord,
    StoredLetter,
    WaitingLetters,
)
from consumer.store.rows import (
    ENDED_COLUMNS_SQL,
    JOB_COLUMNS,
    LETTER_COLUMNS,
    OPEN_COLUMNS,
    RUN_COLUMNS,
    RUNS_KEPT,
    STORED_LETTER_COLUMNS_SQL,
    count_waiting_sql,
    fit_letter,
    fit_record,
    fit_run,
    job_values,
    key_hash,
    letter_values,
    open_values,
    read_letter,
    read_waiting,
    run_values,
)
from consumer.store.sqlite.database import writing

_KEYS_AT_ONCE: Final = 64
"""Keys of one query: few enough that SQLite's module keeps the statements of all lengths prepared."""


def _insert(table: str, *columns: str) -> str:
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"  # noqa: S608 - names alone


INSERT_JOB: Final = _insert("job", "key_hash", "dead", "holder", "stored_at", *JOB_COLUMNS)
_INSERT_LETTER: Final = _insert("letter", "stored_at", "bytes", *LETTER_COLUMNS, *JOB_COLUMNS)
COUNT_WAITING: Final = count_waiting_sql("letter")
_FIND_ENDED: Final = "SELECT dead, holder FROM job WHERE key_hash = ? AND key = ? ORDER BY id DESC LIMIT 1"


def _upsert_attempt(*columns: str) -> str:
    changes = ", ".join(f"{name} = excluded.{name}" for name in columns)
    return f"{_insert('attempt', 'key', *columns)} ON CONFLICT (key) DO UPDATE SET {changes}"


_SET_COUNTS: Final = _upsert_attempt("failures", "starts", "stored_at")
_SET_LAST_RUN: Final = _upsert_attempt("failures", "starts", "stored_at", *OPEN_COLUMNS)

# ?1 is the hash of the key, ?2 the key.
_INSERT_RUN: Final = _insert("run", "key_hash", "stored_at", *RUN_COLUMNS)
_FORGET_TRACEBACK: Final = """UPDATE run SET traceback = NULL
WHERE key_hash = ?1 AND key = ?2 AND error = ?3 AND traceback IS NOT NULL"""
_DROP_OLDER_RUNS: Final = f"""DELETE FROM run WHERE key_hash = ?1 AND key = ?2 AND id <=
  (SELECT id FROM run WHERE key_hash = ?1 AND key = ?2 ORDER BY id DESC LIMIT 1 OFFSET {RUNS_KEPT})"""  # noqa: S608 - a constant
_DROP_REPEATED_RUN: Final = "DELETE FROM run WHERE key_hash = ?1 AND key = ?2 AND attempt = ?3 AND ended_at = ?4"

# Rows are added in the order of time, so the oldest have the smallest ids: no index by time is needed.
_PRUNE: Final = (
    "DELETE FROM job WHERE id IN (SELECT id FROM job ORDER BY id LIMIT ?) AND stored_at <= ?",
    "DELETE FROM run WHERE id IN (SELECT id FROM run ORDER BY id LIMIT ?) AND stored_at <= ?",
    "DELETE FROM attempt WHERE key IN (SELECT key FROM attempt WHERE stored_at <= ?2 LIMIT ?1)",
    """DELETE FROM letter WHERE id IN
  (SELECT id FROM letter WHERE replay = 'replayed' AND replayed_at <= ?2 ORDER BY replayed_at LIMIT ?1)""",
)
_PRUNE_LETTERS: Final = "DELETE FROM letter WHERE id IN (SELECT id FROM letter ORDER BY id LIMIT ?) AND stored_at <= ?"
FIND_DUE_HOOKS: Final = """SELECT id FROM letter
WHERE queue = ? AND hook_at <= ? AND replay = 'set_aside' ORDER BY hook_at, id LIMIT ?"""
_PUT_OFF_HOOK: Final = f"""UPDATE letter SET hook_at = ?2 + min(max(?2 - stored_at, ?3), ?4) WHERE id = ?1
RETURNING {STORED_LETTER_COLUMNS_SQL}"""  # noqa: S608 - names alone
_HOOK_DONE: Final = "UPDATE letter SET hook_at = NULL WHERE id = ?"
_PING: Final = "UPDATE revision SET version_num = version_num"

T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class UndoStartCommand(KeyedCommand[None]):
    """See ``Standby.take_back_starts``."""


@dataclass(frozen=True, slots=True, eq=False)
class UpkeepCommand(Command[A]):
    """Other work on the connection, in a transaction of its own or in none."""

    work: Callable[[sqlite3.Connection], A]

    def carried_out(self, connection: sqlite3.Connection) -> Reply:
        """Its reply, when the work is done."""
        return self.answered(self.work(connection))


@dataclass(slots=True)
class _Claim:
    """A claim of this process."""

    until: float  # on the monotonic clock
    failures: int  # on file before this claim, like ``starts``
    starts: int
    had_row: bool = False  # in ``attempt``, when it was claimed
    started: bool = False  # this claim has recorded a start
    doubtful: bool = False  # a commit about it failed: read the file before writing again

    @property
    def on_file(self) -> bool:
        """Whether the file may have failures, starts or runs of the key."""
        return self.had_row or self.started or self.doubtful


class SqliteStatements:
    """The claims of one process and its part in the file."""

    def __init__(self) -> None:
        self._holder = secrets.token_hex(8)
        self._claims: dict[str, _Claim] = {}

    def read(self, connection: sqlite3.Connection, commands: Sequence[AnyCommand]) -> list[Reply]:
        """Execute claims and renewals, no key twice."""
        renewed = [command.answered(self._renew(command)) for command in only(RenewCommand, commands)]
        return [*renewed, *self._claim(connection, only(ClaimCommand, commands))]

    def write(self, connection: sqlite3.Connection, commands: Sequence[AnyCommand]) -> list[Reply]:
        """Execute other commands, no key twice, in one transaction: on disk when it returns.

        Raises:
            sqlite3.Error: Perhaps nothing was written; every command may be repeated.
        """
        try:
            with nullcontext() if all(map(self._is_in_memory, commands)) else writing(connection):
                replies = [self._execute(connection, command) for command in commands]
        except BaseException:
            for command in commands:
                if command.key in self._claims:
                    self._claims[command.key].doubtful = True
            raise
        for command in commands:
            self._remember(command)
        return replies

    def keep_up(self, connection: sqlite3.Connection, commands: Sequence[AnyCommand]) -> list[Reply]:
        """Do upkeep."""
        return [command.carried_out(connection) for command in only(UpkeepCommand, commands)]

    def _claim(self, connection: sqlite3.Connection, commands: Sequence[ClaimCommand]) -> list[Reply]:
        now = time.monotonic()
        replies: list[Reply] = []
        free: list[ClaimCommand] = []
        for command in commands:
            claim = self._claims.get(command.key)
            if claim is not None and claim.until > now:
                replies.append(command.answered(Elsewhere(claim.until - now)))
            else:
                free.append(command)
        keys = [command.key for command in free]
        # Read everything before the first claim: a failing read must leave no claim that its caller never gets.
        ended = _find_ended(connection, keys)
        known = _find_known(connection, keys)
        for command in free:
            key = command.key
            if key in ended:
                self._claims.pop(key, None)
                replies.append(command.answered(ended[key]))
                continue
            found = known.get(key)
            answer = found or Claimed()
            self._claims[key] = _Claim(now + command.lease_s, answer.failures, answer.starts, found is not None)
            replies.append(command.answered(answer))
        return replies

    def _renew(self, command: RenewCommand) -> list[str]:
        until = time.monotonic() + command.lease_s
        lost = []
        for key in command.keys:
            claim = self._claims.get(key)
            if claim is None:
                lost.append(key)
            else:
                claim.until = until
        return lost

    def _is_in_memory(self, command: AnyCommand) -> bool:
        if not isinstance(command, ReleaseCommand):
            return False
        claim = self._claims.get(command.key)
        return claim is None or not (claim.started or claim.doubtful)

    def _execute(self, connection: sqlite3.Connection, command: AnyCommand) -> Reply:
        match command:
            case DoneCommand():
                return command.answered(self._end(connection, command.record, None))
            case SetAsideCommand():
                return command.answered(self._end(connection, command.letter.job, command.letter))
            case StartCommand():
                return command.answered(self._start(connection, command.key))
            case EndRunCommand():
                return command.answered(self._end_run(connection, command.key, command.run, command.is_counted))
            case UndoStartCommand() | ReleaseCommand():
                self._undo_start(connection, command.key)
                return command.answered(None)
            case _:
                raise TypeError(f"unexpected {command.name}")

    def _remember(self, command: AnyCommand) -> None:
        """Change the memory after the commit."""
        match command:
            case DoneCommand(key=key) | SetAsideCommand(key=key) | EndRunCommand(key=key) | ReleaseCommand(key=key):
                self._claims.pop(key, None)
            case StartCommand(key=key) | UndoStartCommand(key=key) if key in self._claims:
                self._claims[key].started = isinstance(command, StartCommand)

    def _start(self, connection: sqlite3.Connection, key: str) -> int:
        claim = self._claims.get(key)
        if claim is None:
            return _counts(connection, key)[1]
        connection.execute(_SET_COUNTS, (key, claim.failures, claim.starts + 1, time.time()))
        return claim.starts + 1

    def _undo_start(self, connection: sqlite3.Connection, key: str) -> None:
        claim = self._claims.get(key)
        if claim is None or not (claim.started or claim.doubtful):
            return
        if claim.had_row:
            connection.execute(_SET_COUNTS, (key, claim.failures, claim.starts, time.time()))
        else:
            connection.execute("DELETE FROM attempt WHERE key = ?", (key,))

    def _end_run(self, connection: sqlite3.Connection, key: str, run: RunRecord, is_counted: bool) -> int:  # noqa: FBT001 - a field of the command
        claim = self._claims.get(key)
        if claim is None:
            return _counts(connection, key)[0]
        run, now, failures = fit_run(run), time.time(), claim.failures + is_counted
        found_by = (key_hash(key), key)
        if claim.doubtful:
            connection.execute(_DROP_REPEATED_RUN, (*found_by, run.attempt, run.ended_at))
        if run.traceback is not None:
            connection.execute(_FORGET_TRACEBACK, (*found_by, run.error))
        connection.execute(_INSERT_RUN, (found_by[0], now, *run_values(run)))
        connection.execute(_DROP_OLDER_RUNS, found_by)
        connection.execute(_SET_LAST_RUN, (key, failures, claim.starts, now, *open_values(run)))
        return failures

    def _end(self, connection: sqlite3.Connection, record: JobRecord, letter: DeadLetterRecord | None) -> bool:
        key, dead = record.key, letter is not None
        claim = self._claims.get(key)
        if claim is None or claim.doubtful:
            row = connection.execute(_FIND_ENDED, (key_hash(key), key)).fetchone()
            if row is not None or claim is None:
                return bool(row == (dead, self._holder))
        now = time.time()
        connection.execute(INSERT_JOB, job_row(record, dead=dead, holder=self._holder, now=now))
        if letter is not None:
            connection.execute(_INSERT_LETTER, _letter_row(letter, now=now))
        if claim.on_file:
            connection.execute("DELETE FROM attempt WHERE key = ?", (key,))
        return True


def job_row(record: JobRecord, *, dead: bool, holder: str, now: float) -> tuple[object, ...]:
    """The parameters of ``INSERT_JOB``."""
    return (key_hash(record.key), dead, holder, now, *job_values(fit_record(record)))


def _letter_row(letter: DeadLetterRecord, *, now: float) -> tuple[object, ...]:
    letter = fit_letter(letter)
    return (now, letter.size_bytes, *letter_values(letter), *job_values(letter.job))


def count_waiting(connection: sqlite3.Connection) -> list[WaitingLetters]:
    """See ``Ledger.waiting``."""
    return [read_waiting(row) for row in connection.execute(COUNT_WAITING)]


def take_due_hooks(
    connection: sqlite3.Connection, queue: str, limit: int, least_s: float, most_s: float
) -> list[StoredLetter]:
    """See ``Ledger.take_due_hooks``."""
    now = time.time()
    due = connection.execute(FIND_DUE_HOOKS, (queue, now, limit)).fetchall()
    if not due:
        return []
    with writing(connection):
        rows = [row for (number,) in due for row in connection.execute(_PUT_OFF_HOOK, (number, now, least_s, most_s))]
    return [read_letter(row) for row in rows]


def hook_done(connection: sqlite3.Connection, letter_id: int) -> None:
    """See ``Ledger.hook_done``."""
    with writing(connection):
        connection.execute(_HOOK_DONE, (letter_id,))


def ping(connection: sqlite3.Connection) -> None:
    """See ``Ledger.ping``."""
    with writing(connection):
        connection.execute(_PING)


def _find_ended(connection: sqlite3.Connection, keys: Sequence[str]) -> dict[str, Ended]:
    """How those keys have ended that have."""
    ended: dict[str, Ended] = {}
    for some in _chunks([key_hash(key) for key in keys]):
        statement = f"SELECT key, {ENDED_COLUMNS_SQL} FROM job WHERE key_hash IN ({_marks(some)})"  # noqa: S608 - names and question marks only
        # In the order of hashes and ids: of several rows of a key the last one counts.
        rows = connection.execute(statement, some)
        ended.update((key, Ended(bool(dead), *texts)) for key, dead, *texts in rows)
    return ended


def _find_known(connection: sqlite3.Connection, keys: Sequence[str]) -> dict[str, Claimed]:
    """What the file has of those keys that have failures, starts or runs."""
    found: dict[str, Claimed] = {}
    for some in _chunks(keys):
        statement = f"SELECT key, failures, starts, trace_parent FROM attempt WHERE key IN ({_marks(some)})"  # noqa: S608 - question marks only
        found.update((key, Claimed(*known)) for key, *known in connection.execute(statement, some))
    return found


def _chunks(values: Sequence[T]) -> Iterator[Sequence[T]]:
    return (values[first : first + _KEYS_AT_ONCE] for first in range(0, len(values), _KEYS_AT_ONCE))


def _marks(values: Sequence[object]) -> str:
    return ",".join("?" * len(values))


def _counts(connection: sqlite3.Connection, key: str) -> tuple[int, int]:
    row = connection.execute("SELECT failures, starts FROM attempt WHERE key = ?", (key,)).fetchone()
    return (0, 0) if row is None else (row[0], row[1])


def prune(connection: sqlite3.Connection, older_than_s: float, limit: int, letters_older_than_s: float | None) -> int:
    """See ``Ledger.prune``; the rows are removed from the old end of each table."""
    now = time.time()
    ages = [(statement, older_than_s) for statement in _PRUNE]
    if letters_older_than_s is not None:
        ages.append((_PRUNE_LETTERS, letters_older_than_s))
    removed = 0
    with writing(connection):
        for statement, age_s in ages:
            if removed < limit:
                removed += connection.execute(statement, (limit - removed, now - age_s)).rowcount
    return removed
