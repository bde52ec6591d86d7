"""The first tables: jobs and their attempts, dead letters."""

from pathlib import Path

from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the tables."""
    script = Path(__file__).with_name(f"r0001_{op.get_context().dialect.name}.sql")
    for statement in script.read_text(encoding="utf-8").split(";\n"):
        if statement:
            op.execute(statement)
