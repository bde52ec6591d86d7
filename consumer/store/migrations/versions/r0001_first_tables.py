"""The first tables: jobs and their attempts, dead letters."""

from consumer.store.migrations.changes import run_script

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the tables."""
    run_script("r0001")
