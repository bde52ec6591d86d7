"""The upkeep of a store beside a running daemon: what it holds, whether it is whole, and a copy of it.

What is asked of PostgreSQL takes milliseconds at any size: beyond ``COUNT_CAP`` rows the server's own estimate stands.
SQLite counts exactly, since that reads a small index; the check reads every page of the file.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from anyio import to_thread
from sqlalchemy import MetaData

from consumer.errors import StoreError, StoreSchemaError
from consumer.store import tables
from consumer.store.ledger import COUNT_CAP
from consumer.store.open import open_database
from consumer.store.rows import SCHEMA_REVISION
from consumer.store.sqlite.database import explain
from consumer.store_address import SqliteAddress, StoreAddress

if TYPE_CHECKING:
    from consumer.store.session import Session


@dataclass(frozen=True, slots=True)
class Held:
    """The rows of one kind."""

    rows: int
    exact: bool
    oldest_at: float | None
    """When the oldest was stored, UNIX seconds."""


@dataclass(frozen=True, slots=True)
class StoreInfo:
    """What a store is and holds."""

    engine: str
    revision: str
    size_bytes: int
    held: Mapping[str, Held]


class _Kind(NamedTuple):
    """The rows of one kind, the time of each, how to find the oldest, and the index that has exactly these rows."""

    rows: str
    time: str
    order: str
    index_name: str


@dataclass(frozen=True, slots=True)
class _Engine:
    """An engine's statements. ``checks`` are each with the meaning of a row of its answer."""

    metadata: MetaData
    version: str
    size: str
    columns: str
    indexes: str
    checks: Mapping[str, str]
    kinds: Mapping[str, _Kind]
    estimate: str | None = None


_SQLITE: Final = _Engine(
    tables.SQLITE,
    version="SELECT 'SQLite ' || sqlite_version()",
    size="SELECT page_count * page_size FROM pragma_page_count, pragma_page_size",
    columns="SELECT name FROM pragma_table_info(?)",
    indexes="SELECT name FROM pragma_index_list(?)",
    checks={"SELECT * FROM pragma_integrity_check(20) WHERE integrity_check != 'ok'": "the file is damaged: {}"},
    kinds={
        "ended_jobs": _Kind("job", "stored_at", "id", "job_key"),
        "open_jobs": _Kind("attempt", "stored_at", "stored_at", "attempt_age"),
        "runs": _Kind("run", "stored_at", "id", "run_key"),
        "dead_letters": _Kind("letter", "stored_at", "stored_at", "letter_stored"),
        "waiting": _Kind("letter WHERE replay != 'replayed'", "stored_at", "stored_at", "letter_waiting"),
    },
)
_PG_JOB: Final = "mns_consumer_job"
_PG_LETTER: Final = "mns_consumer_letter"
_PG_RUN: Final = "mns_consumer_run"
_POSTGRES: Final = _Engine(
    tables.POSTGRES,
    version="SELECT 'PostgreSQL ' || current_setting('server_version')",
    size="SELECT sum(pg_total_relation_size(name))::bigint FROM"
    " unnest(ARRAY['mns_consumer_job', 'mns_consumer_run', 'mns_consumer_letter']) AS of(name)",
    columns="SELECT attname FROM pg_attribute WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped",
    indexes="SELECT relname FROM pg_index JOIN pg_class ON oid = indexrelid"
    " WHERE indrelid = to_regclass($1) AND indisvalid",
    checks={
        "SELECT 1 WHERE pg_is_in_recovery()": "the server is a standby, which takes no writes; name the primary",
        "SELECT checksum_failures FROM pg_stat_database WHERE datname = current_database() AND checksum_failures > 0": (
            "the server has read {} page(s) of this database with a wrong checksum; see its log, restore a backup"
        ),
        "SELECT setting FROM pg_settings WHERE name = 'fsync' AND setting != 'on'": (
            "the server runs with fsync = {}: a crash of its machine may damage the tables; turn it on"
        ),
    },
    kinds={
        "ended_jobs": _Kind(f"{_PG_JOB} WHERE dead IS NOT NULL", "stored_at", "stored_at", f"{_PG_JOB}_ended"),
        "open_jobs": _Kind(f"{_PG_JOB} WHERE dead IS NULL", "claimed_at", "claimed_at", f"{_PG_JOB}_open"),
        "runs": _Kind(_PG_RUN, "stored_at", "stored_at", f"{_PG_RUN}_stored"),
        "dead_letters": _Kind(_PG_LETTER, "stored_at", "stored_at", f"{_PG_LETTER}_stored"),
        "waiting": _Kind(f"{_PG_LETTER} WHERE replay != 'replayed'", "stored_at", "stored_at", f"{_PG_LETTER}_waiting"),
    },
    estimate="SELECT reltuples FROM pg_class WHERE oid = to_regclass($1)",
)


