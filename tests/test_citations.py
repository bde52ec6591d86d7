"""Every claim about the cloud services cites a heading of ``consumer/facts/*.md``, in one spelling.

The spelling is ``facts/mns.md#receipt-handles``: in a sentence, or after ``Source:`` as a list that a full stop ends.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).resolve().parents[1]
PAGES: Final = ("iproduction", "mns")
_CITATION: Final = r"facts/[a-z]+\.md#[a-z0-9-]+"
_BREAK: Final = r"(?:\s|#\s)+"
"""White space of any kind; a comment that goes on in the next line begins with its mark."""
_SOURCES: Final = re.compile(rf"(?<=Source:){_BREAK}{_CITATION}(?:,{_BREAK}{_CITATION})*\.")
_OTHER_FORMS: Final = re.compile(
    rf"facts/[a-z]+\.md(?!#[a-z0-9])|\bfacts:|\bfacts, [0-9]|\bSource:(?!{_BREAK}{_CITATION})"
)


def page(name: str) -> str:
    """A page of facts in the installed package."""
    return (resources.files("consumer") / "facts" / f"{name}.md").read_text(encoding="utf-8")


def anchors(text: str) -> list[str]:
    """The anchor of each heading, as GitHub makes it."""
    headings = re.findall(r"^#{1,6} (.+)$", text, re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]


def problems(text: str, *, is_code: bool = True) -> Iterator[str]:
    """What is wrong with the claims of one file; a page for people may link to a whole page of facts."""
    for citation in re.findall(_CITATION, text):
        name, anchor = re.fullmatch(r"facts/([a-z]+)\.md#(.*)", citation).groups()  # type: ignore[union-attr]
        if name not in PAGES or anchor not in anchors(page(name)):
            yield f"no such heading: {citation}"
    if is_code:
        yield from (f"not the one spelling: {match[0]!r}" for match in _OTHER_FORMS.finditer(text))
        lists = len(_SOURCES.findall(text))
        if lists != len(re.findall(r"\bSource:", text)):
            yield "after Source: expected citations, separated by commas and ended by a full stop"


def sources() -> list[Path]:
    """Every file that may make a claim, without this one and the facts."""
    code = [path for part in ("consumer", "handlers", "tests") for path in (ROOT / part).rglob("*.py")]
    pages = [ROOT / "README.md", *(ROOT / "consumer").rglob("*.md")]
    return sorted(path for path in (*code, *pages) if path != Path(__file__).resolve() and path.parent.name != "facts")


def test_every_citation_resolves() -> None:
    """No file cites a heading that is not there, or makes a claim in another spelling."""
    found = [
        f"{path.relative_to(ROOT)}: {problem}"
        for path in sources()
        for problem in problems(path.read_text(encoding="utf-8"), is_code=path.suffix == ".py")
    ]
    assert found == []


def test_facts_are_cited() -> None:
    """The test reads what it should: both pages are cited from many files."""
    texts = [path.read_text(encoding="utf-8") for path in sources()]
    for name in PAGES:
        assert sum(f"facts/{name}.md#" in text for text in texts) > 10, name


@pytest.mark.parametrize(
    "text",
    [
        "Source: facts/mns.md#receipt-handels.",
        "Source: facts/mqs.md#limits.",
        "Source: facts/mns.md#limits, 3.",
        "Source: facts/mns.md#limits and facts/mns.md#delivery.",
        "Source: facts/mns.md#limits",
        "Source:\n    the vendor's pages.",
        "kept 7 days (facts: mns, 2)",
        "kept 7 days (facts/mns.md, 2)",
        "kept 7 days (facts, 2)",
        "kept 7 days (facts/mns.md)",
    ],
)
def test_a_claim_without_its_heading_is_refused(text: str) -> None:
    """Each way in which a claim can miss its heading is a problem."""
    assert list(problems(text)) != []


@pytest.mark.parametrize(
    "text",
    [
        "Source: facts/mns.md#limits.",
        "Source: facts/mns.md#limits,\n    facts/iproduction.md#job-states.",
        "# Source: facts/mns.md#limits,\n# facts/mns.md#delivery.",
        "kept 7 days (facts/mns.md#limits)",
    ],
)
def test_the_one_spelling_is_taken(text: str) -> None:
    """A citation of a heading that is there is no problem, also in a list and over a line's end."""
    assert list(problems(text)) == []


@pytest.mark.parametrize("name", PAGES)
def test_headings_of_a_page_are_distinct(name: str) -> None:
    """No two headings of a page share an anchor, and each link within the page resolves."""
    text = page(name)
    found = anchors(text)
    assert len(found) == len(set(found))
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= set(found)
