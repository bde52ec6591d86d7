"""Find the notification's object in a body: as it stands, or inside one topic envelope.

A subscription of an MNS topic wraps the message as JSON or as XML, or hands it on bare (SIMPLIFIED),
as its owner chose (facts/iproduction.md#topic-envelopes). The envelope is raw while the text inside may be base64, so
the two are told apart separately. One envelope is taken off; one inside another is refused, since no
service makes it.

    text -> document | {TopicName, Message, ...} -> text -> document

XML is read with doctypes refused, before any entity of theirs could grow.

Elsewhere: base64 (``body``), what the document says (``notification``).
"""

from __future__ import annotations

import hashlib
from typing import NoReturn
from xml.parsers import expat

from pydantic import JsonValue

from consumer.message.body import read_text
from consumer.message.fields import fold, text_of
from consumer.message.strict_json import name_of, parse
from consumer.message.unreadable import Unreadable, shown

_ROOT = "Notification"
_FIELD_DEPTH = 2


def unwrap(body: bytes) -> tuple[dict[str, JsonValue], dict[str, JsonValue]]:
    """Take a body apart down to the notification's object.

    Args:
        body: Anything.

    Returns:
        Its fields by lower-case key, and the object as it came (first of two spellings of a key).

    Raises:
        Unreadable: Says at which layer it stopped; layers inside an envelope begin with ``envelope.``.

    Source: facts/iproduction.md#topic-envelopes, facts/mns.md#base64, facts/mns.md#message-ids-and-md5.
    """
    fields, document = _read(body)
    if not _is_envelope(fields):
        return fields, document
    message = fields.get("message")
    if not isinstance(message, str):
        came = name_of(message) if "message" in fields else "none"
        raise Unreadable("envelope", f"expected the notification as text in Message, came {came}")
    _check_md5(message, text_of(fields, "messagemd5"))
    try:
        fields, document = _read(message.encode())
    except Unreadable as fault:
        raise fault.within("envelope.") from None
    if _is_envelope(fields):
        raise Unreadable("envelope", "expected a notification in Message, came another envelope")
    return fields, document


def _read(body: bytes) -> tuple[dict[str, JsonValue], dict[str, JsonValue]]:
    text, note = read_text(body)
    try:
        document = _read_xml(text) if text.lstrip().startswith("<") else parse(text)
    except Unreadable as fault:
        raise fault.within("", note) from None
    if not isinstance(document, dict):
        raise Unreadable("json", f"expected a JSON object, came {name_of(document)}", 0)
    return fold(document)


def _is_envelope(fields: dict[str, JsonValue]) -> bool:
    """A notification has a Message too, but none names a topic."""
    return "topicname" in fields and ("message" in fields or "subscriptionname" in fields)


def _check_md5(message: str, expected: str | None) -> None:
    if expected is None:
        return
    carried = message.encode()
    # XML's rules turn CR LF into LF on the way; the sum was made before that.
    for candidate in (carried, carried.replace(b"\n", b"\r\n")):
        if hashlib.md5(candidate, usedforsecurity=False).hexdigest().upper() == expected.upper():
            return
    raise Unreadable("envelope", f"MessageMD5 is {shown(expected)}, which is not the MD5 of Message: it was changed")


def _read_xml(text: str) -> dict[str, JsonValue]:
    """Read ``<Notification>`` with one level of fields, by local name."""
    reader = _NotificationXml()
    try:
        # A declaration may name another encoding, but the text has been decoded already.
        reader.parser.Parse(text, True)  # noqa: FBT003 - expat takes "this is all" by position only
    except expat.ExpatError as fault:
        reason = f"not XML: {expat.ErrorString(fault.code)}"
        raise Unreadable("xml", reason, reader.parser.ErrorByteIndex) from None
    if not reader.fields.keys() >= {"TopicName", "Message"}:
        raise Unreadable(
            "envelope", f"expected TopicName and Message in <{_ROOT}>, came {shown(', '.join(reader.fields))}"
        )
    return dict(reader.fields)


class _NotificationXml:
    """Collect the fields while expat reads; anything of another shape stops it at once."""

    def __init__(self) -> None:
        self.fields: dict[str, str] = {}
        self._path: list[str] = []
        self._pieces: list[str] = []
        self.parser = expat.ParserCreate("utf-8")
        self.parser.StartDoctypeDeclHandler = self._refuse_doctype
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._pieces.append

    def _refuse_doctype(self, *_: object) -> NoReturn:
        raise self._fault("expected no doctype")

    def _start(self, name: str, _attributes: object) -> None:
        self._path.append(name.rpartition(":")[2])
        self._pieces.clear()
        if self._path[0] != _ROOT:
            raise self._fault(f"expected the element '{_ROOT}', came {shown(name)}")
        if len(self._path) > _FIELD_DEPTH:
            raise self._fault(f"expected text in {shown(self._path[1])}, came an element")

    def _end(self, _name: str) -> None:
        if len(self._path) == _FIELD_DEPTH:
            name, text = self._path[1], "".join(self._pieces)
            if self.fields.setdefault(name, text) != text:
                raise self._fault(f"the element {shown(name)} comes twice with different values")
        self._path.pop()

    def _fault(self, reason: str) -> Unreadable:
        return Unreadable("xml", reason, self.parser.CurrentByteIndex)
