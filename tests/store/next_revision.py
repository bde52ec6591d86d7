"""A program whose tables are one revision further: what this one has to migrate stores to."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Final

import pytest

from consumer.cli import check, migrate
from consumer.store import migrate as migration_module
from consumer.store import rows
from consumer.store.postgres import database
from consumer.store.rows import SCHEMA_REVISION
from consumer.store.sqlite import ledger, schema

NEXT: Final = "9000"
ADD: Final = """    tables = {"sqlite": "letter", "postgresql": "mns_consumer_letter"}
    op.add_column(
        tables[op.get_context().dialect.name],
        sa.Column("note", sa.Text, nullable=False, server_default="none"),
    )
"""
ALLOW: Final = """    from consumer.store.migrations.changes import change_check

    tables = {"sqlite": "letter", "postgresql": "mns_consumer_letter"}
    known = "replay IN ('set_aside', 'replaying', 'replayed')"
    change_check(tables, "replay_known", known, known.replace(")", ", 'lost')"))
"""
_REVISION: Final = '''"""{doc}"""

import sqlalchemy as sa
from alembic import op

revision = "{next}"
down_revision = "{head}"


def upgrade() -> None:
{body}
'''
_KNOW_IT: Final[tuple[ModuleType, ...]] = (rows, schema, ledger, database, check, migrate)


def write_revision(folder: Path, body: str = ADD) -> Path:
    """Copy the migrations into a folder, with one more; by default it adds a column to the letters."""
    shutil.copytree(migration_module._FOLDER, folder, ignore=shutil.ignore_patterns("__pycache__"))
    text = _REVISION.format(doc="One more.", next=NEXT, head=SCHEMA_REVISION, body=body)
    (folder / "versions" / f"r{NEXT}.py").write_text(text, encoding="utf-8")
    return folder


def update_program(monkeypatch: pytest.MonkeyPatch, folder: Path, body: str = ADD) -> None:
    """From here on this program has one revision more."""
    monkeypatch.setattr(migration_module, "_FOLDER", write_revision(folder, body))
    for module in _KNOW_IT:
        monkeypatch.setattr(module, "SCHEMA_REVISION", NEXT)


def in_a_process(folder: Path) -> str:
    """The same as ``update_program``, as lines for a file that a process imports."""
    return f"""
import pathlib
from consumer.store import migrate, rows
from consumer.store.sqlite import ledger, schema
migrate._FOLDER = pathlib.Path({str(folder)!r})
rows.SCHEMA_REVISION = schema.SCHEMA_REVISION = ledger.SCHEMA_REVISION = {NEXT!r}
"""


def look(path: Path, query: str) -> list[tuple[object, ...]]:
    """The rows of a query of an SQLite file."""
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(query).fetchall()
