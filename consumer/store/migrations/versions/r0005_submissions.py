"""Jobs that were sent to MPS are recorded."""

from consumer.store.migrations.changes import run_script

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Make the table."""
    run_script("r0005")
