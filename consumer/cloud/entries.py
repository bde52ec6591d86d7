"""Take a ``<Messages>`` answer apart into its entries, patiently where a body is odd.

A body with characters that XML forbids would spoil the fifteen beside it. So where expat gives up, the entries are cut
apart and read one by one, and only the broken ones are read field by field, bytes kept as they came: such a message is
still delivered, decoded or set aside like any other. Cutting is done outside CDATA sections, in which a sender could
otherwise write entries of its own.

Everything here takes time in proportion to the answer's length, whatever it holds.

Elsewhere: what is XML at all (``plain_xml``), its common case at a third of the cost (``flat_xml``), what the values
mean (``answer``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from xml.etree.ElementTree import Element

from consumer.cloud.flat_xml import flat_messages
from consumer.cloud.plain_xml import CDATA, CDATA_END, AnswerError, fields, local_name, markup, parse
from consumer.cloud.wording import cut

_WHITE: Final = b" \t\r\n"
_ROOT, _ROOT_END = b"<Messages", b"</Messages>"
_ENTRY, _ENTRY_END = b"<Message>", b"</Message>"
_FIELD: Final = re.compile(rb"<([A-Za-z0-9]+)>([^<]*)</\1>")
_REFERENCE: Final = re.compile(rb"&(?:#(\d{1,7})|#[xX]([0-9A-Fa-f]{1,6})|(amp|lt|gt|quot|apos));")
_NAMED: Final = {b"amp": b"&", b"lt": b"<", b"gt": b">", b"quot": b'"', b"apos": b"'"}
_NONE: Final[Mapping[str, str]] = {}


@dataclass(slots=True)
class Entry:
    """One ``<Message>``: its fields, the body apart since it may not be text."""

    fields: Mapping[str, str]
    body: bytes | None
    user_properties: Mapping[str, str]
    system_properties: Mapping[str, str]


def entries(data: bytes, limit: int) -> tuple[list[Entry], int]:
    """Take an answer apart.

    Args:
        data: The answer's body.
        limit: How many entries are read.

    Returns:
        The first ``limit`` entries, and how many more there are.

    Raises:
        AnswerError: It is not a ``<Messages>`` answer at all.
    """
    if (flat := flat_messages(data)) is not None:
        return [_flat(found) for found in flat[:limit]], max(0, len(flat) - limit)
    try:
        root = parse(data)
    except AnswerError:
        cut_apart = _cut_apart(data)
        if cut_apart is None:
            raise
        return [_entry_alone(inner) for inner in cut_apart[:limit]], max(0, len(cut_apart) - limit)
    if local_name(root) != "Messages":
        raise AnswerError(f"expected <Messages>, came <{cut(local_name(root), 40)}>")
    return [_entry(child) for child in root[:limit]], max(0, len(root) - limit)


def _flat(found: Mapping[str, str]) -> Entry:
    body = found.get("MessageBody")
    return Entry(found, None if body is None else body.encode("ascii"), _NONE, _NONE)


def _entry(element: Element) -> Entry:
    # One namespace holds for the whole answer, so what its own tag has of it is cut from each child's.
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


def _cut_apart(data: bytes) -> list[bytes] | None:
    """What stands in each ``<Message>`` of an answer that expat can't read; ``None``: no ``<Messages>`` answer."""
    try:
        tags = markup(data)
    except AnswerError:
        return None
    start = len(tags) - len(tags.lstrip(_WHITE))
    stop = len(tags.rstrip(_WHITE)) - len(_ROOT_END)
    if tags.startswith(b"<?xml", start):
        declared = tags.find(b"?>", start)
        if declared < 0:
            return None
        start = len(tags) - len(tags[declared + 2 :].lstrip(_WHITE))
    head_end = tags.find(b">", start)
    if not 0 <= head_end < stop or not tags.startswith(_ROOT_END, stop) or not _is_root(tags[start:head_end]):
        return None
    found: list[bytes] = []
    read = head_end + 1
    while (begin := tags.find(_ENTRY, read, stop)) >= 0:
        end = tags.find(_ENTRY_END, begin, stop)
        if end < 0:
            break
        found.append(data[begin + len(_ENTRY) : end])
        read = end + len(_ENTRY_END)
    return found


def _is_root(tag: bytes) -> bool:
    name, attributes = tag[: len(_ROOT)], tag[len(_ROOT) :]
    return name == _ROOT and attributes[:1] in {b"", b" ", b"\t", b"\r", b"\n"} and b"<" not in attributes


def _entry_alone(inner: bytes) -> Entry:
    try:
        return _entry(parse(_ENTRY + inner + _ENTRY_END))
    except AnswerError:
        # Properties hold further elements, which the pattern of a field can't cross: they stay out.
        raw = {
            match[1].decode(): _text(inner[match.start(2) : match.end(2)]) for match in _FIELD.finditer(markup(inner))
        }
        body = raw.get("MessageBody")
        return Entry({n: v.decode(errors="replace") for n, v in raw.items()}, body, _NONE, _NONE)


def _text(written: bytes) -> bytes:
    """What a field's text says: references resolved, CDATA sections taken as they are."""
    parts: list[bytes] = []
    read = 0
    while (start := written.find(CDATA, read)) >= 0:
        end = written.find(CDATA_END, start + len(CDATA))
        parts += (_unescaped(written[read:start]), written[start + len(CDATA) : end])
        read = end + len(CDATA_END)
    return b"".join((*parts, _unescaped(written[read:])))


def _unescaped(value: bytes) -> bytes:
    return _REFERENCE.sub(_referred, value) if b"&" in value else value


def _referred(match: re.Match[bytes]) -> bytes:
    decimal, hexadecimal, name = match.groups()
    if name is not None:
        return _NAMED[name]
    number = int(decimal) if decimal is not None else int(hexadecimal, 16)
    try:
        return chr(number).encode()
    except (ValueError, UnicodeEncodeError):  # no such character, or half of a pair: kept as written
        return match[0]
