r"""Escape the characters of foreign texts that a terminal would obey or not show.

These are control characters (C0, DEL, C1), line and paragraph separators, lone surrogates and format characters
(Unicode category Cf): bidirectional controls show a text in another order than it has, and characters of no width make
two ids look alike. Spaces of other widths and all letters stay.

    printable(text)        one line for people, which shows ``\x1b``, ``\u202e`` and ``\n``
    printable_block(text)  keeps line breaks and tabs; each line is indented, so that none passes for one of ours
    json_escaped(text)     a JSON text with the same value, by ``\u....`` escapes
    json_text(value)       a value as such a JSON text
"""

from __future__ import annotations

import json
import re
from typing import Final

_FORMAT: Final = (
    "\xad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0001"
    "\U000e0020-\U000e007f"
)
_HIDDEN: Final = re.compile(f"[\x00-\x1f\x7f-\x9f{_FORMAT}]")
_HIDDEN_IN_LINE: Final = re.compile(f"[\x00-\x08\x0b-\x1f\x7f-\x9f{_FORMAT}]")
# JSON's encoders escape what lies below U+0020; a raw line break between two values is the text's own.
_HIDDEN_IN_JSON: Final = re.compile(f"[\x7f-\x9f{_FORMAT}]")
_LAST_OF_PLANE_0: Final = 0xFFFF


def printable(text: str) -> str:
    """The text on one line, with escapes as Python writes them."""
    return text if text.isprintable() else _HIDDEN.sub(_as_python, text)


def printable_block(text: str, indent: str = "  ") -> str:
    """The text with its line breaks and tabs, each line indented."""
    return "\n".join(indent + _HIDDEN_IN_LINE.sub(_as_python, line) for line in text.split("\n"))


def json_escaped(text: str) -> str:
    """A JSON text that holds the same values and none of these characters; line breaks between values stay."""
    return text if text.isprintable() else _HIDDEN_IN_JSON.sub(_as_json, text)


def json_text(value: object, *, indent: int | None = None) -> str:
    """A value as JSON that is safe to print, on one line unless ``indent`` is given."""
    return json_escaped(json.dumps(value, ensure_ascii=False, indent=indent))


def _as_python(found: re.Match[str]) -> str:
    return ascii(found[0])[1:-1]


def _as_json(found: re.Match[str]) -> str:
    code = ord(found[0])
    # json.dumps leaves DEL as it is, but writes surrogate pairs.
    return f"\\u{code:04x}" if code <= _LAST_OF_PLANE_0 else json.dumps(found[0])[1:-1]
