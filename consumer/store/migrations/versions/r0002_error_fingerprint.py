"""Dead letters have the fingerprint of their error; those that are there get none."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the column and its index."""
    table = {"sqlite": "letter", "postgresql": "mns_consumer_letter"}[op.get_context().dialect.name]
    comment = "equal for letters of one cause; empty where it is unknown"
    op.add_column(table, sa.Column("error_fingerprint", sa.Text, server_default="", nullable=False, comment=comment))
    op.create_index(f"{table}_fingerprint", table, ["error_fingerprint", "id", "stored_at", "replay"])
