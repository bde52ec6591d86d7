"""Dead letters have the time at which their hook is due; none is due of those that are there."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add the column and its index."""
    table = {"sqlite": "letter", "postgresql": "mns_consumer_letter"}[op.get_context().dialect.name]
    comment = "when its hook is due; null where none is, 0 from the start"
    op.add_column(table, sa.Column("hook_at", sa.Double, comment=comment))
    due = sa.text("hook_at IS NOT NULL")
    op.create_index(f"{table}_hook", table, ["queue", "hook_at"], sqlite_where=due, postgresql_where=due)
