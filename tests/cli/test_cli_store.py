"""The store's setting: an address that is none ends a command in one plain line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.settings.test_store_address import ODD

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
