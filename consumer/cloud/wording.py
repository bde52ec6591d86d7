"""Make foreign text fit for an error or a log: one line, printable, short.

Elsewhere: the errors themselves (``errors``).
"""

from __future__ import annotations

from typing import Final

_SHOWN_CHARS: Final = 200


def cut(text: str, limit: int = _SHOWN_CHARS) -> str:
    """Make foreign text fit for one line of a log: printable, one line, at most ``limit`` characters."""
    # Twice the limit bounds the work on a megabyte of foreign text before anything is looked at.
    line = " ".join("".join(c if c.isprintable() else " " for c in text[: 2 * limit]).split())
    return line if len(line) <= limit and len(text) <= 2 * limit else f"{line[:limit]}..."


def describe(data: bytes) -> str:
    """Say in a few words what a foreign body looks like; its text is never shown, it may hold anything."""
    start = data[:256].lstrip().lower()
    if not start:
        return "an empty body"
    if start.startswith((b"<!doctype html", b"<html")):
        return f"an HTML page of {len(data)} bytes"
    if start.startswith((b"{", b"[")):
        return f"JSON of {len(data)} bytes"
    return f"{len(data)} bytes"
