"""Print foreign text so that nothing in it steers a terminal or forges a line.

What is escaped is all that ``str.isprintable`` refuses: control characters (ESC, DEL, the C1 range, line breaks), marks
that turn the direction of text, line and paragraph separators, lone surrogates.
"""

from __future__ import annotations

import json
from typing import Any


def printable(text: str, keep: str = "") -> str:
    r"""A foreign text with escapes such as ``\x1b`` in place of what can't be printed; on one line by default.

    Args:
        text: The text.
        keep: Characters that stay, such as line breaks in a text of several lines.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in keep else ascii(char)[1:-1] for char in text)


def printable_json(value: Any, *, indent: int | None = None) -> str:
    """JSON whose every character is printable; it reads as the same value.

    Args:
        value: What ``json`` can write.
        indent: As for ``json.dumps``.
    """
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    # Outside of strings JSON is ASCII. Inside them it has an escape for every character, and no bare line break.
    return "".join(char if char.isprintable() or char == "\n" else json.dumps(char)[1:-1] for char in text)
