"""Parse the XML that MNS speaks, and nothing more of XML than that.

Doctypes, entities, comments and processing instructions are refused before expat starts: MNS sends none, and they
are how XML does harm. CDATA sections are text: every parser of the vendor reads them. The text is taken as UTF-8
whatever it claims to be, and a zero byte is refused, since a byte order mark would switch expat to UTF-16 all the same:
no encoding can hide a declaration. Names are compared without their namespace.

Elsewhere: messages and receipts (``answer``), which answer is a success (``mns_call``).
"""

from __future__ import annotations

import re
from typing import Final
from xml.etree.ElementTree import Element, ParseError, XMLParser

from consumer.cloud.wording import cut, describe

CDATA: Final = b"<![CDATA["
CDATA_END: Final = b"]]>"
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_NAMESPACES: Final = frozenset({b"http://mns.aliyuncs.com/doc/v1", b"http://mns.aliyuncs.com/doc/v1/", b""})
"""What MNS's own documents name: as it sends it, as its pages print it, and left out (facts/mns.md#answers)."""
_HEAD_BYTES: Final = 1024
_ROOT: Final = re.compile(
    rb"""(?:\xef\xbb\xbf)?(?:<\?xml [^<>]*\?>)?[ \t\r\n]*<(?:([A-Za-z][A-Za-z0-9]*):)?([A-Za-z]+)([^<>]*)>"""
)
_XMLNS: Final = re.compile(rb"""[ \t\r\n]xmlns(?::([A-Za-z][A-Za-z0-9]*))?=(?:"([^"]*)"|'([^']*)')""")


class AnswerError(ValueError):
    """The bytes are not the XML that the operation answers with; says what was expected and what came."""


def parse(data: bytes) -> Element:
    """Parse one answer.

    Raises:
        AnswerError: It is not well-formed, or declares something.
    """
    markup(data)
    if b"\0" in data:
        raise AnswerError(f"expected XML in UTF-8, came {describe(data)} with a zero byte among them")
    parser = XMLParser(encoding="utf-8")  # noqa: S314 - nothing can be declared: markup() refuses it
    try:
        parser.feed(data)
        root = parser.close()
    except ParseError as error:
        raise AnswerError(f"expected XML, came {describe(data)}: {error}") from None
    if not isinstance(root, Element):  # pragma: no cover - ElementTree gives nothing else
        raise AnswerError("expected XML, came nothing")
    return root


def markup(data: bytes) -> bytes:
    """The same bytes with each CDATA section blanked: what is left is tags and text, at the same offsets.

    Raises:
        AnswerError: There is a doctype, an entity, a comment, a processing instruction, or a CDATA section without an
            end. So what looks like a CDATA section can't be part of any of them.
    """
    outside = _without_cdata(data) if b"<!" in data else data
    if b"<?" in outside:
        begins = outside.removeprefix(_BYTE_ORDER_MARK).lstrip()
        if begins.find(b"<?", 1 if begins[:6].split() == [b"<?xml"] else 0) >= 0:
            raise AnswerError("expected plain XML, came a processing instruction; it was not read")
    return outside


def _without_cdata(data: bytes) -> bytes:
    parts: list[bytes] = []
    read = 0
    while (start := data.find(b"<!", read)) >= 0:
        if not data.startswith(CDATA, start):
            raise AnswerError("expected plain XML, came a doctype, an entity or a comment; it was not read")
        end = data.find(CDATA_END, start + len(CDATA))
        if end < 0:
            raise AnswerError("expected XML, came a CDATA section without an end")
        end += len(CDATA_END)
        parts += (data[read:start], b" " * (end - start))
        read = end
    return b"".join((*parts, data[read:]))


def has_root(data: bytes, expected: str) -> bool:
    """Whether the root element is ``expected`` in MNS's namespace; looks at the start only, not at what follows."""
    found = _ROOT.match(data[:_HEAD_BYTES])
    if found is None or found[2] != expected.encode():
        return False
    declared = {prefix: double or single for prefix, double, single in _XMLNS.findall(found[3])}
    return declared.get(found[1] or b"", b"") in _NAMESPACES


def local_name(element: Element) -> str:
    """The element's name without its namespace."""
    tag = element.tag
    return tag[tag.rfind("}") + 1 :]


def fields(element: Element) -> dict[str, str]:
    """The text of each child, by local name; an empty element is ``""``."""
    return {child.tag[child.tag.rfind("}") + 1 :]: child.text or "" for child in element}


def root_fields(data: bytes, expected: str) -> dict[str, str]:
    """Parse an answer whose root must be ``expected`` and give the text of its children.

    Raises:
        AnswerError: Not XML, or another root.
    """
    root = parse(data)
    if local_name(root) != expected:
        raise AnswerError(f"expected <{expected}>, came <{cut(local_name(root), 40)}>")
    return fields(root)
