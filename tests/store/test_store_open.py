"""The store that a setting means, and the texts that a store takes."""

import importlib.util
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.errors import SettingsError
from consumer.store.postgres.database import PostgresDatabase
from consumer.store.postgres.ledger import PostgresLedger
from consumer.store.rows import cut, fit
from consumer.store.sqlite.database import SqliteDatabase
from consumer.store.sqlite.ledger import SqliteLedger
from tests.stores import ledger_at, operators_at


@pytest.mark.parametrize(
    ("target", "path"),
    [
        pytest.param("/var/lib/x/store.db", "/var/lib/x/store.db", id="a path"),
        pytest.param("sqlite:////var/lib/x.db", "/var/lib/x.db", id="a URL, absolute"),
        pytest.param("sqlite:////var/a%20b.db", "/var/a b.db", id="a URL, escaped"),
        pytest.param("/var/a%20b.db", "/var/a%20b.db", id="a path is no URL"),
    ],
)
def test_files(target: str, path: str) -> None:
    """A path and sqlite:/// mean a file, for the daemon and for operators."""
    ledger, operators = ledger_at(target), operators_at(target)
    assert isinstance(ledger, SqliteLedger)
    assert isinstance(operators._database, SqliteDatabase)
    assert ledger._path == operators._database._path == Path(path)


def test_relative_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three strokes and a bare name are relative to where one stands; ~ is one's home."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for target in ("x.db", "sqlite:///x.db", "~/x.db"):
        ledger = ledger_at(target)
        assert isinstance(ledger, SqliteLedger)
        assert ledger._path == tmp_path / "x.db"


@pytest.mark.parametrize("target", ["postgresql://u:p@h/d", "postgres://h/d", "POSTGRESQL://h/d"])
def test_databases(target: str) -> None:
    """postgresql:// means PostgreSQL, for the daemon and for operators."""
    assert isinstance(ledger_at(target), PostgresLedger)
    assert isinstance(operators_at(target)._database, PostgresDatabase)


def test_neither() -> None:
    """What is no address is refused on both sides."""
    for make in (ledger_at, operators_at):
        with pytest.raises(SettingsError, match="expected a path, sqlite:///PATH"):
            make("mysql://u@h/d")


def test_without_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without PostgreSQL's driver the error says how to install it."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(SettingsError, match=r"pip install 'mns-consumer\[postgres\]'"):
        ledger_at("postgresql://h/d")


@given(st.text(st.characters(), max_size=400), st.integers(32, 300))
def test_cutting(text: str, limit_bytes: int) -> None:
    """The result for any text can be stored, is short enough, and keeps both ends of what was cut."""
    kept = cut(text, limit_bytes)
    raw = kept.encode()
    assert len(raw) <= limit_bytes
    assert "\x00" not in kept
    whole = fit(text)
    if len(whole.encode()) <= limit_bytes:
        assert kept == whole
    else:
        head, tail = kept.split("\n[...]\n", 1)
        assert whole.startswith(head)
        assert whole.endswith(tail)


def test_cutting_keeps_most_of_what_there_is_room_for() -> None:
    """A huge text is cut to nearly its limit, however large it is."""
    assert 16_380 <= len(cut("x" * 10_000_000, 16_384)) <= 16_384
