"""The definition of the tables, what is made from it, and what the tables refuse."""

import sqlite3
from contextlib import closing
from dataclasses import fields
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from consumer.store import tables
from consumer.store.ledger import DeadLetterRecord, JobRecord
from consumer.store.postgres.ledger import PostgresLedger
from tests.store.postgres_rig import psql
from tests.store.schema import schemas
from tests.stores import new_file


@pytest.mark.parametrize(("path", "text"), schemas().items(), ids=["sqlite", "postgres"])
def test_the_schema_is_made_from_the_tables(path: Path, text: str) -> None:
    """New stores have the tables that are defined. After a change: a new SCHEMA_VERSION, and a new file."""
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
