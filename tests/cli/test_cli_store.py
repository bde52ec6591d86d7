"""The store's setting on the command line: an address that is none ends a command in one plain line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.floor1.test_store_url import ODD

Cli = Callable[..., Any]


SAID = {name: text for name, text in ODD.items() if text.strip()}


@pytest.mark.parametrize("text", SAID.values(), ids=SAID.keys())
def test_an_odd_address_ends_a_command(cli: Cli, text: str) -> None:
    """Each odd address is exit code 78 and one line on stderr that names the setting and holds no password."""
    ran = cli("dead-letters", "list", "--store", text)
    assert ran.code == 78
    assert ran.out == ""
    assert ran.err.startswith("error: store (command line): ")
    assert ran.err.count("\n") == 1
    assert "hush" not in ran.err
