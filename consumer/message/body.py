"""Read a message's body as text: base64 where it is base64, else as it stands.

Base64 is a habit of MNS's clients, no property of the queue (facts/mns.md#base64): nothing in a message tells
which it is. So: strictly base64 (RFC 4648's alphabet, right padding; white space around it and line
breaks inside are dropped, since encoders that fold lines exist) or not at all. A JSON object and an XML
document hold characters outside that alphabet, so no readable message is taken for the wrong one.

    bytes -> text

Elsewhere: what the text is (``envelope``); the same is asked again of a topic's inner text.
"""

from __future__ import annotations

import codecs
from binascii import Error, a2b_base64

from consumer.message.unreadable import Unreadable

_WHITE = b" \t\r\n"
_LINE_BREAKS = b"\r\n"
_INSIDE = " (in the text that the base64 holds)"


def read_text(body: bytes) -> tuple[str, str]:
    """Read a body as text.

    Args:
        body: Anything.

    Returns:
        The text, without a byte order mark; and a note on how it was read, for the reason should the text
        turn out to be no message (``""`` where it stands as it came).

    Raises:
        Unreadable: Layer ``body``: empty, or not UTF-8.
    """
    decoded = _from_base64(body)
    if not decoded:
        return _from_utf8(body), ""
    try:
        return _from_utf8(decoded), _INSIDE
    except Unreadable as fault:
        # Words such as "null" or "abcd" are base64 by chance: the text itself says more about them.
        return body.decode("ascii"), f" (it is also valid base64, in which: {fault.reason})"


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
        raise Unreadable("body", reason, fault.start) from None
    if not text or text.isspace():
        raise Unreadable("body", "expected a notification, came an empty body")
    return text.removeprefix("\ufeff")
