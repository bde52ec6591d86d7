"""``mns-consumer docs``: the pages of the documentation, in the terminal."""

from __future__ import annotations

import sys
from importlib.resources import files
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.markdown import Markdown

from consumer.errors import UsageError

_FOLDER: Final = files("consumer") / "docs"


def docs(
    page: Annotated[str | None, typer.Argument(help="A page; without one they are listed.", show_default=False)] = None,
) -> None:
    """Print a page of the documentation, or list the pages.

    In a terminal a page is laid out; into a file or a pipe it goes as Markdown.
    """
    pages = {entry.name.removesuffix(".md"): entry for entry in _FOLDER.iterdir() if entry.name.endswith(".md")}
    if page is None:
        for name in sorted(pages):
            title, _, _ = pages[name].read_text(encoding="utf-8").partition("\n")
            print(f"{name:<14} {title.removeprefix('# ')}")
        return
    if page not in pages:
        raise UsageError(f"page {page!r}: expected one of {', '.join(sorted(pages))}")
    text = pages[page].read_text(encoding="utf-8")
    if sys.stdout.isatty():
        Console().print(Markdown(text))
    else:
        print(text, end="")
