"""Read the XML of MNS's answers, and nothing more of XML than that.

Doctypes, entities, comments and processing instructions are refused before expat starts: MNS sends none, and they are
how XML does harm. CDATA sections are text: every parser of the vendor reads them. The text is UTF-8 whatever it
declares, and a zero byte is refused, since a byte order mark would switch expat to UTF-16: no encoding can hide a
declaration. Names are compared without their namespace.

A list of messages is read in one of three ways: ``flat_messages`` for the shape that nearly all answers have, expat for
the others, and entry by entry where expat gives up. A body with characters that XML forbids would otherwise spoil the
fifteen messages beside it; only that one is read field by field, its bytes kept as they came. Entries are separated
outside CDATA sections, in which a sender could otherwise write entries of its own.

Everything here takes time in proportion to the answer's length, whatever it holds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from xml.etree.ElementTree import Element, ParseError, XMLParser

from consumer.cloud.faults import cut, describe

FLAT_READER = True  # 5 us a message: bench ablation "flat-xml"
"""Whether lists of messages are first read by ``flat_messages``; ``False`` gives each to expat."""

_WHITE: Final = b" \t\r\n"
_CDATA, _CDATA_END = b"<![CDATA[", b"]]>"
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_NAMESPACES: Final = frozenset({"http://mns.aliyuncs.com/doc/v1", "http://mns.aliyuncs.com/doc/v1/", ""})
"""MNS's own: as it sends it, as its pages print it, and left out (facts/mns.md#answers)."""
_HEAD_BYTES: Final = 1024
_START_TAG: Final = re.compile(rb"<[A-Za-z][^<>]*(?=>)")
_FLAT_HEAD: Final = re.compile(
    r"""(?:<\?xml version=["']1\.0["'](?: encoding=["'][Uu][Tt][Ff]-8["'])? ?\?>[ \t\r\n]*)?"""
    r"""<Messages(?: xmlns="[!#-%'-;=?-~]+")?>"""
)
# Printable ASCII but & and < and, because of "]]>", >.
_FLAT_FIELD: Final = re.compile(r"<([A-Za-z][A-Za-z0-9]*)>([ -%'-;=?-~]*)</\1>")
_PARTS: Final = 3
"""Splitting by ``_FLAT_FIELD`` gives for each field the text before it, its name, its text."""

_LIST_HEAD: Final = re.compile(rb"[ \t\r\n]*+(?:<\?xml[^<>]*\?>[ \t\r\n]*+)?<Messages(?:[ \t\r\n][^<>]*)?>")
_LIST_END: Final = b"</Messages>"
_ENTRY, _ENTRY_END = b"<Message>", b"</Message>"
_FIELD: Final = re.compile(rb"<([A-Za-z0-9]+)>([^<]*)</\1>")
_REFERENCE: Final = re.compile(rb"&(?:#(\d{1,7})|#[xX]([0-9A-Fa-f]{1,6})|(amp|lt|gt|quot|apos));")
_NAMED: Final = {b"amp": b"&", b"lt": b"<", b"gt": b">", b"quot": b'"', b"apos": b"'"}
_NONE: Final[Mapping[str, str]] = {}


class AnswerError(ValueError):
    """The bytes are not the XML of this operation's answer; says what was expected and what came."""


@dataclass(slots=True)
class Entry:
    """One ``<Message>``: its fields, and the body apart since it may not be text."""

    fields: Mapping[str, str]
    body: bytes | None
    user_properties: Mapping[str, str]
    system_properties: Mapping[str, str]


def parse(data: bytes) -> Element:
    """Parse one answer; raises ``AnswerError`` if it is not well-formed, or declares something."""
    markup(data)
    if b"\0" in data:
        raise AnswerError(f"expected XML in UTF-8, came {describe(data)} with a zero byte among them")
    parser = XMLParser(encoding="utf-8")  # noqa: S314 - nothing can be declared: markup() refuses it
    try:
        parser.feed(data)
        root: Element = parser.close()
    except ParseError as error:
        raise AnswerError(f"expected XML, came {describe(data)}: {error}") from None
    return root


