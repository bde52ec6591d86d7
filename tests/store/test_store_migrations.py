"""A store of an earlier revision gets today's tables, or stays as it is; a later one is refused."""

from __future__ import annotations

import asyncio
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory

from consumer.errors import StoreBusyError, StoreError, StoreSchemaError
from consumer.store import migrate as migration_module
from consumer.store.ledger import Claimed, DeadLetterRecord, Filter, JobRecord
from consumer.store.migrate import migration
from consumer.store.open import find_revision, migrate
from consumer.store.postgres.ledger import PostgresLedger
from consumer.store.rows import SCHEMA_REVISION
from consumer.store.sqlite import schema
from consumer.store.sqlite.files import make_folder
from consumer.store.sqlite.ledger import SqliteLedger
from consumer.store_address import parse_store_address
from tests.postgres import postgres_store
from tests.store.next_revision import ALLOW, NEXT, look, update_program
from tests.store.postgres_rig import at, psql
from tests.stores import new_file, operators_at

MakeRecord = Callable[..., JobRecord]
MakeLetter = Callable[..., DeadLetterRecord]
BROKEN = "    op.execute('DELETE FROM letter')\n    op.execute('SELECT nonsense')\n"


def checks_of(text: str) -> set[str]:
    """The conditions of the CHECKs in a CREATE TABLE."""
    found = set()
    for match in re.finditer(r"CHECK \(", text):
        depth, end = 1, match.end()
        while depth:
            depth += {"(": 1, ")": -1}.get(text[end], 0)
            end += 1
        found.add(text[match.end() : end - 1])
    return found


