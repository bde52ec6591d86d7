"""``mns-consumer migrate``: bring the store's tables to this program's revision.

A daemon migrates its own SQLite file when it starts. A shared database is migrated by this command, while the daemons
of the version before may run.
"""

from __future__ import annotations

from typing import Annotated

import anyio
import typer

from consumer.cli.options import OF_STORE, SettingsFlags, takes_settings
from consumer.cli.output import note
from consumer.errors import ExitCode
from consumer.ops.logs import configure
from consumer.store.migrate import migration
from consumer.store.open import find_revision
from consumer.store.open import migrate as migrate_store
from consumer.store.rows import SCHEMA_REVISION, check_revision
from consumer.store_address import SqliteAddress


@takes_settings(*OF_STORE)
def migrate(
    flags: SettingsFlags,
    *,
    check: Annotated[bool, typer.Option("--check", help="Change nothing; exit with 1 if there is work.")] = False,
    sql: Annotated[
        bool, typer.Option("--sql", help="Print the SQL of the migration instead, one transaction.")
    ] = False,
) -> None:
    """Bring the store's tables to this program's revision.

    An SQLite file is copied beside itself first; no daemon may use it. A shared database is changed in one transaction,
    while daemons run; run this before you replace them.
    """
    address = flags.load().store_address()
    if not (check or sql):
        configure()  # the copy's name is logged
        before = anyio.run(migrate_store, address)
        done = "is up to date" if before == SCHEMA_REVISION else f"was brought from {before or 'no tables'} up to date"
        print(f"store {address} {done}: revision {SCHEMA_REVISION}")
        return
    found = anyio.run(find_revision, address)
    if found is not None and found > SCHEMA_REVISION:
        check_revision(str(address), found)
    if sql:
        statements = migration("sqlite" if isinstance(address, SqliteAddress) else "postgresql", found)
        if statements:
            print("BEGIN;", *statements, "COMMIT;", sep="\n")
        return
    print(f"store {address} has {f'revision {found}' if found else 'no tables'}, this program has {SCHEMA_REVISION}")
    if found != SCHEMA_REVISION:
        note("run: mns-consumer migrate")
        raise typer.Exit(ExitCode.FAILURE)
