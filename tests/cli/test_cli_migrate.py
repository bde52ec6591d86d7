"""``mns-consumer migrate``: what it prints and how it exits."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from consumer.store.rows import SCHEMA_REVISION
from tests.store.next_revision import NEXT, update_program
from tests.stores import new_file

Cli = Callable[..., Any]


def test_migrate(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While there is work ``--check`` exits with 1, ``--sql`` prints it as one transaction, and both change nothing."""
    path = tmp_path / "ledger.db"
    new_file(path).close()
    ran = cli("migrate", "--check", "--store", str(path))
    assert (ran.code, ran.err) == (0, "")
    update_program(monkeypatch, tmp_path / "migrations")
    ran = cli("migrate", "--check", "--store", str(path))
    assert (ran.code, ran.err) == (1, "run: mns-consumer migrate\n")
    assert ran.out == f"store {path} has revision {SCHEMA_REVISION}, this program has {NEXT}\n"
    ran = cli("store", "check", "--store", str(path))
    assert (ran.code, ran.out, "run: mns-consumer migrate" in ran.err) == (78, "", True)
    ran = cli("migrate", "--sql", "--store", str(path))
    assert ran.out.startswith("BEGIN;\nALTER TABLE letter ADD COLUMN note")
    assert ran.out.endswith(";\nCOMMIT;\n")
    ran = cli("migrate", "--store", str(path))
    assert (ran.code, ran.out) == (
        0,
        f"store {path} was brought from {SCHEMA_REVISION} up to date: revision {NEXT}\n",
    )
    ran = cli("migrate", "--store", str(path))
    assert (ran.code, ran.out) == (0, f"store {path} is up to date: revision {NEXT}\n")


def test_migrate_refuses_what_it_does_not_know(cli: Cli, tmp_path: Path) -> None:
    """A newer store and another program's database exit with 78, a missing file with 1; nothing is changed or made."""
    path = tmp_path / "ledger.db"
    new_file(path).close()
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("UPDATE revision SET version_num = '9999'")
    other = tmp_path / "other.db"
    with closing(sqlite3.connect(other)) as connection:
        connection.execute("CREATE TABLE diary (day TEXT)")
    other.chmod(0o600)
    for store, code, text in (
        (path, 78, "revision 9999"),
        (other, 78, "is another program's database"),
        (tmp_path / "none.db", 1, "there is no such file"),
    ):
        before = store.read_bytes() if store.exists() else None
        for flags in ([], ["--check"], ["--sql"]):
            ran = cli("migrate", *flags, "--store", str(store))
            assert (ran.code, ran.out) == (code, "")
            assert text in ran.err
            assert ran.err.count("\n") == 1
        assert (store.read_bytes() if store.exists() else None) == before
