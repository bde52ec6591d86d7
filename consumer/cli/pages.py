"""``mns-consumer docs`` and ``mns-consumer manifests``: print files that the package carries.

Pages lie in ``consumer/docs``, manifests in ``manifests/`` beside this module. A manifest is printed as it is: what has
to be filled in stands in capitals, and a daemon that starts with it unchanged says which setting is wrong.
"""

from __future__ import annotations

import re
import sys
from enum import StrEnum
from importlib.resources import files
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.markdown import Markdown

from consumer.errors import UsageError

_FOLDER: Final = files("consumer") / "docs"
_ORDER: Final = (
    "handlers",
    "parameters",
    "submit",
    "sandbox",
    "settings",
    "security",
    "deploy",
    "store",
    "operations",
    "dead-letters",
    "metrics",
    "runbook",
    "upgrade",
    "performance",
    "services",
)
"""The pages in the order of use, as the project's README lists them."""


def _complete_page(begun: str) -> list[str]:
    return [page for page in _ORDER if page.startswith(begun)]


def docs(
    page: Annotated[
        str | None,
        typer.Argument(
            help="A page, or PAGE#HEADING; without one they are listed.",
            show_default=False,
            autocompletion=_complete_page,
        ),
    ] = None,
) -> None:
    """Print a page of the documentation, or list the pages.

    In a terminal a page is laid out; into a file or a pipe it goes as Markdown.
    """
    pages = {entry.name.removesuffix(".md"): entry for entry in _FOLDER.iterdir() if entry.name.endswith(".md")}
    if page is None:
        for name in sorted(pages, key=_ORDER.index):
            title, _, _ = pages[name].read_text(encoding="utf-8").partition("\n")
            print(f"{name:<14} {title.removeprefix('# ')}")
        return
    name, _, heading = page.partition("#")
    if name not in pages:
        raise UsageError(f"page {name!r}: expected one of {', '.join(sorted(pages))}")
    text = pages[name].read_text(encoding="utf-8")
    if heading:
        text = _section(text, heading)
    if sys.stdout.isatty():
        Console().print(Markdown(text))
    else:
        print(text, end="")


def _section(text: str, heading: str) -> str:
    """The chapter below one heading of the second level, which may be written as in the address of a link."""
    chapters = re.split(r"^(?=## )", text, flags=re.MULTILINE)[1:]
    titles = [chapter.partition("\n")[0].removeprefix("## ") for chapter in chapters]
    for title, chapter in zip(titles, chapters, strict=True):
        if title.lower().replace(" ", "-") == heading.lower().replace(" ", "-"):
            return chapter.rstrip() + "\n"
    raise UsageError(f"heading {heading!r}: expected one of {', '.join(titles)}")


class Manifest(StrEnum):
    """What can be printed."""

    KUBERNETES = "kubernetes"
    KEDA = "keda"
    PROMETHEUS = "prometheus"
    GRAFANA = "grafana"


_FILES: Final = {
    Manifest.KUBERNETES: "kubernetes.yaml",
    Manifest.KEDA: "keda.yaml",
    Manifest.PROMETHEUS: "prometheus.yaml",
    Manifest.GRAFANA: "grafana.json",
}


def text_of(kind: Manifest) -> str:
    """One manifest, as it is printed."""
    return (files("consumer.cli") / "manifests" / _FILES[kind]).read_text(encoding="utf-8")


def manifests(
    kind: Annotated[Manifest, typer.Argument(help="kubernetes, keda, prometheus or grafana.", show_default=False)],
) -> None:
    """Print a manifest for Kubernetes, KEDA, Prometheus or Grafana.

    Example: mns-consumer manifests prometheus > /etc/prometheus/rules.d/mns-consumer.yaml
    """
    sys.stdout.write(text_of(kind))
