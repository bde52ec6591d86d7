"""The tables of a file: made in a new one, migrated in one of an earlier revision. For the file's owner alone.

Before a migration the file is copied to ``FILE.before-REVISION``. The copy stays until the next start finds the tables
as they should be. To go back, stop the daemon, remove ``FILE-wal`` and ``FILE-shm`` if they are there, put the copy in
the file's place and start the older program: SQLite would write the log of the newer file into the copy.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from glob import escape
from pathlib import Path
from typing import Final

import structlog

from consumer.errors import StoreError, StoreUnsafeError
from consumer.file_safety import sync_folder
from consumer.store.migrate import migration
from consumer.store.rows import SCHEMA_REVISION, check_revision
from consumer.store.sqlite import files
from consumer.store.sqlite.access import access_refusal
from consumer.store.sqlite.database import explain, open_file, refuse_without_tables, revision_of, writing

log = structlog.stdlib.get_logger(__name__)

_SCHEMA: Final = Path(__file__).with_name("schema.sql")
_SET_REVISION: Final = f"INSERT INTO revision VALUES ('{SCHEMA_REVISION}')"  # noqa: S608 - a constant


def prepare(path: Path, *, make: bool, on_migration: Callable[[], None] = lambda: None) -> str | None:
    """Give the file the tables of this program.

    Args:
        path: The file.
        make: Make the tables if there are none.
        on_migration: Called before a migration, which may take minutes.

    Returns:
        The revision that it had before; ``None`` if it had no tables.

    Raises:
        StoreSchemaError: It has tables of a later revision, or another program's.
        StoreLostError: The ledger that was made here is gone.
        StoreError: It can't be copied or written; nothing has changed.
    """
    with closing(open_file(path)) as connection:
        try:
            found = revision_of(connection, path)
            if found is None and not make:
                refuse_without_tables(path)
            elif found is None:
                # Not executescript(), which commits the transaction first.
                _execute(connection, [*_SCHEMA.read_text(encoding="utf-8").split(";\n"), _SET_REVISION])
                log.info("a new ledger was made", store=str(path))
            elif found < SCHEMA_REVISION:
                on_migration()
                _migrate(connection, path, found)
            else:
                check_revision(str(path), found)
        except sqlite3.Error as error:
            raise explain(path, error) from error
    return found


def migrate(path: Path) -> str | None:
    """``prepare`` a file that no daemon uses; a missing one is not made."""
    path = Path(os.path.realpath(path))
    if problem := access_refusal(path, by_owner=True):
        raise StoreUnsafeError(problem)
    open_file(path).close()
    owner = files.FileOwner(path)
    try:
        owner.acquire()
        return prepare(path, make=False)
    finally:
        owner.release()


def find_revision(path: Path) -> str | None:
    """See ``revision_of``; a daemon may run meanwhile."""
    with closing(open_file(path)) as connection:
        try:
            return revision_of(connection, path)
        except sqlite3.Error as error:
            raise explain(path, error) from error


def _migrate(connection: sqlite3.Connection, path: Path, found: str) -> None:
    copy = path.with_name(f"{path.name}.before-{SCHEMA_REVISION}")
    about = {"store": str(path), "revision": found, "to": SCHEMA_REVISION, "copy": str(copy)}
    log.info("migrating the store", **about)
    _copy(connection, path, copy)
    _execute(connection, migration("sqlite", found))
    log.info("store migrated; the copy is removed by the next start", **about)


def _copy(connection: sqlite3.Connection, path: Path, copy: Path) -> None:
    """Copy the file beside it, whole on disk when this returns; an earlier copy of the same name is replaced."""
    unfinished = copy.with_name(f"{copy.name}.unfinished")
    try:
        unfinished.unlink(missing_ok=True)
        os.close(files.open_file(unfinished))
        with closing(sqlite3.connect(unfinished)) as target:
            connection.backup(target)
        unfinished.replace(copy)
        sync_folder(copy.parent)
    except (OSError, sqlite3.Error) as error:
        unfinished.unlink(missing_ok=True)
        raise StoreError(
            f"store {path}: it is not migrated, because no copy of it can be made as {copy} ({error}); free some"
            f" space (it takes {path.stat().st_size:,} bytes) and start again"
        ) from error


def remove_copies(path: Path) -> None:
    """Remove the copies of before migrations, once a start has found the tables as they should be."""
    for copy in path.parent.glob(f"{escape(path.name)}.before-*"):
        about = {"store": str(path), "copy": str(copy)}
        try:
            copy.unlink()
            log.info("the copy of before the migration is removed", **about)
        except OSError as error:
            log.warning("the copy of before the migration can't be removed; remove it", error=error.strerror, **about)


def _execute(connection: sqlite3.Connection, statements: list[str]) -> None:
    """One transaction: all of it or nothing."""
    with writing(connection):
        for statement in statements:
            connection.execute(statement)
