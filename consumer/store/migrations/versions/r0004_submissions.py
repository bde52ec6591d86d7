"""Jobs that were sent to MPS are recorded."""

from consumer.store.migrations.changes import run_script

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Make the table."""
    run_script("r0004")
