"""The definition of the tables, what is made from it, and what the tables refuse."""

import ast
import re
import sqlite3
from contextlib import closing
from dataclasses import fields
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from consumer.store import tables
from consumer.store.ledger import DeadLetterRecord, JobRecord, RunRecord
from consumer.store.postgres.ledger import PostgresLedger
from tests.store.postgres_rig import psql
from tests.store.schema import schemas
from tests.stores import new_file

STORE = Path(tables.__file__).parent


@pytest.mark.parametrize(("path", "text"), schemas().items(), ids=["sqlite", "postgres"])
def test_the_schema_is_made_from_the_tables(path: Path, text: str) -> None:
    """New stores have the tables that are defined. After a change: a revision, and a new file."""
    assert path.read_text(encoding="utf-8") == text, "run: python -m tests.store.schema"


@pytest.mark.parametrize("jobs", [tables.SQLITE_JOBS, tables.POSTGRES_JOBS])
def test_a_record_has_its_columns(jobs: Any) -> None:
    """The columns of jobs and letters are the fields of their records, and what may be missing is the same."""
    record = {field.name: "None" in str(field.type) for field in fields(JobRecord)}
    letter = {field.name: "None" in str(field.type) for field in fields(DeadLetterRecord) if field.name != "job"}
    letters = tables.SQLITE_LETTERS if jobs is tables.SQLITE_JOBS else tables.POSTGRES_LETTERS
    assert {**record, **letter}.items() <= {column.name: column.nullable for column in letters.columns}.items()
    if jobs is tables.SQLITE_JOBS:
        assert record.items() <= {column.name: column.nullable for column in jobs.columns}.items()
    assert record.keys() <= {column.name for column in jobs.columns}


@pytest.mark.parametrize("runs", [tables.SQLITE_RUNS, tables.POSTGRES_RUNS])
def test_a_run_has_its_columns(runs: Any) -> None:
    """The columns of runs are the fields of their record, and what may be missing is the same."""
    record = {field.name: "None" in str(field.type) for field in fields(RunRecord)}
    assert record.items() <= {column.name: column.nullable for column in runs.columns}.items()


def spelt(source: str) -> set[str]:
    """The names in a source that are attributes, annotated fields or words of texts; not those of docstrings."""
    tree = ast.parse(source)
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    found: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.Constant(value=str() as text) if id(node) not in prose:
                found |= set(re.findall(r"\w+", text))
            case ast.Attribute(attr=name) | ast.AnnAssign(target=ast.Name(id=name)) | ast.keyword(arg=str() as name):
                found.add(name)
    return found


def test_two_modules_spell_the_columns_of_a_job() -> None:
    """The record and the table alone list them: what the hot path writes and reads follows from these."""
    shared = {"key", "queue", "kind", "state", "message"}  # words that mean other things too
    own = {field.name for field in fields(JobRecord)} - shared
    modules = [path for path in STORE.rglob("*.py") if "migrations" not in path.parts]
    lists = {path.name for path in modules if len(own & spelt(path.read_text(encoding="utf-8"))) > 2}
    assert lists == {"ledger.py", "tables.py"}


LETTER = """INSERT INTO {letter} (replay, replayed_at, stored_at, reason, error, body, dequeue_count,
  first_dequeued_at, bytes, key, queue, kind, function, message_id, state, attempts, enqueued_at, started_at, ended_at)
VALUES ({replay}, {replayed_at}, 1, {reason}, 'e', '', 1, 1, 0, {key}, 'q', 'k', 'f', 'm', {state}, 1, 1, 1, 1)"""
GOOD = {"replay": "'set_aside'", "replayed_at": "NULL", "reason": "'rejected'", "key": "'k'", "state": "''"}
BAD = [
    {"replay": "'lost'"},
    {"replay": "'replayed'"},
    {"replayed_at": "1"},
    {"reason": "'unknown'"},
    {"key": f"'{'k' * 1088}'"},
    {"state": "NULL"},
]


def test_a_file_refuses_what_no_letter_has(sqlite_path: Path) -> None:
    """SQLite itself refuses unknown reasons and states, missing values and keys that are too long."""
    with closing(new_file(sqlite_path)) as connection:
        connection.execute(LETTER.format(letter="letter", **GOOD))
        for bad in BAD:
            with pytest.raises(sqlite3.IntegrityError):
                connection.execute(LETTER.format(letter="letter", **{**GOOD, **bad}))


async def test_a_database_refuses_what_no_record_has(ledgers: list[PostgresLedger], postgres_target: str) -> None:
    """PostgreSQL refuses the same, and an ended job that lacks a value."""
    async with psql(postgres_target) as connection:
        await connection.execute(LETTER.format(letter="mns_consumer_letter", **GOOD))
        for bad in BAD:
            with pytest.raises(asyncpg.IntegrityConstraintViolationError):
                await connection.execute(LETTER.format(letter="mns_consumer_letter", **{**GOOD, **bad}))
        await ledgers[0].claim("k", 60)
        with pytest.raises(asyncpg.CheckViolationError, match="whole_when_ended"):
            await connection.execute("UPDATE mns_consumer_job SET dead = false, stored_at = 1")
