"""The text of each engine's ``schema.sql``. ``python -m tests.store.schema`` writes both files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from sqlalchemy import Dialect, MetaData
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.schema import CreateIndex, CreateTable, SetColumnComment, SetTableComment

from consumer.store import tables

_STORE: Final = Path(__file__).resolve().parents[2] / "consumer" / "store"
_HEAD: Final = "-- Made from consumer/store/tables.py by: python -m tests.store.schema"


def _statements(metadata: MetaData, dialect: Dialect) -> Iterator[str]:
    yield _HEAD
    for table in metadata.sorted_tables:
        indexes = sorted(table.indexes, key=lambda index: str(index.name))
        creates = [CreateTable(table, if_not_exists=True), *(CreateIndex(one, if_not_exists=True) for one in indexes)]
        comments = [
            *([SetTableComment(table)] if table.comment else []),
            *(SetColumnComment(one) for one in table.columns if one.comment),
        ]
        for statement in [*creates, *(comments if dialect.supports_comments else ())]:
            lines = str(statement.compile(dialect=dialect)).strip().splitlines()
            yield "\n".join(line.expandtabs(2).rstrip() for line in lines) + ";"


def schemas() -> dict[Path, str]:
    """The files and what they should hold."""
    made = {
        "sqlite": _statements(tables.SQLITE, SQLiteDialect_pysqlite()),
        "postgres": _statements(tables.POSTGRES, PGDialect_asyncpg()),  # type: ignore[no-untyped-call]  # as it comes
    }
    return {_STORE / engine / "schema.sql": "\n".join(texts) + "\n" for engine, texts in made.items()}


if __name__ == "__main__":
    for path, text in schemas().items():
        path.write_text(text, encoding="utf-8")
