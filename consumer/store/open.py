"""Make a ledger, or an operator's access, from a store's address. Opens nothing.

Each engine is imported when it is needed: PostgreSQL's driver is an extra, and a daemon does without SQLAlchemy.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from anyio import to_thread

from consumer.errors import SettingsError
from consumer.instance import DaemonUser
from consumer.store.ledger import Ledger
from consumer.store.submissions import POSTGRES, SQLITE, Submissions
from consumer.store_address import PostgresAddress, SqliteAddress, StoreAddress

if TYPE_CHECKING:
    from consumer.store.queries import Operators
    from consumer.store.session import Database


def make_ledger(address: StoreAddress) -> Ledger:
    """Make the ledger of an address; ``open`` it next.

    Raises:
        SettingsError: PostgreSQL's driver is missing, or a certificate file can't be used.
    """
    _check(address)
    if isinstance(address, SqliteAddress):
        from consumer.store.sqlite.ledger import SqliteLedger  # noqa: PLC0415 - loaded when it is needed

        return SqliteLedger(address.path)
    from consumer.store.postgres.ledger import PostgresLedger  # noqa: PLC0415 - its driver is an extra

    return PostgresLedger(address)


def make_operators(address: StoreAddress) -> Operators:
    """Make the operators' access to an address, which works while a daemon runs.

    Raises:
        SettingsError: As for ``make_ledger``.
    """
    from consumer.store.queries import Operators, PostgresEngine, SqliteEngine  # noqa: PLC0415 - loads SQLAlchemy

    engine = SqliteEngine() if isinstance(address, SqliteAddress) else PostgresEngine()
    return Operators(_make_database(address), engine)


def _make_database(address: StoreAddress, *, is_limited: bool = True, beside_daemon: bool = False) -> Database:
    _check(address)
    if isinstance(address, SqliteAddress):
        from consumer.store.sqlite.database import SqliteDatabase  # noqa: PLC0415 - loaded when it is needed

        return SqliteDatabase(address.path, is_limited=is_limited, beside_daemon=beside_daemon)
    from consumer.store.postgres.database import PostgresDatabase  # noqa: PLC0415 - its driver is an extra

    return PostgresDatabase(address)


@asynccontextmanager
async def open_database(address: StoreAddress) -> AsyncIterator[Database]:
    """The engine's sessions for upkeep, which may read every page of a file; they end with the block.

    Raises:
        SettingsError: As for ``make_ledger``.
    """
    database = _make_database(address, is_limited=False)
    try:
        yield database
    finally:
        await database.close()


@asynccontextmanager
async def open_submissions(address: StoreAddress, *, beside_daemon: bool = False) -> AsyncIterator[Submissions]:
    """The submissions of a store, while a daemon runs or not; the connections close with the block.

    ``beside_daemon`` refuses a file whose write-ahead log is gone: its daemon still uses the one that was removed.

    Raises:
        SettingsError: As for ``make_ledger``.
    """
    database = _make_database(address, beside_daemon=beside_daemon)
    try:
        yield Submissions(database, SQLITE if isinstance(address, SqliteAddress) else POSTGRES)
    finally:
        await database.close()


@asynccontextmanager
async def open_operators(address: StoreAddress) -> AsyncIterator[Operators]:
    """As ``make_operators``; the connections close with the block."""
    operators = make_operators(address)
    try:
        yield operators
    finally:
        await operators.close()


async def find_revision(address: StoreAddress) -> str | None:
    """The revision of a store's tables, whichever it is; ``None`` when there are no tables.

    Raises:
        StoreError: The store can't be read. ``StoreSchemaError``: it holds other tables.
        SettingsError: As for ``make_ledger``.
    """
    _check(address)
    if isinstance(address, SqliteAddress):
        from consumer.store.sqlite import schema  # noqa: PLC0415 - loaded when it is needed

        return await to_thread.run_sync(schema.find_revision, address.path)
    from consumer.store.postgres import database  # noqa: PLC0415 - its driver is an extra

    return await database.find_revision(address)


async def migrate(address: StoreAddress) -> str | None:
    """Bring a store's tables to this program's revision; returns the one that they had before, as ``find_revision``.

    Raises:
        StoreError: It can't be done now; nothing has changed, unless PostgreSQL's answer to the commit was lost.
            ``StoreBusyError``: a daemon uses the file.
            ``StoreSchemaError``: the tables are of a later revision, or others.
        SettingsError: As for ``make_ledger``.
    """
    _check(address)
    if isinstance(address, SqliteAddress):
        from consumer.store.sqlite import schema  # noqa: PLC0415 - loaded when it is needed

        return await to_thread.run_sync(schema.migrate, address.path)
    from consumer.store.postgres import database  # noqa: PLC0415 - its driver is an extra

    return await database.migrate(address)


def refusal(address: StoreAddress, user: DaemonUser | None = None) -> str | None:
    """Why the daemon refuses a store whose files are not safe or gone, in one line with what to do; else ``None``.

    ``Ledger.open`` raises ``StoreUnsafeError`` or ``StoreLostError`` with the same text.

    Args:
        address: The store's.
        user: The daemon's; default is this process's.

    Raises:
        SettingsError: As for ``make_ledger``.
    """
    _check(address)
    if isinstance(address, PostgresAddress):
        return None
    from consumer.store.sqlite.access import access_refusal  # noqa: PLC0415 - loaded when needed
    from consumer.store.sqlite.files import hard_link_refusal, lost_ledger_refusal  # noqa: PLC0415 - as above

    path = Path(os.path.realpath(address.path))
    return access_refusal(path, by_owner=True, user=user) or hard_link_refusal(path) or lost_ledger_refusal(path)


def _check(address: StoreAddress) -> None:
    if isinstance(address, PostgresAddress):
        if importlib.util.find_spec("asyncpg") is None:
            raise SettingsError(
                "store is PostgreSQL, whose driver is missing; run: pip install 'mns-consumer[postgres]'"
            )
        from consumer.store.postgres.connection import tls_of  # noqa: PLC0415 - its driver is an extra

        tls_of(address)  # its files are read for each connection: report a wrong name now
