"""Make the two sides of the store that an address names.

Nothing is opened here; each engine is imported only when it is asked for, as PostgreSQL's driver is an extra.

Elsewhere: the address (``store_address``), what both engines can do (``store.ledger``,
``store.dead_letters``).
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from consumer.errors import SettingsError
from consumer.store import file_access
from consumer.store.dead_letters import Operators
from consumer.store.ledger import Ledger
from consumer.store.postgres_tls import tls_of
from consumer.store_address import PostgresAddress, SqliteAddress, StoreAddress, parse_store_address


def make_ledger(target: StoreAddress | str) -> Ledger:
    """Make the daemon's side of a store; ``open`` it next.

    Args:
        target: The address, or its text.

    Raises:
        SettingsError: The text is no address, PostgreSQL's driver is missing, or a certificate file can't be used.
    """
    address = _known(target)
    if isinstance(address, SqliteAddress):
        from consumer.store.sqlite import SqliteLedger  # noqa: PLC0415 - each engine is loaded only when it is meant

        return SqliteLedger(address.path)
    from consumer.store.postgres import PostgresLedger  # noqa: PLC0415 - its driver is an extra

    return PostgresLedger(address)


def make_operators(target: StoreAddress | str) -> Operators:
    """Make the operators' side of a store, which works while a daemon runs.

    Args:
        target: As for ``make_ledger``.

    Raises:
        SettingsError: As for ``make_ledger``.
    """
    address = _known(target)
    if isinstance(address, SqliteAddress):
        from consumer.store.sqlite_operators import SqliteOperators  # noqa: PLC0415 - as above

        return SqliteOperators(address.path)
    from consumer.store.postgres_operators import PostgresOperators  # noqa: PLC0415 - its driver is an extra

    return PostgresOperators(address)


def refusal(target: StoreAddress | str) -> str | None:
    """Why the daemon refuses a store though its address is right: its files are not safe.

    Makes nothing, and opens nothing. ``Ledger.open`` raises ``StoreUnsafeError`` with the same text.

    Args:
        target: The address, or its text.

    Returns:
        One line with what to do; ``None`` when nothing is wrong, and for PostgreSQL.

    Raises:
        SettingsError: As for ``make_ledger``.
    """
    address = _known(target)
    if isinstance(address, PostgresAddress):
        return None
    path = Path(os.path.realpath(address.path))
    return file_access.refusal(path, by_owner=True) or file_access.other_names(path)


def _known(target: StoreAddress | str) -> StoreAddress:
    address = parse_store_address(target) if isinstance(target, str) else target
    if isinstance(address, PostgresAddress):
        if importlib.util.find_spec("asyncpg") is None:
            raise SettingsError(
                "store is PostgreSQL, whose driver is missing; run: pip install 'mns-consumer[postgres]'"
            )
        tls_of(address)  # Its files are read for each connection; a wrong name is better told at once.
    return address
