r"""Decode the caller's UserData: a JSON object or array where it is one, else the text.

MPS hands a string back as it was given. People put JSON into it, so that is decoded; a number, a
boolean or a word stays the text that it was, since nobody can tell ``"007"`` from seven. The vendor's
own samples have a stray layer of escaping (``{\"key\":\"value\"}``) and the word ``null``.

Elsewhere: validation against a handler's model (``engine``).
"""

from __future__ import annotations

from pydantic import JsonValue

from consumer.message.strict_json import dump, parse_container
from consumer.message.unreadable import Unreadable

_BEGINNINGS = ("{", "[", '"')


def decode_user_data(text: str | None) -> JsonValue:
    r"""Decode one UserData.

    Args:
        text: As it came; ``None`` when missing.

    Returns:
        ``None`` when missing, empty, blank or the word ``null``; the value of a JSON object or array, also with
        one stray layer of escaping; else the text itself.

    Source: facts/iproduction.md#userdata.
    """
    if text is None:
        return None
    trimmed = text.strip()
    if trimmed in {"", "null"}:
        return None
    if not trimmed.startswith(_BEGINNINGS):
        return text
    try:
        return parse_container(trimmed)
    except Unreadable:
        return text


def read_user_data(value: JsonValue) -> tuple[str | None, JsonValue]:
    """Read the UserData field of a message, which is a string as a rule and JSON itself at times.

    Returns:
        The text (JSON of what was no string) and the decoded value; ``(None, None)`` when there is none.
    """
    text = value if value is None or isinstance(value, str) else dump(value)
    decoded = decode_user_data(text)
    return (None, None) if decoded is None else (text, decoded)