def markup(data: bytes) -> bytes:
    """The same bytes with each CDATA section blanked: tags and text are left, at the same offsets.

    Raises ``AnswerError`` for a doctype, an entity, a comment, a processing instruction, or a CDATA section without an
    end: so no CDATA section can be part of any of them.
    """
    outside = _without_cdata(data) if b"<!" in data else data
    if b"<?" in outside:
        begins = outside.removeprefix(_BYTE_ORDER_MARK).lstrip()
        if begins.find(b"<?", 1 if begins[:6].split() == [b"<?xml"] else 0) >= 0:
            raise AnswerError("expected plain XML, came a processing instruction; it was not read")
    return outside


def has_root(data: bytes, expected: str) -> bool:
    """Whether the root element is ``expected`` in MNS's namespace.

    Only the start is read, as an element without content: a body that XML forbids may follow.
    """
    tag = _START_TAG.search(data[:_HEAD_BYTES])
    if tag is None:
        return False
    try:
        namespace, _, name = parse(data[: tag.end()].rstrip(b"/") + b"/>").tag.rpartition("}")
    except AnswerError:
        return False
    return name == expected and namespace.removeprefix("{") in _NAMESPACES


def local_name(element: Element) -> str:
    """The element's name without its namespace."""
    return element.tag.rpartition("}")[2]


def fields(element: Element) -> dict[str, str]:
    """The text of each child, by local name; an empty element is ``""``."""
    return {local_name(child): child.text or "" for child in element}


def root_fields(data: bytes, expected: str) -> dict[str, str]:
    """The text of each child of the root; raises ``AnswerError`` unless that is ``expected``."""
    root = parse(data)
    if local_name(root) != expected:
        raise AnswerError(f"expected <{expected}>, came <{cut(local_name(root), 40)}>")
    return fields(root)


def entries(data: bytes, limit: int) -> tuple[list[Entry], int]:
    """The first ``limit`` entries of a ``<Messages>`` answer, and how many more there are; or ``AnswerError``."""
    if FLAT_READER and (flat := flat_messages(data)) is not None:
        return [_flat_entry(found) for found in flat[:limit]], max(0, len(flat) - limit)
    try:
        root = parse(data)
    except AnswerError:
        separated = _separated(data)
        if separated is None:
            raise
        return [_entry_alone(inner) for inner in separated[:limit]], max(0, len(separated) - limit)
    if local_name(root) != "Messages":
        raise AnswerError(f"expected <Messages>, came <{cut(local_name(root), 40)}>")
    return [_entry(child) for child in root[:limit]], max(0, len(root) - limit)


def flat_messages(data: bytes) -> list[dict[str, str]] | None:
    """The fields of each message by name, without expat; ``None`` for an answer of another shape.

    Shape: a ``<Messages>`` element of ``<Message>`` elements, each a row of elements of printable ASCII. In it XML has
    nothing to interpret: no reference, no nesting, no line ends, no encoding. Any other byte, valid in XML or not,
    gives ``None``: so this never decides what is valid; a test compares it with the parser, answer by answer.
    """
    if not data.isascii():
        return None
    text = data.decode("ascii").rstrip(" \t\r\n")
    head = _FLAT_HEAD.match(text)
    if head is None or not text.endswith("</Messages>"):
        return None
    *messages, rest = text[head.end() : -len("</Messages>")].split("</Message>")
    if rest.strip(" \t\r\n"):
        return None
    found = []
    for message in messages:
        parts = _FLAT_FIELD.split(message)
        # Only the tag may stand before the first field, and nothing between the fields.
        if parts[0].strip(" \t\r\n") != "<Message>" or "".join(parts[_PARTS::_PARTS]).strip(" \t\r\n"):
            return None
        found.append(dict(zip(parts[1::_PARTS], parts[2::_PARTS], strict=True)))
    return found


