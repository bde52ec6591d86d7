"""Parse the XML that MNS speaks, and nothing more of XML than that.

Declarations of any kind (doctype, entities, CDATA, comments) are refused before expat starts: MNS sends
none, and they are how XML does harm. The text is taken as UTF-8 whatever it claims to be, and a zero byte is
refused, since a byte order mark would switch expat to UTF-16 all the same: no encoding can hide one. Names
are compared without their namespace.

Elsewhere: messages and receipts (``answer``), which answer is a success (``mns_call``).
"""

from __future__ import annotations

from xml.etree.ElementTree import Element, ParseError, XMLParser

from consumer.cloud.wording import cut, describe


class AnswerError(ValueError):
    """The bytes are not the XML that the operation answers with; says what was expected and what came."""


def parse(data: bytes) -> Element:
    """Parse one answer.

    Raises:
        AnswerError: It is not well-formed, or declares something.
    """
    if b"<!" in data:
        raise AnswerError("expected plain XML, came a doctype, entity, comment or CDATA section; it was not read")
    if b"\0" in data:
        raise AnswerError(f"expected XML in UTF-8, came {describe(data)} with a zero byte among them")
    parser = XMLParser(encoding="utf-8")  # noqa: S314 - nothing can be declared: "<!" was refused above
    try:
        parser.feed(data)
        root = parser.close()
    except ParseError as error:
        raise AnswerError(f"expected XML, came {describe(data)}: {error}") from None
    if not isinstance(root, Element):  # pragma: no cover - ElementTree gives nothing else
        raise AnswerError("expected XML, came nothing")
    return root


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
