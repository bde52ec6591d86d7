"""The store's setting, and store check, backup and info, on both engines."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import shutil
import sqlite3
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from consumer.store import tables, upkeep
from tests.cli.letters_rig import fill, letter, record
from tests.postgres import ADDRESS, postgres_store
from tests.settings.test_store_address import ODD
from tests.stores import ledger_at

Cli = Callable[..., Any]


SAID = dict([(name, text) for name, text in ODD.items() if text.strip()][::6])
"""Some of all kinds: the others differ in what is refused, not in the form of the error."""


@pytest.mark.parametrize("text", SAID.values(), ids=SAID.keys())
def test_an_odd_address_ends_a_command(cli: Cli, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Each odd address is exit code 78 and one line on stderr that names the setting and holds no password."""
    monkeypatch.setenv("MNS_CONSUMER_STORE", text)
    ran = cli("dead-letters", "list")
    assert ran.code == 78
    assert ran.out == ""
    assert ran.err.startswith("error: store (environment MNS_CONSUMER_STORE): ")
    assert ran.err.count("\n") == 1
    assert "hush" not in ran.err


def test_a_store_that_others_may_write_ends_a_command(cli: Cli, tmp_path: Path) -> None:
    """A folder open for all to write is exit code 78 and one line with what to do."""
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(0o777)
    for argv in (["dead-letters", "list"], ["jobs", "list"]):
        ran = cli(*argv, "--store", str(folder / "ledger.db"))
        assert (ran.code, ran.out) == (78, "")
        assert f"run chmod go-w {folder}" in ran.err
        assert ran.err.count("\n") == 1


def fill_some(target: str) -> None:
    fill(target, [letter("dead")], [record("first"), record("second")])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """An SQLite store with three jobs that have ended."""
    path = tmp_path / "store.db"
    fill_some(str(path))
    return path


@pytest.fixture
def postgres() -> Iterator[str]:
    """The same on PostgreSQL."""
    with postgres_store() as target:
        fill_some(target)
        yield target


@pytest.fixture(params=["file", "postgres"])
def target(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(request.param))


def execute(target: str, *statements: str) -> None:
    """Change a store as another program may."""

    async def on_postgres() -> None:
        connection = await asyncpg.connect(target)
        await connection.execute("; ".join(statements))
        await connection.close()

    if "://" in target:
        asyncio.run(on_postgres())
    else:
        with closing(sqlite3.connect(target)) as connection:
            connection.executescript("; ".join(statements))


def test_info(cli: Cli, target: str) -> None:
    """It has the engine, the revision, the size, and each kind of rows with the time of the oldest."""
    found = json.loads(cli("store", "info", "--store", target, "--json").out)
    rows = {name: (found[name]["rows"], found[name]["exact"]) for name in ("ended_jobs", "dead_letters", "waiting")}
    assert rows == {"ended_jobs": (3, True), "dead_letters": (1, True), "waiting": (1, True)}
    assert found["open_jobs"] == {"rows": 0, "exact": True, "oldest_at": None}
    assert found["ended_jobs"]["oldest_at"].startswith("20")
    assert found["engine"].startswith("PostgreSQL 1" if "://" in target else "SQLite 3.")
    assert found["size_bytes"] > 10_000
    shown = cli("store", "info", "--store", target)
    assert shown.code == 0
    assert "3     jobs that have ended  " in shown.out


