"""Whatever moves between memory and the index, each row of the table is found by its key, by daemon and operators."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from consumer.store.commands import ClaimCommand, DoneCommand, PruneCommand, ReleaseCommand
from consumer.store.ledger import Claimed, Ended, JobRecord
from consumer.store.sqlite import database as sqlite_database
from consumer.store.sqlite import statements as sqlite_statements
from consumer.store.sqlite.database import (
    INSERT_JOB,
    MIGRATIONS,
    add_row,
    connect,
    ids_by_hash,
    ids_of,
    job_row,
    next_id,
    remove_rows,
    writing,
)
from consumer.store.sqlite.ledger import SqliteLedger
from consumer.store.sqlite.statements import SqliteStatements

MAX_FRESH = 6


def record(key: str) -> JobRecord:
    """What is kept of a key."""
    return JobRecord(key=key, queue="q", kind="k", function="f", message_id="m")


class Daemon:
    """A daemon's part of the file, without its thread."""

    def __init__(self, path: Path) -> None:
        self.connection = connect(path, create=True)
        self.statements = SqliteStatements()

    def claim(self, keys: Sequence[str]) -> list[Any]:
        """Claim keys and let them go again."""
        claims = [ClaimCommand(key, 60.0) for key in keys]
        self.statements.read(self.connection, claims)
        self.statements.write(self.connection, [ReleaseCommand(key) for key in keys])
        return [claim.answer for claim in claims]

    def end(self, keys: Sequence[str]) -> list[Any]:
        """Claim keys and close those that are open, in one transaction."""
        self.statements.read(self.connection, [ClaimCommand(key, 60.0) for key in keys])
        ends = [DoneCommand(key, record(key)) for key in keys]
        self.statements.write(self.connection, ends)
        return [end.answer for end in ends]

    def prune(self, count: int) -> int:
        """Forget the oldest."""
        command = PruneCommand(older_than_s=-60.0, limit=count, letters_older_than_s=None)
        self.statements.write(self.connection, [command])
        return command.answer


@pytest.fixture(autouse=True)
def small_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_database, "MAX_FRESH", MAX_FRESH)
    monkeypatch.setattr(sqlite_database, "_SWEEP", MAX_FRESH)
    # So slow that most calls fall into a pass.
    monkeypatch.setattr(sqlite_database, "_PACE", 1)


@pytest.fixture
def daemon(sqlite_path: Path) -> Iterator[Daemon]:
    made = Daemon(sqlite_path)
    yield made
    made.connection.close()


def _rows(connection: sqlite3.Connection, statement: str) -> set[tuple[Any, ...]]:
    return set(connection.execute(statement))


def see_that_all_is_found(daemon: Daemon, keys: Sequence[str]) -> None:
    """What has a row has ended, what has none is open, for daemon, operators, and whoever opens the file next."""
    connection = daemon.connection
    stored = dict(connection.execute("SELECT key, id FROM job"))
    expected = [Ended(dead=False, function="f") if key in stored else Claimed() for key in keys]
    assert daemon.claim(keys) == expected
    assert [ids_of(connection, key) for key in keys] == [[stored[key]] if key in stored else [] for key in keys]
    old_rows = "SELECT key_hash >> 32, id FROM job WHERE id <= (SELECT upto FROM indexed)"
    assert _rows(connection, old_rows) <= _rows(connection, "SELECT head, id FROM job_by_key")
    assert not _rows(connection, "SELECT * FROM job_by_key WHERE id < (SELECT swept FROM indexed)")


@contextmanager
def _broken_off(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    yield
    connection.execute("ROLLBACK")
    raise sqlite3.OperationalError("disk I/O error")


class IndexModel(RuleBasedStateMachine):
    """One daemon that ends, prunes, fails and comes again, and operators beside it."""

    path: Path
    round = 0

    def __init__(self) -> None:
        super().__init__()
        IndexModel.round += 1
        self.daemon = Daemon(self.path.with_name(f"{self.round}.db"))
        self.keys: list[str] = []

    @rule(count=st.integers(1, 4))
    def end(self, count: int) -> None:
        """Keys that were never seen."""
        new = [f"key {len(self.keys) + number}" for number in range(count)]
        self.keys += new
        assert self.daemon.end(new) == [True] * count

    @rule(number=st.integers(0, 10))
    def end_again(self, number: int) -> None:
        """One of the last keys; its row may have been taken away meanwhile."""
        self.daemon.end(self.keys[-1 - number :][:1])

    @rule(number=st.integers(0, 10))
    def reopen(self, number: int) -> None:
        """An operator takes the row of one of the last keys away; nobody tells the daemon."""
        for key in self.keys[-1 - number :][:1]:
            with writing(self.daemon.connection):
                remove_rows(self.daemon.connection, key)

    @rule(number=st.integers(0, 10))
    def close(self, number: int) -> None:
        """An operator puts a row back."""
        connection = self.daemon.connection
        for key in self.keys[-1 - number :][:1]:
            with writing(connection):
                if not ids_of(connection, key):
                    row = job_row(record(key), row_id=next_id(connection), dead=False, holder="", now=0.0)
                    add_row(connection, row)

    @rule(count=st.sampled_from([1, 3, 9, 99]))
    def prune(self, count: int) -> None:
        """The oldest go."""
        stored = self.daemon.connection.execute("SELECT count(*) FROM job").fetchone()[0]
        assert self.daemon.prune(count) == min(count, stored)

    @rule(count=st.integers(1, 4))
    def fail(self, count: int) -> None:
        """A transaction breaks off after everything was done in it."""
        keys = [f"failed {number}" for number in range(count)]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sqlite_statements, "writing", _broken_off)
            with pytest.raises(sqlite3.OperationalError, match="disk I/O error"):
                self.daemon.end(keys)
        self.daemon.statements.write(self.daemon.connection, [ReleaseCommand(key) for key in keys])

    @rule()
    def restart(self) -> None:
        """The file is closed and opened by another."""
        self.daemon.connection.close()
        self.daemon = Daemon(self.path.with_name(f"{self.round}.db"))

    @invariant()
    def all_is_found(self) -> None:
        """Every row, by everyone."""
        see_that_all_is_found(self.daemon, [*self.keys[-40:], "failed 0", "never seen"])

    def teardown(self) -> None:
        """No connection stays open."""
        self.daemon.connection.close()


