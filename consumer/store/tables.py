"""Every table of the store, for both engines.

``sqlite/schema.sql`` and ``postgres/schema.sql`` are made from it by ``python -m tests.store.schema``. A daemon makes a
new store by them and its hot statements by the columns of ``rows``, because SQLAlchemy takes 30 MiB and 0.3 s. A change
of a table is a new revision in ``migrations``.

The engines' jobs differ. SQLite has one owner, which keeps its claims in memory, so that rows are only added at the
end, and are found by a short hash of their key. PostgreSQL has a row for each key from its first claim on: the row's
lock decides which holder has it. It is found by a longer hash, which keeps the index a third of its size.

Times are UNIX seconds by the store's clock.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ColumnElement,
    Double,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    TextClause,
    text,
)

from consumer.message.notification import MAX_KEY_CHARACTERS
from consumer.policy import Reason, SubmissionState
from consumer.store.ledger import LetterState
from consumer.store.rows import MAX_ERROR_BYTES, MAX_TRACEBACK_BYTES, REVISION_TABLES
from consumer.store.submissions import IS_OPEN, MAX_REF_CHARACTERS

SQLITE: Final = MetaData()
POSTGRES: Final = MetaData()

_NUMBER: Final = BigInteger().with_variant(Integer(), "sqlite")  # SQLite numbers rows by an INTEGER alone


def _key(*, primary: bool = False) -> Column[str]:
    length = CheckConstraint(f"length(key) <= {MAX_KEY_CHARACTERS}", name="key_length")
    return Column(
        "key", Text, length, primary_key=primary, nullable=False, comment="the ledger key of its job, or of its message"
    )


def _record(*, required: bool = True) -> list[Column[Any]]:
    """The columns of ``JobRecord`` but the key."""
    may_lack = not required
    return [
        Column("queue", Text, nullable=may_lack, comment="account/region/name"),
        Column("kind", Text, nullable=may_lack, comment="the kind of the notification"),
        Column("function", Text, nullable=may_lack, comment="FunctionName, or the name of another kind"),
        Column("message_id", Text, nullable=may_lack, comment="MessageId of MNS"),
        Column("job_id", Text, comment="JobId or RunId"),
        Column("state", Text, nullable=may_lack, comment="as received, like code and message"),
        Column("code", Text),
        Column("message", Text),
        Column("user_data", Text, comment="JSON or any text"),
        Column("result", Text, comment="JSON; null when the handler wanted none"),
        Column("attempts", BigInteger, nullable=may_lack, comment="runs of the handler"),
        Column("enqueued_at", Double, nullable=may_lack, comment="when MNS took the message"),
        Column("started_at", Double, nullable=may_lack, comment="when the last run started"),
        Column("ended_at", Double, nullable=may_lack),
    ]


def _error(*, required: bool = False) -> Column[str]:
    limit = CheckConstraint(f"length(error) <= {MAX_ERROR_BYTES}", name="error_length")
    return Column("error", Text, limit, nullable=not required, comment="one sentence: what was expected, what came")


def _counts() -> list[Column[int]]:
    return [
        Column("failures", Integer, CheckConstraint("failures >= 0"), server_default=text("0"), nullable=False),
        Column(
            "starts",
            Integer,
            CheckConstraint("starts >= 0"),
            server_default=text("0"),
            nullable=False,
            comment="recorded starts without an end",
        ),
    ]


def _one_of(column: str, values: type[StrEnum]) -> CheckConstraint:
    """The column has one of these values; a new value needs a revision."""
    return CheckConstraint(f"{column} IN ({', '.join(repr(one.value) for one in values)})", name=f"{column}_known")


def _whole_when_ended() -> CheckConstraint:
    names = ["stored_at", *(column.name for column in _record() if not column.nullable)]
    whole = " AND ".join(f"{name} IS NOT NULL" for name in names)
    return CheckConstraint(f"dead IS NULL OR ({whole})", name="whole_when_ended")


def _index(name: str, *columns: Column[Any], where: ColumnElement[bool] | TextClause | None = None) -> None:
    """An index, perhaps of some rows alone."""
    Index(name, *columns, sqlite_where=where, postgresql_where=where)


def _last_run() -> list[Column[Any]]:
    """The columns ``OPEN_COLUMNS`` that no ended job has."""
    return [
        Column("retry_at", Double, comment="while the key is open: when its message is delivered again"),
        Column("trace_parent", Text, comment="while the key is open: the span of its last run"),
    ]


def _traceback() -> Column[str]:
    return Column("traceback", Text, CheckConstraint(f"length(traceback) <= {MAX_TRACEBACK_BYTES}"))


def _runs(metadata: MetaData, name: str, found_by: Column[Any]) -> Table:
    """The columns of ``RunRecord``, and what a run is found by: the hash of its key."""
    table = Table(
        name,
        metadata,
        Column("id", _NUMBER, Identity(always=True), primary_key=True, comment="rises with time"),
        found_by,
        Column("stored_at", Double, nullable=False),
        _key(),
        Column("queue", Text, nullable=False, comment="account/region/name"),
        Column("function", Text, nullable=False, comment="FunctionName, or the name of another kind"),
        Column("message_id", Text, nullable=False, comment="MessageId of MNS"),
        Column("job_id", Text, comment="JobId or RunId"),
        Column("attempt", BigInteger, nullable=False, comment="its number, from 1"),
        Column("started_at", Double, nullable=False),
        Column("ended_at", Double, nullable=False),
        Column("result", Text, nullable=False, comment="in one word"),
        _error(required=True),
        _traceback(),
        Column("retry_at", Double, comment="when its message is delivered again"),
        Column("trace_parent", Text, comment="its span"),
        comment="runs that have left their jobs open",
    )
    _index(f"{name}_key", found_by, table.c.id)
    return table


def _letters(metadata: MetaData, name: str) -> Table:
    table = Table(
        name,
        metadata,
        Column("id", _NUMBER, Identity(always=True), primary_key=True, comment="never given to another letter"),
        Column("replay", Text, _one_of("replay", LetterState), server_default=LetterState.SET_ASIDE, nullable=False),
        Column("replayed_at", Double, comment="when its last replay was begun or finished"),
        Column("stored_at", Double, nullable=False),
        Column("reason", Text, _one_of("reason", Reason), nullable=False),
        _error(required=True),
        _traceback(),
        Column("body", LargeBinary, nullable=False, comment="the raw bytes as MNS returned them"),
        Column("dequeue_count", BigInteger, nullable=False),
        Column("first_dequeued_at", Double, nullable=False),
        Column("bytes", BigInteger, nullable=False, comment="what it counts towards the limit: body and long texts"),
        _key(),
        *_record(),
        Column(
            "error_fingerprint",
            Text,
            server_default="",
            nullable=False,
            comment="equal for letters of one cause; empty where it is unknown",
        ),
        Column("hook_at", Double, comment="when its hook is due; null where none is, 0 from the start"),
        CheckConstraint("(replay = 'set_aside') = (replayed_at IS NULL)", name="replayed_at_known"),
        comment="dead letters",
        sqlite_autoincrement=True,
    )
    column = table.c
    # SQLite reads an index alone only when it has each column that the query names, ``replay`` too.
    waiting = (column.queue, column.reason, column.replay, column.stored_at, column.bytes)
    _index(f"{name}_waiting", *waiting, where=column.replay != LetterState.REPLAYED.value)
    _index(f"{name}_replayed", column.replayed_at, where=column.replay == LetterState.REPLAYED.value)
    _index(f"{name}_stored", column.stored_at)
    _index(f"{name}_reason", column.reason, column.id)
    _index(f"{name}_job", column.job_id, column.id)
    _index(f"{name}_hook", column.queue, column.hook_at, where=column.hook_at.is_not(None))
    # With time and state, so that groups are counted in the index alone.
    _index(f"{name}_fingerprint", column.error_fingerprint, column.id, column.stored_at, column.replay)
    return table


SQLITE_LETTERS: Final = _letters(SQLITE, "letter")
SQLITE_JOBS: Final = Table(
    "job",
    SQLITE,
    Column("id", _NUMBER, primary_key=True, comment="rises with time: no index by time is needed"),
    Column("key_hash", BigInteger, nullable=False, comment="rows.key_hash"),
    Column("dead", Boolean, nullable=False, comment="ended as a dead letter"),
    Column("holder", Text, nullable=False, comment="which daemon has ended it"),
    Column("stored_at", Double, nullable=False),
    _key(),
    *_record(),
    comment="jobs that have ended",
)
_index("job_key", SQLITE_JOBS.c.key_hash)
_index("job_dead", SQLITE_JOBS.c.dead, where=SQLITE_JOBS.c.dead.is_(True))
SQLITE_ATTEMPTS: Final = Table(
    "attempt",
    SQLITE,
    _key(primary=True),
    *_counts(),
    _error(),
    Column("stored_at", Double, nullable=False),
    Column("function", Text, comment="of its last run"),
    Column("job_id", Text, comment="of its last run"),
    *_last_run(),
    comment="failures, starts and the last run of keys that have not ended",
    sqlite_with_rowid=False,
)
_index("attempt_age", SQLITE_ATTEMPTS.c.stored_at)
SQLITE_RUNS: Final = _runs(SQLITE, "run", Column("key_hash", BigInteger, nullable=False, comment="rows.key_hash"))
POSTGRES_LETTERS: Final = _letters(POSTGRES, "mns_consumer_letter")
POSTGRES_JOBS: Final = Table(
    "mns_consumer_job",
    POSTGRES,
    Column("key_id", LargeBinary, CheckConstraint("length(key_id) = 16"), primary_key=True, comment="rows.key_id"),
    _key(),
    Column("holder", Text, comment="which daemon has, or has ended, it"),
    Column("held_until", Double, comment="when the claim ends unless it is renewed"),
    Column("claimed_at", Double, nullable=False),
    Column("started", Boolean, server_default=text("false"), nullable=False, comment="this claim has recorded a start"),
    *_counts(),
    _error(),
    Column("dead", Boolean, comment="null while the key is open, else whether it ended as a dead letter"),
    Column("stored_at", Double, comment="when it ended"),
    *_record(required=False),
    *_last_run(),
    _whole_when_ended(),
    comment="keys from their first claim on",
)
_index("mns_consumer_job_ended", POSTGRES_JOBS.c.stored_at, where=POSTGRES_JOBS.c.dead.is_not(None))
_index("mns_consumer_job_dead", POSTGRES_JOBS.c.stored_at, where=POSTGRES_JOBS.c.dead.is_(True))
_index("mns_consumer_job_open", POSTGRES_JOBS.c.claimed_at, where=POSTGRES_JOBS.c.dead.is_(None))
POSTGRES_RUNS: Final = _runs(
    POSTGRES,
    "mns_consumer_run",
    Column("key_id", LargeBinary, CheckConstraint("length(key_id) = 16"), nullable=False, comment="rows.key_id"),
)
_index("mns_consumer_run_stored", POSTGRES_RUNS.c.stored_at)


def _submissions(metadata: MetaData, name: str) -> Table:
    table = Table(
        name,
        metadata,
        Column("id", _NUMBER, Identity(always=True), primary_key=True),
        Column("state", Text, _one_of("state", SubmissionState), nullable=False),
        Column(
            "ref",
            Text,
            CheckConstraint(f"length(ref) <= {MAX_REF_CHARACTERS}", name="ref_length"),
            nullable=False,
            comment="the idempotency key of the caller, or a random one",
        ),
        Column("call_id", Text, nullable=False, comment="random: of the call that may send it"),
        Column("queue", Text, nullable=False, comment="account/region/name: handles the end of the job"),
        Column("function", Text, nullable=False, comment="FunctionName"),
        Column("request", Text, nullable=False, comment="JSON: the parameters of the call to MPS"),
        Column("created_at", Double, nullable=False),
        Column("job_id", Text, comment="JobId of the answer"),
        Column("key", Text, comment="the ledger key of the job"),
        Column("request_id", Text, comment="RequestId of the answer"),
        _error(),
        Column("submitted_at", Double, comment="when MPS answered"),
        Column("closed_at", Double, comment="when it was ended, expired, refused or unknown"),
        Column("next_at", Double, comment="when MPS is asked for it, unless its end is known by then"),
        Column("asked", Integer, server_default=text("0"), nullable=False, comment="how often MPS was asked"),
        CheckConstraint("(state = 'submitted') = (next_at IS NOT NULL)", name="next_at_known"),
        CheckConstraint("(state IN ('intent', 'submitted')) = (closed_at IS NULL)", name="closed_at_known"),
        comment="jobs that were, or were to be, sent to MPS",
        sqlite_autoincrement=True,
    )
    column = table.c
    Index(f"{name}_ref", column.ref, unique=True)
    _index(f"{name}_due", column.queue, column.next_at, where=column.next_at.is_not(None))
    _index(f"{name}_key", column.key, where=column.state == SubmissionState.SUBMITTED.value)
    _index(f"{name}_job", column.job_id)
    _index(f"{name}_state", column.queue, column.state, column.id)
    _index(f"{name}_closed", column.closed_at, where=column.closed_at.is_not(None))
    # As ``submissions.IS_OPEN`` writes it: SQLite uses an index of some rows for a query with the same words alone.
    _index(f"{name}_open", column.id, where=text(IS_OPEN))
    return table


SQLITE_SUBMISSIONS: Final = _submissions(SQLITE, "submission")
POSTGRES_SUBMISSIONS: Final = _submissions(POSTGRES, "mns_consumer_submission")


def _revision(metadata: MetaData, dialect: str) -> None:
    """As Alembic makes it."""
    name, column = REVISION_TABLES[dialect], Column("version_num", String(32), nullable=False)
    Table(name, metadata, column, PrimaryKeyConstraint(column, name=f"{name}_pkc"))


_revision(SQLITE, "sqlite")
_revision(POSTGRES, "postgresql")
