"""``mns-consumer docs``: the pages in the terminal."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.cli.conftest import Ran

DOCS = Path(__file__).resolve().parents[2] / "consumer" / "docs"


def test_a_page_is_printed_as_it_is(cli: Callable[..., Ran]) -> None:
    """Into a pipe a page goes as Markdown, byte for byte."""
    assert cli("docs", "dead-letters").out == (DOCS / "dead-letters.md").read_text(encoding="utf-8")


def test_without_a_page_all_are_listed(cli: Callable[..., Ran]) -> None:
    """Each page stands in the list, with its title."""
    listed = {line.split()[0] for line in cli("docs").out.splitlines()}
    assert listed == {path.stem for path in DOCS.glob("*.md")}


def test_an_unknown_page_names_those_that_are_there(cli: Callable[..., Ran]) -> None:
    """A page that is not there ends with 2 and names the pages."""
    done = cli("docs", "nothing")
    assert done.code == 2
    assert "expected one of" in done.err
    assert "settings" in done.err
