"""Changes that differ between the engines."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from alembic import op

_SCRIPTS: Final = Path(__file__).with_name("versions")


def run_script(revision: str) -> None:
    """Execute the statements of a revision that makes tables: for new ones, SQL is the shortest form."""
    script = _SCRIPTS / f"{revision}_{op.get_context().dialect.name}.sql"
    for statement in script.read_text(encoding="utf-8").split(";\n"):
        if statement:
            op.execute(statement)


def change_check(tables: Mapping[str, str], name: str, before: str, after: str) -> None:
    """Change the condition of a CHECK so that it allows more than before.

    SQLite can't alter a constraint; its way is to change the table's text, which leaves the rows where they are. See
    sqlite.org/lang_altertable.html, 7.

    Args:
        tables: The table's name by dialect.
        name: Of the constraint.
        before: Its condition as ``schema.sql`` has it; with another one nothing changes on SQLite.
        after: The new one.
    """
    dialect = op.get_context().dialect.name
    table = tables[dialect]
    if dialect == "postgresql":
        op.drop_constraint(name, table)
        op.create_check_constraint(name, table, after)
        return
    old, new = (f"CHECK ({condition})".replace("'", "''") for condition in (before, after))
    op.execute("PRAGMA writable_schema = ON")
    op.execute(f"UPDATE sqlite_master SET sql = replace(sql, '{old}', '{new}') WHERE name = '{table}'")  # noqa: S608 - constants of a revision
    op.execute("PRAGMA writable_schema = RESET")
