"""``mns-consumer docs``: the pages in the terminal."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from tests.cli.conftest import Ran

DOCS = Path(__file__).resolve().parents[2] / "consumer" / "docs"


def test_a_page_is_printed_as_it_is(cli: Callable[..., Ran]) -> None:
    """Into a pipe a page goes as Markdown, byte for byte."""
    assert cli("docs", "dead-letters").out == (DOCS / "dead-letters.md").read_text(encoding="utf-8")


def test_a_chapter_is_printed_alone(cli: Callable[..., Ran]) -> None:
    """A heading after the page's name prints that chapter alone; an unknown one ends with 2 and names the headings."""
    printed = cli("docs", "dead-letters#The limit").out
    assert printed.startswith("## The limit\n")
    assert printed.count("\n## ") == 0
    assert printed == cli("docs", "dead-letters#the-limit").out
    refused = cli("docs", "dead-letters#nothing")
    assert refused.code == 2
    assert "The limit" in refused.err


def test_without_a_page_all_are_listed(cli: Callable[..., Ran]) -> None:
    """Each page stands in the list, with its title, in the order of the README."""
    listed = [line.split()[0] for line in cli("docs").out.splitlines()]
    readme = (DOCS.parents[1] / "README.md").read_text(encoding="utf-8").partition("## Documentation")[2]
    assert listed == re.findall(r"^\d+\. \[.+?\]\(consumer/docs/(.+?)\.md\)", readme, re.MULTILINE)
    assert set(listed) == {path.stem for path in DOCS.glob("*.md")}


def test_an_unknown_page_names_those_that_are_there(cli: Callable[..., Ran]) -> None:
    """A page that is not there ends with 2 and names the pages."""
    done = cli("docs", "nothing")
    assert done.code == 2
    assert "expected one of" in done.err
    assert "settings" in done.err