def test_info_of_many_rows(cli: Cli, postgres: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On PostgreSQL more rows than are counted are the server's estimate, and are shown as one."""
    execute(postgres, "ANALYZE")
    monkeypatch.setattr(upkeep, "COUNT_CAP", 2)
    assert "~3    jobs that have ended" in cli("store", "info", "--store", postgres).out
    assert json.loads(cli("store", "info", "--store", postgres, "--json").out)["ended_jobs"]["exact"] is False


def test_a_whole_store(cli: Cli, target: str) -> None:
    """A store without damage is said to be whole, with exit code 0."""
    ran = cli("store", "check", "--store", target)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.endswith(" is whole\n")
    assert json.loads(cli("store", "check", "--store", target, "--json").out)["findings"] == []


def overwrite_page(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        ((page,),) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'letter_job'").fetchall()
    with path.open("r+b") as opened:
        opened.seek(4096 * (page - 1))
        opened.write(b"\xa5" * 4096)


def lose_an_index_row(path: Path) -> None:
    execute(
        str(path),
        "PRAGMA writable_schema = ON",
        "UPDATE sqlite_schema SET sql = sql || ' WHERE id > 1' WHERE name = 'job_key'",
    )


@pytest.mark.parametrize(
    ("spoil", "finding"),
    [
        pytest.param(lose_an_index_row, "the file is damaged: wrong # of entries in index job_key", id="row"),
        pytest.param(lambda path: execute(str(path), "DROP INDEX job_key"), "job lacks the index job_key", id="index"),
        pytest.param(overwrite_page, "is damaged", id="page"),
        pytest.param(lambda path: path.write_bytes(b"diary" * 2000), "it is no SQLite database", id="no database"),
        pytest.param(Path.unlink, "the file is missing, but ", id="no file"),
    ],
)
def test_a_damaged_file(cli: Cli, file: Path, spoil: Callable[[Path], None], finding: str) -> None:
    """Each damage is one line and exit code 1; the file is not changed, and no backup is made of it."""
    spoil(file)
    before = file.read_bytes() if file.exists() else None
    ran = cli("store", "check", "--store", str(file))
    assert ran.code == 1
    assert finding in ran.out
    assert "Back up and restore" in ran.err
    assert json.loads(cli("store", "check", "--store", str(file), "--json").out)["whole"] is False
    out = file.with_name("copy.db")
    if not re.search("lacks|wrong #", finding):
        ran = cli("store", "backup", "--store", str(file), "--out", str(out))
        assert (ran.code, ran.err.count("\n")) == (1, 1)
        assert "no backup was made: " in ran.err
        assert not out.exists()
    assert before == (file.read_bytes() if file.exists() else None)


def test_damaged_tables_of_postgresql(cli: Cli, postgres: str) -> None:
    """A column or an index that another program has removed is named."""
    execute(postgres, "DROP INDEX mns_consumer_job_dead", "ALTER TABLE mns_consumer_letter DROP COLUMN bytes")
    ran = cli("store", "check", "--store", postgres)
    assert ran.code == 1
    assert "the table mns_consumer_job lacks the index mns_consumer_job_dead" in ran.out
    assert "the table mns_consumer_letter lacks the column bytes" in ran.out


async def test_a_backup_while_the_daemon_writes(file: Path, process: Cli) -> None:
    """The copy is whole, holds what was committed before, is its owner's alone, and is a store that opens."""
    out = file.with_name("copy.db")
    ledger = ledger_at(str(file))
    await ledger.open()
    copying = asyncio.ensure_future(
        asyncio.to_thread(process, "store", "backup", "--store", str(file), "--out", str(out))
    )
    number = 0
    while not copying.done():
        number += 1
        await ledger.claim(record(f"more {number}").key, 60)
        assert await ledger.done(record(f"more {number}"))
    ran = await copying
    assert (ran.code, ran.err) == (0, f"{file} is saved in {out}\n")
    await ledger.close()
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert [path.name for path in out.parent.iterdir() if path.name.startswith("copy")] == ["copy.db"]
    restored = ledger_at(str(out))
    await restored.open()
    await restored.close()
    with closing(sqlite3.connect(out)) as connection:
        ((jobs,),) = connection.execute("SELECT count(*) FROM job").fetchall()
    assert 3 <= jobs <= 3 + number


def test_upkeep_takes_the_time_that_a_large_file_needs(
    cli: Cli, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit that stops an operator's query stops neither a check nor a backup."""
    monkeypatch.setattr("consumer.store.sqlite.database.QUERY_TIMEOUT_S", 0.0)
    monkeypatch.setattr("consumer.store.sqlite.database._STEPS", 1)
    assert "was stopped" in cli("jobs", "list", "--store", str(file)).err
    for argv in (["check"], ["backup", "--out", str(tmp_path / "copy.db")], ["info"]):
        assert cli("store", *argv, "--store", str(file)).code == 0


def test_a_backup_over_a_file(cli: Cli, file: Path) -> None:
    """An existing file is never overwritten: exit code 2."""
    ran = cli("store", "backup", "--store", str(file), "--out", str(file))
    assert ran.code == 2
    assert "expected a new file" in ran.err


def test_a_backup_of_postgresql(cli: Cli, postgres: str, tmp_path: Path) -> None:
    """It is refused with the command to run instead; what that one saves can be restored."""
    out = tmp_path / "copy.dump"
    ran = cli("store", "backup", "--store", postgres, "--out", str(out))
    assert ran.code == 2
    command = shlex.split(ran.err.partition("; run: ")[2])
    assert command[0] == "pg_dump"
    if shutil.which("pg_dump") is None or "@127.0.0.1" not in ADDRESS:
        pytest.skip("no pg_dump, or a server that asks for a password")
    subprocess.run(command, check=True, env={**os.environ, "PGCONNECT_TIMEOUT": "5"})
    execute(postgres, f"DROP TABLE {', '.join(tables.POSTGRES.tables)}")
    subprocess.run(["pg_restore", *command[-2:], out], check=True)
    assert cli("store", "check", "--store", postgres).code == 0
    assert json.loads(cli("store", "info", "--store", postgres, "--json").out)["ended_jobs"]["rows"] == 3
    fill(postgres, [letter("another")])