def _without_cdata(data: bytes) -> bytes:
    parts: list[bytes] = []
    read = 0
    while (start := data.find(b"<!", read)) >= 0:
        if not data.startswith(_CDATA, start):
            raise AnswerError("expected plain XML, came a doctype, an entity or a comment; it was not read")
        end = data.find(_CDATA_END, start + len(_CDATA))
        if end < 0:
            raise AnswerError("expected XML, came a CDATA section without an end")
        end += len(_CDATA_END)
        parts += (data[read:start], b" " * (end - start))
        read = end
    return b"".join((*parts, data[read:]))


def _flat_entry(found: Mapping[str, str]) -> Entry:
    body = found.get("MessageBody")
    return Entry(found, None if body is None else body.encode("ascii"), _NONE, _NONE)


def _entry(element: Element) -> Entry:
    # One namespace holds for the whole answer: the length of its own tag's is cut from each child's.
    start = element.tag.rfind("}") + 1
    found = {child.tag[start:]: child.text or "" for child in element}
    user = system = _NONE
    if "UserProperties" in found or "SystemProperties" in found:
        for child in element:
            name = child.tag[start:]
            if name == "UserProperties":
                user = _properties(child)
            elif name == "SystemProperties":
                system = _properties(child)
    body = found.get("MessageBody")
    return Entry(found, None if body is None else body.encode(), user, system)


def _properties(element: Element) -> dict[str, str]:
    pairs = (fields(value) for value in element)
    return {pair["Name"]: pair.get("Value", "") for pair in pairs if "Name" in pair}


def _separated(data: bytes) -> list[bytes] | None:
    """The inside of each ``<Message>`` of an answer that expat can't read; ``None``: no ``<Messages>`` answer."""
    try:
        tags = markup(data)
    except AnswerError:
        return None
    head = _LIST_HEAD.match(tags)
    stop = len(tags.rstrip(_WHITE)) - len(_LIST_END)
    if head is None or head.end() > stop or not tags.startswith(_LIST_END, stop):
        return None
    found: list[bytes] = []
    read = head.end()
    while (begin := tags.find(_ENTRY, read, stop)) >= 0:
        end = tags.find(_ENTRY_END, begin, stop)
        if end < 0:
            break
        found.append(data[begin + len(_ENTRY) : end])
        read = end + len(_ENTRY_END)
    return found


def _entry_alone(inner: bytes) -> Entry:
    try:
        return _entry(parse(_ENTRY + inner + _ENTRY_END))
    except AnswerError:
        # Properties hold further elements, which the pattern of a field can't cross: they are left out.
        raw = {
            match[1].decode(): _text(inner[match.start(2) : match.end(2)]) for match in _FIELD.finditer(markup(inner))
        }
        body = raw.get("MessageBody")
        return Entry({n: v.decode(errors="replace") for n, v in raw.items()}, body, _NONE, _NONE)


def _text(written: bytes) -> bytes:
    """A field's text: references resolved, CDATA sections taken as they are."""
    parts: list[bytes] = []
    read = 0
    while (start := written.find(_CDATA, read)) >= 0:
        end = written.find(_CDATA_END, start + len(_CDATA))
        parts += (_REFERENCE.sub(_referred, written[read:start]), written[start + len(_CDATA) : end])
        read = end + len(_CDATA_END)
    return b"".join((*parts, _REFERENCE.sub(_referred, written[read:])))


def _referred(match: re.Match[bytes]) -> bytes:
    decimal, hexadecimal, name = match.groups()
    if name is not None:
        return _NAMED[name]
    number = int(decimal) if decimal is not None else int(hexadecimal, 16)
    try:
        return chr(number).encode()
    except (ValueError, UnicodeEncodeError):  # no such character, or half of a pair: kept as written
        return match[0]
