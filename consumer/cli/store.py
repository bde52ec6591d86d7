"""``mns-consumer store``: is the store whole, what does it hold, and a copy of it; all while the daemon runs."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import anyio
import typer

from consumer.cli.options import OF_STORE, SettingsFlags, takes_settings
from consumer.cli.output import JsonFlag, new_file, note, print_fields, print_json, print_list, time_text
from consumer.errors import ConsumerError, ExitCode, StoreError, UsageError
from consumer.ops.sanitize import printable
from consumer.store.upkeep import back_up, describe, find_damage
from consumer.store_address import PostgresAddress

_NAMES: Mapping[str, str] = {
    "ended_jobs": "jobs that have ended",
    "open_jobs": "jobs that have begun and not ended",
    "runs": "runs that have left their jobs open",
    "dead_letters": "dead letters",
    "waiting": "of these not replayed",
}


@takes_settings(*OF_STORE)
def check(flags: SettingsFlags, *, as_json: JsonFlag = False) -> None:
    """Check whether the store is whole; exits with 0 or 1.

    An SQLite file is read page by page, which takes a while for a large one. On PostgreSQL the tables and indexes, the
    encoding and what the server itself knows of damage are checked.
    """
    address = flags.load().store_address()
    found = anyio.run(find_damage, address)
    if as_json:
        print_json({"store": str(address), "whole": not found, "findings": list(found)})
    else:
        for finding in found or [f"{address} is whole"]:
            print(printable(finding))
        if found:
            note("what to do: mns-consumer docs store, 'Back up and restore'")
    raise typer.Exit(ExitCode.FAILURE if found else ExitCode.OK)


@takes_settings(*OF_STORE)
def backup(
    flags: SettingsFlags,
    *,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="A new file, readable by its owner only.")],
) -> None:
    """Copy an SQLite store into a new file and check the copy; the daemon may run."""
    address = flags.load().store_address()
    if isinstance(address, PostgresAddress):
        raise UsageError(f"store backup: expected a store in a file, this is PostgreSQL; run: {pg_dump(address, out)}")
    with new_file(out):
        try:
            anyio.run(back_up, address, out)
        except StoreError as error:
            raise ConsumerError(f"--out {out}: no backup was made: {error}") from None
    note(f"{address} is saved in {out}")


@takes_settings(*OF_STORE)
def info(flags: SettingsFlags, *, as_json: JsonFlag = False) -> None:
    """Show where the store is, its size, and how many jobs and dead letters it holds."""
    address = flags.load().store_address()
    found = anyio.run(describe, address)
    about = {
        "store": str(address),
        "engine": found.engine,
        "revision": found.revision,
        "size_bytes": found.size_bytes,
    }
    if as_json:
        rows: dict[str, Any] = {
            name: {"rows": held.rows, "exact": held.exact, "oldest_at": time_text(held.oldest_at)}
            for name, held in found.held.items()
        }
        print_json(about | rows)
        return
    print_fields(about)
    print()
    print_list(
        ("rows", "of", "oldest"),
        [
            (f"{'' if held.exact else '~'}{held.rows}", _NAMES[name], time_text(held.oldest_at) or "-")
            for name, held in found.held.items()
        ],
        wide=True,
    )


def pg_dump(address: PostgresAddress, out: Path) -> str:
    """The command that copies the tables of a PostgreSQL store; it asks for the password itself."""
    schema = address.server_settings.get("search_path", "*").partition(",")[0].strip(' "')
    words = ["pg_dump", "--format=custom", f"--file={out}", f"--table={schema}.mns_consumer_*"]
    return shlex.join([*words, f"--username={address.user}", f"--dbname={address}"])