async def describe(address: StoreAddress) -> StoreInfo:
    """What a store is and holds.

    Raises:
        StoreError: It can't be read.
    """
    engine = _engine(address)

    async def look(session: Session) -> StoreInfo:
        ((version,),) = await session.fetch(engine.version, ())
        ((size_bytes,),) = await session.fetch(engine.size, ())
        held = {name: await _held(session, kind, engine.estimate) for name, kind in engine.kinds.items()}
        return StoreInfo(version, SCHEMA_REVISION, size_bytes, held)

    async with open_database(address) as database:
        return await database.run(look)


async def find_damage(address: StoreAddress) -> Sequence[str]:
    """What is wrong with a store, one line for each finding; empty when it is whole.

    On SQLite this reads every page, on PostgreSQL only what the server knows and the form of the tables.

    Raises:
        StoreSchemaError: Its tables are of another revision, or another program's: no damage.
    """
    engine = _engine(address)

    async def look(session: Session) -> list[str]:
        found = []
        for table in engine.metadata.sorted_tables:
            columns = {name for (name,) in await session.fetch(engine.columns, [table.name])}
            indexes = {name for (name,) in await session.fetch(engine.indexes, [table.name])}
            missing = [f"column {column.name}" for column in table.columns if column.name not in columns]
            missing += [f"index {index.name}" for index in table.indexes if index.name not in indexes]
            found += [f"the table {table.name} lacks the {what}; restore a backup" for what in missing]
        for statement, meaning in engine.checks.items():
            found += [meaning.format(*row) for row in await session.fetch(statement, ())]
        return found

    try:
        async with open_database(address) as database:
            return await database.run(look)
    except StoreSchemaError:
        raise
    except StoreError as error:
        return [str(error)]


async def back_up(address: SqliteAddress, out: Path) -> None:
    """Copy a file as it is at one moment into an empty one, and check the copy.

    Raises:
        StoreError: It can't be read or written, or the copy is not whole.
    """
    target = await to_thread.run_sync(out.absolute)

    async def copy(session: Session) -> None:
        # It reads one snapshot: the daemon's writes go to the log meanwhile.
        await session.execute("VACUUM INTO ?", [str(target)])

    async with open_database(address) as database:
        await database.run(copy)
    await to_thread.run_sync(_check_copy, out)


def _check_copy(out: Path) -> None:
    try:
        with closing(sqlite3.connect(out)) as connection:
            damage = [text for (text,) in connection.execute("PRAGMA integrity_check(1)") if text != "ok"]
    except sqlite3.Error as error:
        raise explain(out, error) from error
    if damage:
        raise StoreError(f"the copy {out} is not whole: {damage[0]}")


def _engine(address: StoreAddress) -> _Engine:
    return _SQLITE if isinstance(address, SqliteAddress) else _POSTGRES


async def _held(session: Session, kind: _Kind, estimate: str | None) -> Held:
    # The statements are made of constants alone.
    oldest = await session.fetch(f"SELECT {kind.time} FROM {kind.rows} ORDER BY {kind.order} LIMIT 1", ())  # noqa: S608
    some = kind.rows if estimate is None else f"(SELECT 1 FROM {kind.rows} LIMIT {COUNT_CAP + 1}) AS found"  # noqa: S608
    ((rows,),) = await session.fetch(f"SELECT count(*) FROM {some}", ())  # noqa: S608
    exact = estimate is None or rows <= COUNT_CAP
    if estimate is not None and not exact:
        ((rows,),) = await session.fetch(estimate, [kind.index_name])
    return Held(max(int(rows), 0 if exact else COUNT_CAP), exact, oldest[0][0] if oldest else None)
