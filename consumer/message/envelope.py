"""Find the notification's object in a body: base64 or plain, bare or inside one topic envelope, keys in any case.

Base64 is a habit of MNS's clients (facts/mns.md#base64): no field says whether it was used. So a body is strictly
base64 (RFC 4648's alphabet, right padding; white space around it and line breaks inside are dropped, since encoders
fold lines) or it is plain. JSON objects and XML hold characters outside that alphabet: neither is taken for base64.

A subscription of an MNS topic wraps the message as JSON or as XML, or forwards it bare (SIMPLIFIED), as its owner chose
(facts/iproduction.md#topic-envelopes). The text inside may be base64 again. One envelope is removed; one inside another
is refused, since no service makes it. XML is read without doctypes, so no entity can grow.
"""

from __future__ import annotations

import codecs
import hashlib
import re
from binascii import Error, a2b_base64
from typing import Final, NoReturn
from xml.parsers import expat

from pydantic import JsonValue

from consumer.message.strict_json import Undecodable, agree, name_of, parse, shown

JOB_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""JobId and RunId: a handler may build a file's name or a query from one (facts/iproduction.md#submit-a-job)."""
FUNCTION_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
"""FunctionName, as MPS writes them: ``VideoH2V`` (facts/iproduction.md#functions)."""

_WHITE = b" \t\r\n"
_LINE_BREAKS = b"\r\n"
_ROOT = "Notification"
_FIELD_DEPTH = 2


def unwrap(body: bytes) -> tuple[dict[str, JsonValue], dict[str, JsonValue]]:
    """Take a body apart: the notification's fields by lower-case key, and its object as it came.

    Source: facts/iproduction.md#topic-envelopes, facts/mns.md#base64, facts/mns.md#message-ids-and-md5.

    Raises:
        Undecodable: Names the layer at which it stopped; layers inside an envelope begin with ``envelope.``.
    """
    fields, document = _read(body)
    if not _is_envelope(fields):
        return fields, document
    message = fields.get("message")
    if not isinstance(message, str):
        came = name_of(message) if "message" in fields else "none"
        raise Undecodable("envelope", f"expected the notification as text in Message, came {came}")
    _check_md5(message, text_of(fields, "messagemd5"))
    try:
        fields, document = _read(message.encode())
    except Undecodable as fault:
        raise fault.within("envelope.") from None
    if _is_envelope(fields):
        raise Undecodable("envelope", "expected a notification in Message, came another envelope")
    return fields, document


def read_text(body: bytes) -> tuple[str, str]:
    """A body's text, and a note on how it was read, for the reason should the text not be a message.

    Raises:
        Undecodable: Layer ``body``: empty, or not UTF-8.
    """
    decoded = _from_base64(body)
    if not decoded:
        return _from_utf8(body), ""
    try:
        return _from_utf8(decoded), " (in the text that the base64 holds)"
    except Undecodable as fault:
        # Words such as "null" or "abcd" are base64 by chance: the text itself explains more.
        return body.decode("ascii"), f" (it is also valid base64, in which: {fault.reason})"


def fold(document: dict[str, JsonValue]) -> tuple[dict[str, JsonValue], dict[str, JsonValue]]:
    """An object's values by lower-case key, and the object without the second spelling of any key.

    MPS's older kinds send ``jobId``, ``JobId``, or both. Two with different values are ``Undecodable``.
    Source: facts/iproduction.md#other-messages-in-the-queue.
    """
    folded = {key.lower(): value for key, value in document.items()}
    if len(folded) == len(document):
        return folded, document
    first: dict[str, str] = {}
    for key, value in document.items():
        earlier = first.setdefault(key.lower(), key)
        if earlier is not key and not agree(document[earlier], value):
            raise Undecodable("keys", f"{shown(earlier)} and {shown(key)} are one key with different values")
    return folded, {key: document[key] for key in first.values()}


def text_of(fields: dict[str, JsonValue], key: str) -> str | None:
    """A folded field that must be text; a number becomes its digits. ``None`` when missing, ``null`` or empty."""
    value = fields.get(key)
    if value is None or isinstance(value, str):
        return value or None
    if isinstance(value, bool | dict | list):
        raise Undecodable("keys", f"expected text as {key} (in any case), came {name_of(value)}")
    return str(value)


def name_in(fields: dict[str, JsonValue], key: str, allowed: re.Pattern[str]) -> str | None:
    """A folded field that must be a string of this form (a number isn't); ``None`` when missing, ``null`` or empty."""
    value = fields.get(key)
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise Undecodable("keys", f"expected a string as {key} (in any case), came {name_of(value)}")
    if not allowed.fullmatch(value):
        raise Undecodable("keys", f"expected {allowed.pattern} as {key} (in any case), came {shown(value)}")
    return value


def _from_base64(body: bytes) -> bytes:
    try:
        return a2b_base64(body, strict_mode=True)
    except Error:
        compact = body.strip(_WHITE).translate(None, _LINE_BREAKS)
        if len(compact) == len(body):
            return b""
    try:
        return a2b_base64(compact, strict_mode=True)
    except Error:
        return b""


def _from_utf8(data: bytes) -> str:
    try:
        text = data.decode()
    except UnicodeDecodeError as fault:
        utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        hint = "; it begins like UTF-16" if utf16 else ""
        reason = f"expected UTF-8, came byte 0x{data[fault.start]:02x}{hint}"
        raise Undecodable("body", reason, fault.start) from None
    if not text or text.isspace():
        raise Undecodable("body", "expected a notification, came an empty body")
    return text.removeprefix("\ufeff")


def _read(body: bytes) -> tuple[dict[str, JsonValue], dict[str, JsonValue]]:
    text, note = read_text(body)
    try:
        document = _read_xml(text) if text.lstrip().startswith("<") else parse(text)
    except Undecodable as fault:
        raise fault.within("", note) from None
    if not isinstance(document, dict):
        raise Undecodable("json", f"expected a JSON object, came {name_of(document)}", 0)
    return fold(document)


def _is_envelope(fields: dict[str, JsonValue]) -> bool:
    """A notification has a Message too, but no TopicName."""
    return "topicname" in fields and ("message" in fields or "subscriptionname" in fields)


def _check_md5(message: str, expected: str | None) -> None:
    if expected is None:
        return
    carried = message.encode()
    # XML's rules turn CR LF into LF on the way; the sum was made before that.
    for candidate in (carried, carried.replace(b"\n", b"\r\n")):
        if hashlib.md5(candidate, usedforsecurity=False).hexdigest().upper() == expected.upper():
            return
    raise Undecodable("envelope", f"MessageMD5 is {shown(expected)}, which is not the MD5 of Message: it was changed")


def _read_xml(text: str) -> dict[str, JsonValue]:
    """Read ``<Notification>`` with one level of fields, by local name."""
    reader = _NotificationXml()
    try:
        # A declaration may name another encoding, but the text has been decoded already.
        reader.parser.Parse(text, True)  # noqa: FBT003 - expat takes "this is all" by position only
    except expat.ExpatError as fault:
        reason = f"not XML: {expat.ErrorString(fault.code)}"
        raise Undecodable("xml", reason, reader.parser.ErrorByteIndex) from None
    if not reader.fields.keys() >= {"TopicName", "Message"}:
        raise Undecodable(
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

    def _fault(self, reason: str) -> Undecodable:
        return Undecodable("xml", reason, self.parser.CurrentByteIndex)