def sqlite_tables(connection: sqlite3.Connection) -> dict[str, Any]:
    """Columns, constraints and indexes by name, whatever the order of columns."""
    master = connection.execute("SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
    tables: dict[str, Any] = {}
    for kind, name, text in master:
        if kind == "index":
            tables[name] = " ".join(text.split())
            continue
        columns = connection.execute("SELECT name, type, [notnull], dflt_value, pk FROM pragma_table_info(?)", (name,))
        tables[name] = (set(columns), checks_of(text), "WITHOUT ROWID" in text, "AUTOINCREMENT" in text)
    return tables


async def postgres_tables(connection: asyncpg.Connection) -> set[tuple[object, ...]]:
    """Columns, constraints, indexes and comments in the schema of the connection."""
    columns = """SELECT table_name, column_name, data_type, is_nullable, column_default, is_identity
      FROM information_schema.columns WHERE table_schema = current_schema()"""
    constraints = """SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid)
      FROM pg_constraint WHERE connamespace = current_schema()::regnamespace"""
    indexes = """SELECT indexname, replace(indexdef, current_schema() || '.', '')
      FROM pg_indexes WHERE schemaname = current_schema()"""
    comments = """SELECT attrelid::regclass::text, attname, col_description(attrelid, attnum) FROM pg_attribute
      WHERE attrelid IN (SELECT oid FROM pg_class WHERE relnamespace = current_schema()::regnamespace)
        AND attnum > 0 AND attname NOT LIKE '%.pg.dropped.%' AND col_description(attrelid, attnum) IS NOT NULL"""
    queries = (columns, constraints, indexes, comments)
    return {tuple(map(str, row)) for query in queries for row in await connection.fetch(query)}


def test_the_newest_revision_is_the_programs() -> None:
    """Alembic's revisions are one line that ends at the revision that the program states."""
    config = Config()
    config.set_main_option("script_location", str(migration_module._FOLDER))
    assert ScriptDirectory.from_config(config).get_heads() == [SCHEMA_REVISION]


def test_all_revisions_make_the_tables_of_a_new_file(sqlite_path: Path, tmp_path: Path) -> None:
    """A file that went through every revision has the tables of a new one."""
    with closing(new_file(sqlite_path)) as new, closing(sqlite3.connect(tmp_path / "old")) as old:
        for statement in migration("sqlite", None):
            old.execute(statement)
        assert sqlite_tables(old) == sqlite_tables(new)
        assert old.execute("SELECT * FROM revision").fetchall() == new.execute("SELECT * FROM revision").fetchall()


LETTER_OF_BEFORE = """INSERT INTO letter (stored_at, reason, error, body, dequeue_count, first_dequeued_at, bytes, key,
  queue, kind, function, message_id, state, attempts, enqueued_at, started_at, ended_at)
  VALUES (1, 'rejected', 'e', '', 1, 1, 0, 'k', 'q', 'k', 'f', 'm', '', 1, 1, 1, 1)"""


def test_letters_of_before_have_no_fingerprint(tmp_path: Path) -> None:
    """A letter of revision 0001 is kept, without a fingerprint, and so is one that a daemon of then adds later."""
    letter = LETTER_OF_BEFORE
    with closing(sqlite3.connect(tmp_path / "old")) as old:
        for statement in [*migration("sqlite", None, "0001"), letter, *migration("sqlite", "0001", "0002"), letter]:
            old.execute(statement)
        assert old.execute("SELECT error_fingerprint FROM letter").fetchall() == [("",), ("",)]


def test_failures_of_before_have_no_run(tmp_path: Path) -> None:
    """A key's failures of revision 0002 are kept, without a run, and a daemon of then counts on."""
    count = """INSERT INTO attempt (key, failures, starts, error, stored_at) VALUES ('k', 1, 0, 'e', 1)
      ON CONFLICT (key) DO UPDATE SET failures = failures + 1"""
    with closing(sqlite3.connect(tmp_path / "old")) as old:
        for statement in [*migration("sqlite", None, "0002"), count, *migration("sqlite", "0002", "0003"), count]:
            old.execute(statement)
        assert old.execute("SELECT failures, function, retry_at FROM attempt").fetchall() == [(2, None, None)]
        assert old.execute("SELECT count(*) FROM run").fetchall() == [(0,)]


def test_letters_of_before_have_no_due_hook(tmp_path: Path) -> None:
    """A letter of before hooks is kept, and none is due for it."""
    with closing(sqlite3.connect(tmp_path / "old")) as old:
        for statement in [*migration("sqlite", None, "0003"), LETTER_OF_BEFORE, *migration("sqlite", "0003")]:
            old.execute(statement)
        assert old.execute("SELECT hook_at FROM letter").fetchall() == [(None,)]


@pytest.fixture
def second_target() -> Iterator[str]:
    with postgres_store() as target:
        yield target


async def test_all_revisions_make_the_tables_of_a_new_database(postgres_target: str, second_target: str) -> None:
    """A database that went through every revision has the tables of a new one."""
    async with psql(postgres_target) as old:
        for statement in migration("postgresql", None):
            await old.execute(statement)
        ledger = PostgresLedger(at(second_target))
        await ledger.open()
        await ledger.close()
        async with psql(second_target) as new:
            assert await postgres_tables(old) == await postgres_tables(new)


async def fill(path: Path, make_record: MakeRecord, make_letter: MakeLetter) -> None:
    """A file with one job that is done and one dead letter."""
    ledger = SqliteLedger(path)
    await ledger.open()
    for key in ("done", "dead"):
        await ledger.claim(key, 60)
    await ledger.done(make_record("done"))
    await ledger.set_aside(make_letter("dead"))
    await ledger.close()


async def test_a_daemon_migrates_its_file(
    sqlite_path: Path,
    tmp_path: Path,
    make_record: MakeRecord,
    make_letter: MakeLetter,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A start migrates the file after a private copy; everything is kept; the next start removes the copy if it can."""
    await fill(sqlite_path, make_record, make_letter)
    update_program(monkeypatch, tmp_path / "migrations")
    with pytest.raises(StoreSchemaError, match=f"revision {SCHEMA_REVISION}, .* run: mns-consumer migrate"):
        await operators_at(str(sqlite_path)).count_letters(Filter())
    ledger = SqliteLedger(sqlite_path)
    await ledger.open()
    copy = sqlite_path.with_name(f"{sqlite_path.name}.before-{NEXT}")
    assert (copy.stat().st_mode & 0o777, look(copy, "SELECT * FROM revision")) == (0o600, [(SCHEMA_REVISION,)])
    assert look(copy, "SELECT key FROM letter") == [("dead",)]
    assert look(sqlite_path, "SELECT key, note, version_num FROM letter, revision") == [("dead", "none", NEXT)]
    assert (await ledger.claim("new", 60), type(await ledger.claim("done", 60)).__name__) == (Claimed(), "Ended")
    await ledger.close()
    assert await migrate(parse_store_address(str(sqlite_path))) == NEXT
    assert copy.exists()
    await ledger.open()
    await ledger.close()
    assert {one.name for one in sqlite_path.parent.iterdir()} == {sqlite_path.name, f"{sqlite_path.name}.lock"}
    copy.mkdir()
    await ledger.open()
    await ledger.close()


async def test_a_migration_that_fails_changes_nothing(
    sqlite_path: Path,
    tmp_path: Path,
    make_record: MakeRecord,
    make_letter: MakeLetter,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A migration is one transaction: when a statement fails, or no copy can be made, the file is as before."""
    await fill(sqlite_path, make_record, make_letter)
    update_program(monkeypatch, tmp_path / "migrations", BROKEN)
    with pytest.raises(StoreError, match="nonsense"):
        await SqliteLedger(sqlite_path).open()
    assert look(sqlite_path, "SELECT key, version_num FROM letter, revision") == [("dead", SCHEMA_REVISION)]
    copy = sqlite_path.with_name(f"{sqlite_path.name}.before-{NEXT}")
    copy.unlink()
    copy.mkdir()
    with pytest.raises(StoreError, match="it is not migrated, because no copy of it can be made"):
        await SqliteLedger(sqlite_path).open()
    assert look(sqlite_path, "SELECT key, version_num FROM letter, revision") == [("dead", SCHEMA_REVISION)]
    assert not copy.with_name(f"{copy.name}.unfinished").exists()


async def test_a_file_that_a_daemon_uses_is_not_migrated(
    sqlite_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command leaves a file alone that a daemon uses, and migrates it once that has ended."""
    ledger = SqliteLedger(sqlite_path)
    await ledger.open()
    update_program(monkeypatch, tmp_path / "migrations")
    with pytest.raises(StoreBusyError, match="belongs to another daemon"):
        await migrate(parse_store_address(str(sqlite_path)))
    await ledger.close()
    assert await migrate(parse_store_address(str(sqlite_path))) == SCHEMA_REVISION
    assert await find_revision(parse_store_address(str(sqlite_path))) == NEXT


async def test_a_shared_database_is_migrated_by_the_command(
    postgres_target: str,
    tmp_path: Path,
    make_letter: MakeLetter,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """New daemons refuse a database that is behind; the command migrates it once, while an old daemon works."""
    old = PostgresLedger(at(postgres_target))
    await old.open()
    for key in ("before", "after"):
        await old.claim(key, 60)
    await old.set_aside(make_letter("before"))
    update_program(monkeypatch, tmp_path / "migrations")
    with pytest.raises(StoreSchemaError, match=f"revision {SCHEMA_REVISION}, .* run: mns-consumer migrate"):
        await PostgresLedger(at(postgres_target)).open()
    both = await asyncio.gather(migrate(at(postgres_target)), migrate(at(postgres_target)))
    assert sorted(map(str, both)) == [SCHEMA_REVISION, NEXT]
    assert await old.set_aside(make_letter("after"))
    await old.close()
    async with psql(postgres_target) as connection:
        rows = await connection.fetch("SELECT key, note FROM mns_consumer_letter ORDER BY id")
        assert [tuple(row) for row in rows] == [("before", "none"), ("after", "none")]
    new = PostgresLedger(at(postgres_target))
    await new.open()
    await new.close()


async def test_the_command_makes_the_tables_of_an_empty_database(postgres_target: str) -> None:
    """A user who may make tables makes them for daemons that may not."""
    assert await find_revision(at(postgres_target)) is None
    assert await migrate(at(postgres_target)) is None
    assert await find_revision(at(postgres_target)) == SCHEMA_REVISION


def test_an_unfinished_copy_is_replaced(sqlite_path: Path, tmp_path: Path) -> None:
    """A copy that a killed process left unfinished is replaced."""
    make_folder(sqlite_path.parent)
    new_file(sqlite_path).close()
    copy = sqlite_path.with_name("copy")
    copy.with_name("copy.unfinished").write_bytes(b"half")
    with closing(sqlite3.connect(sqlite_path)) as connection:
        schema._copy(connection, sqlite_path, copy)
    assert look(copy, "SELECT version_num FROM revision") == [(SCHEMA_REVISION,)]


async def test_a_check_can_be_changed(
    sqlite_path: Path,
    postgres_target: str,
    tmp_path: Path,
    make_letter: MakeLetter,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A revision lets a column have one more value, in rows that were there before; others are refused as before."""
    for ledger in (SqliteLedger(sqlite_path), PostgresLedger(at(postgres_target))):
        await ledger.open()
        await ledger.claim("dead", 60)
        await ledger.set_aside(make_letter("dead"))
        await ledger.close()
    update_program(monkeypatch, tmp_path / "migrations", ALLOW)
    for target in (str(sqlite_path), postgres_target):
        assert await migrate(parse_store_address(target)) == SCHEMA_REVISION
    change = "UPDATE {} SET replay = '{}', replayed_at = 1"
    with closing(sqlite3.connect(sqlite_path)) as connection:
        connection.execute(change.format("letter", "lost"))
        with pytest.raises(sqlite3.IntegrityError, match="replay_known"):
            connection.execute(change.format("letter", "gone"))
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    async with psql(postgres_target) as other:
        await other.execute(change.format("mns_consumer_letter", "lost"))
        with pytest.raises(asyncpg.CheckViolationError, match="replay_known"):
            await other.execute(change.format("mns_consumer_letter", "gone"))
