"""Make a ledger, or an operator's access, from a store's address. Opens nothing.

Each engine is imported when it is needed: PostgreSQL's driver is an extra.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from consumer.errors import SettingsError
from consumer.store.ledger import Ledger
from consumer.store.queries import Operators
from consumer.store_address import PostgresAddress, SqliteAddress, StoreAddress, parse_store_address


def make_ledger(target: StoreAddress | str) -> Ledger:
    """Make the ledger of an address or its text; ``open`` it next.

    Raises:
        SettingsError: The text is no address, PostgreSQL's driver is missing, or a certificate file can't be used.
    """
    address = _checked(target)
    if isinstance(address, SqliteAddress):
        from consumer.store.sqlite.ledger import SqliteLedger  # noqa: PLC0415 - loaded when it is needed

        return SqliteLedger(address.path)
    from consumer.store.postgres.ledger import PostgresLedger  # noqa: PLC0415 - its driver is an extra

    return PostgresLedger(address)


def make_operators(target: StoreAddress | str) -> Operators:
    """Make the operators' access to an address or its text, which works while a daemon runs.

    Raises:
        SettingsError: As for ``make_ledger``.
    """
    address = _checked(target)
    if isinstance(address, SqliteAddress):
        from consumer.store.sqlite.operators import SqliteDatabase  # noqa: PLC0415 - loaded when it is needed

        return Operators(SqliteDatabase(address.path))
    from consumer.store.postgres.operators import PostgresDatabase  # noqa: PLC0415 - its driver is an extra

    return Operators(PostgresDatabase(address))


@asynccontextmanager
async def open_operators(target: StoreAddress | str) -> AsyncIterator[Operators]:
    """As ``make_operators``; the connections close with the block."""
    operators = make_operators(target)
    try:
        yield operators
    finally:
        await operators.close()


def refusal(target: StoreAddress | str) -> str | None:
    """Why the daemon refuses a store whose files are not safe, in one line with what to do; else ``None``.

    ``Ledger.open`` raises ``StoreUnsafeError`` with the same text.

    Raises:
        SettingsError: As for ``make_ledger``.
    """
    address = _checked(target)
    if isinstance(address, PostgresAddress):
        return None
    from consumer.store.sqlite.files import access_refusal, hard_link_refusal  # noqa: PLC0415 - loaded when needed

    path = Path(os.path.realpath(address.path))
    return access_refusal(path, by_owner=True) or hard_link_refusal(path)


def _checked(target: StoreAddress | str) -> StoreAddress:
    address = parse_store_address(target) if isinstance(target, str) else target
    if isinstance(address, PostgresAddress):
        if importlib.util.find_spec("asyncpg") is None:
            raise SettingsError(
                "store is PostgreSQL, whose driver is missing; run: pip install 'mns-consumer[postgres]'"
            )
        from consumer.store.postgres.connection import tls_of  # noqa: PLC0415 - its driver is an extra

        tls_of(address)  # its files are read for each connection: report a wrong name now
    return address
