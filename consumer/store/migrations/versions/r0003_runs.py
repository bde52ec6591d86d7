"""Runs that leave their jobs open are stored, and an open key knows its last one. Of earlier runs there is no more."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Make the table of runs, and add the columns of the last run."""
    is_sqlite = op.get_context().dialect.name == "sqlite"
    key = sa.CheckConstraint("length(key) <= 1087", name="key_length")
    error = sa.CheckConstraint("length(error) <= 2048", name="error_length")
    key_hash = sa.Column("key_hash", sa.BigInteger, nullable=False)
    key_id = sa.Column(
        "key_id", sa.LargeBinary, sa.CheckConstraint("length(key_id) = 16"), nullable=False, comment="rows.key_id"
    )
    name = "run" if is_sqlite else "mns_consumer_run"
    found_by = key_hash if is_sqlite else key_id
    number = sa.Integer if is_sqlite else sa.BigInteger
    op.create_table(
        name,
        sa.Column("id", number, sa.Identity(always=True), primary_key=True, comment="rises with time"),
        found_by,
        sa.Column("stored_at", sa.Double, nullable=False),
        sa.Column("key", sa.Text, key, nullable=False, comment="the ledger key of its job, or of its message"),
        sa.Column("queue", sa.Text, nullable=False, comment="account/region/name"),
        sa.Column("function", sa.Text, nullable=False, comment="FunctionName, or the name of another kind"),
        sa.Column("message_id", sa.Text, nullable=False, comment="MessageId of MNS"),
        sa.Column("job_id", sa.Text, comment="JobId or RunId"),
        sa.Column("attempt", sa.BigInteger, nullable=False, comment="its number, from 1"),
        sa.Column("started_at", sa.Double, nullable=False),
        sa.Column("ended_at", sa.Double, nullable=False),
        sa.Column("result", sa.Text, nullable=False, comment="in one word"),
        sa.Column("error", sa.Text, error, nullable=False, comment="one sentence: what was expected, what came"),
        sa.Column("traceback", sa.Text, sa.CheckConstraint("length(traceback) <= 16384")),
        sa.Column("retry_at", sa.Double, comment="when its message is delivered again"),
        sa.Column("trace_parent", sa.Text, comment="its span"),
        comment="runs that have left their jobs open",
    )
    op.create_index(f"{name}_key", name, [found_by.name, "id"])
    if not is_sqlite:
        op.create_index(f"{name}_stored", name, ["stored_at"])
    open_keys = "attempt" if is_sqlite else "mns_consumer_job"
    if is_sqlite:
        op.add_column(open_keys, sa.Column("function", sa.Text))
        op.add_column(open_keys, sa.Column("job_id", sa.Text))
    retry_at = "while the key is open: when its message is delivered again"
    op.add_column(open_keys, sa.Column("retry_at", sa.Double, comment=retry_at))
    trace_parent = "while the key is open: the span of its last run"
    op.add_column(open_keys, sa.Column("trace_parent", sa.Text, comment=trace_parent))
