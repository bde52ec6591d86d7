"""Read the one shape of answer that nearly all messages come in, a third of the cost of an XML parser.

Shape: a ``<Messages>`` element of ``<Message>`` elements, each a row of elements that hold nothing but printable
ASCII. Within it XML has nothing to interpret: no reference, no nesting, no line ends, no encoding. Any byte that
steps out of it, and be it one that XML allows, gives ``None``: then the whole answer is for the parser. So this
never decides what is valid; a test holds it to the parser, answer by answer.

Elsewhere: the parser (``plain_xml``), what the fields mean (``answer``).
"""

from __future__ import annotations

import re
from typing import Final

_WHITE: Final = " \t\r\n"
_HEAD: Final = re.compile(
    r"""(?:<\?xml version=["']1\.0["'](?: encoding=["'][Uu][Tt][Ff]-8["'])? ?\?>[ \t\r\n]*)?"""
    r"""<Messages(?: xmlns="[!#-%'-;=?-~]+")?>"""
)
_TAIL: Final = "</Messages>"
_ENTRY: Final = "<Message>"
_ENTRY_END: Final = "</Message>"
# Printable ASCII but & and < and, for the sake of "]]>", >.
_FIELD: Final = re.compile(r"<([A-Za-z][A-Za-z0-9]*)>([ -%'-;=?-~]*)</\1>")
_PARTS: Final = 3
"""What splitting by ``_FIELD`` gives for each: what lies before it, its name, its text."""


def flat_messages(data: bytes) -> list[dict[str, str]] | None:
    """The fields of each message by name.

    Args:
        data: The answer's body.

    Returns:
        As many as there are, in order; of two fields with one name the last. ``None`` for an answer of another shape.
    """
    if not data.isascii():
        return None
    text = data.decode("ascii").rstrip(_WHITE)
    head = _HEAD.match(text)
    if head is None or not text.endswith(_TAIL):
        return None
    *entries, rest = text[head.end() : -len(_TAIL)].split(_ENTRY_END)
    if rest.strip(_WHITE):
        return None
    found = []
    for entry in entries:
        parts = _FIELD.split(entry)
        # Nothing may stand between the fields, and nothing but the tag before the first.
        if parts[0].strip(_WHITE) != _ENTRY or "".join(parts[_PARTS::_PARTS]).strip(_WHITE):
            return None
        found.append(dict(zip(parts[1::_PARTS], parts[2::_PARTS], strict=True)))
    return found
