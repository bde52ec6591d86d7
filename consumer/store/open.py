"""Say which engine a setting means: a file is SQLite, ``postgresql://`` is PostgreSQL.

Nothing is opened here; PostgreSQL's driver is imported only when it is asked for.

Elsewhere: what both engines can do (``store.ledger``, ``store.dead_letters``).
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from consumer.errors import SettingsError
from consumer.store.dead_letters import Operators
from consumer.store.ledger import Ledger

_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_SQLITE: Final = "sqlite:///"


def make_ledger(target: str) -> Ledger:
    """Make the daemon's side of a store; ``open`` it next.

    Args:
        target: ``sqlite:///PATH``, a bare path, or ``postgresql://USER@HOST:PORT/DATABASE``. After
            ``sqlite:///`` stands a relative path, after ``sqlite:////`` an absolute one.

    Raises:
        SettingsError: It is none of these, or PostgreSQL's driver is not installed.
    """
    path = _sqlite_path(target)
    if path is not None:
        from consumer.store.sqlite import SqliteLedger  # noqa: PLC0415 - each engine is loaded only when it is meant

        return SqliteLedger(path)
    from consumer.store.postgres import PostgresLedger  # noqa: PLC0415 - its driver is an extra

    return PostgresLedger(target)


def make_operators(target: str) -> Operators:
    """Make the operators' side of a store, which works while a daemon runs.

    Args:
        target: As for ``make_ledger``.

    Raises:
        SettingsError: As for ``make_ledger``.
    """
    path = _sqlite_path(target)
    if path is not None:
        from consumer.store.sqlite_operators import SqliteOperators  # noqa: PLC0415 - as above

        return SqliteOperators(path)
    from consumer.store.postgres_operators import PostgresOperators  # noqa: PLC0415 - its driver is an extra

    return PostgresOperators(target)


def _sqlite_path(target: str) -> Path | None:
    """The file that is meant; ``None`` for PostgreSQL."""
    found = _SCHEME.match(target)
    if found is None:
        if not target.strip() or "\x00" in target:
            raise SettingsError(
                "store is empty; expected a path, sqlite:///PATH or postgresql://USER@HOST:PORT/DATABASE"
            )
        return Path(target).expanduser()
    scheme = found[1].lower()
    if scheme in {"postgresql", "postgres"}:
        if importlib.util.find_spec("asyncpg") is None:
            raise SettingsError(
                "store is PostgreSQL, whose driver is missing; run: pip install 'mns-consumer[postgres]'"
            )
        return None
    if scheme == "sqlite" and target.startswith(_SQLITE) and len(target) > len(_SQLITE):
        return Path(unquote(target.removeprefix(_SQLITE))).expanduser()
    # Only the scheme is repeated: what follows may hold a password.
    raise SettingsError(
        f"store has the scheme {scheme}://, expected a path, sqlite:///PATH (three strokes)"
        " or postgresql://USER@HOST:PORT/DATABASE"
    )