def test_any_order(sqlite_path: Path) -> None:
    """After any order of ends, prunes, failures, restarts and operators' work, each row is found by its key."""
    sqlite_path.parent.mkdir()
    IndexModel.path = sqlite_path
    run_state_machine_as_test(
        IndexModel,
        settings=settings(
            max_examples=120,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
        ),
    )


def test_a_pass_sweeps(daemon: Daemon) -> None:
    """Entries of rows that were pruned, before a pass or in memory, are gone after the next pass; no other is."""
    keys = [f"key {number}" for number in range(40)]
    for key in keys[:20]:
        daemon.end([key])
    assert daemon.prune(17) == 17
    for key in keys[20:]:
        daemon.end([key])
    connection = daemon.connection
    upto, swept = connection.execute("SELECT upto, swept FROM indexed").fetchone()
    assert upto > 20
    assert swept == 18
    entries, rows = "SELECT head, id FROM job_by_key", "SELECT key_hash >> 32, id FROM job"
    upto_there = "WHERE id <= (SELECT upto FROM indexed)"
    assert _rows(connection, f"{entries} {upto_there}") == _rows(connection, f"{rows} {upto_there}")
    see_that_all_is_found(daemon, keys)


def test_an_id_that_a_pass_has_taken_along_is_not_given_again(daemon: Daemon, sqlite_path: Path) -> None:
    """Rows may go from the end of the table while a pass is under way: those that come then are found ever after."""
    keys = [f"key {number}" for number in range(MAX_FRESH)]
    for key in keys:
        daemon.end([key])
    for key in keys[3:]:
        with writing(daemon.connection):
            remove_rows(daemon.connection, key)
    later = [f"later {number}" for number in range(2 * MAX_FRESH)]
    for key in later:
        daemon.end([key])
        see_that_all_is_found(daemon, keys + later)
        with closing(connect(sqlite_path, create=False)) as connection:
            assert len(ids_of(connection, key)) == 1


def test_a_pass_outlives_its_daemon(daemon: Daemon, sqlite_path: Path) -> None:
    """Where one daemon ended in the middle of a pass the next goes on, however often it happens."""
    keys = [f"key {number}" for number in range(60)]
    swept = 0
    for number, key in enumerate(keys):
        with closing(connect(sqlite_path, create=False)) as connection:
            daemon.connection, daemon.statements = connection, SqliteStatements()
            daemon.end([key])
            if number == 30:
                assert daemon.prune(15) == 15
            upto, swept = connection.execute("SELECT upto, swept FROM indexed").fetchone()
            assert upto > number - 4 * MAX_FRESH
    assert swept == 16
    daemon.connection = connect(sqlite_path, create=False)
    see_that_all_is_found(daemon, keys)


async def test_a_file_of_the_first_version(sqlite_path: Path) -> None:
    """What ended before the index was filled in bulk is found by daemon and operators."""
    sqlite_path.parent.mkdir()
    keys = [f"key {number}" for number in range(20)]
    columns = INSERT_JOB.replace("key_hash, id,", "key_hash,").replace("VALUES (?,", "VALUES (")
    with closing(sqlite3.connect(sqlite_path)) as connection:
        connection.executescript(f"{MIGRATIONS[0]}; PRAGMA user_version = 1")
        for key in keys:
            row = job_row(record(key), row_id=0, dead=False, holder="h", now=1.0)
            connection.execute(columns, (row[0], *row[2:]))
        connection.commit()
    with closing(connect(sqlite_path, create=False)) as connection:
        assert all(len(ids_of(connection, key)) == 1 for key in keys)
    ledger = SqliteLedger(sqlite_path)
    await ledger.open()
    assert [await ledger.claim(key, 60) for key in [*keys, "new"]] == [
        *[Ended(dead=False, function="f")] * 20,
        Claimed(),
    ]
    await ledger.close()


def test_no_statement_reads_a_whole_table(daemon: Daemon) -> None:
    """Claims, an operator's look-up, a new connection and each step of a pass find what they read by an index."""
    daemon.claim(["k"])
    values = {"hash": 1, "key": "k", "first": 1, "last": 2, "end": 3, "oldest": 3, "count": 4}
    statements = [sqlite_database._LAST, sqlite_database._MOVE, sqlite_database._FORGET, sqlite_database._SWEEP_OUT]
    claim = ids_by_hash(1).replace("?1", ":hash")
    for statement in [*statements, sqlite_database._UNINDEXED, sqlite_database._IDS, claim]:
        plan = [row[3] for row in daemon.connection.execute(f"EXPLAIN QUERY PLAN {statement}", values)]
        assert any(step.startswith("SEARCH") for step in plan)
        assert {step for step in plan if step.startswith("SCAN")} <= {"SCAN indexed"}
