"""Read the fields of an object whose keys may come in any case, or in two cases at once.

MPS's older job kinds send ``jobId``, ``JobId``, or both in one message
(facts/iproduction.md#other-messages-in-the-queue). Two spellings of one key must say the
same; if they don't, nobody can tell which is meant.

Elsewhere: one spelling twice (``strict_json``), what the fields mean (``notification``).
"""

from __future__ import annotations

import re
from typing import Final

from pydantic import JsonValue

from consumer.message.strict_json import agree, dump, name_of
from consumer.message.unreadable import Unreadable, shown

JOB_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""JobId and RunId: a handler may build a file's name or a query from one (facts/iproduction.md#submit-a-job)."""
FUNCTION_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
"""FunctionName, as MPS writes them: ``VideoH2V`` (facts/iproduction.md#functions)."""


def fold(document: dict[str, JsonValue]) -> tuple[dict[str, JsonValue], dict[str, JsonValue]]:
    """Make an object's keys comparable.

    Args:
        document: The object as it came.

    Returns:
        The same values by lower-case key, and the object without the second spelling of any key.

    Raises:
        Unreadable: Layer ``keys``: two spellings of one key with different values.
    """
    folded = {key.lower(): value for key, value in document.items()}
    if len(folded) == len(document):
        return folded, document
    first: dict[str, str] = {}
    for key, value in document.items():
        earlier = first.setdefault(key.lower(), key)
        if earlier is not key and not agree(document[earlier], value):
            raise Unreadable("keys", f"{shown(earlier)} and {shown(key)} are one key with different values")
    return folded, {key: document[key] for key in first.values()}


def text_of(fields: dict[str, JsonValue], key: str) -> str | None:
    """Read a field that must be text where it is there; a number is taken as its digits.

    Args:
        fields: By lower-case key, as ``fold`` gives them.
        key: In lower case, such as ``jobid``.

    Returns:
        The text; ``None`` when missing, ``null`` or empty.

    Raises:
        Unreadable: Layer ``keys``: it is something else.
    """
    value = fields.get(key)
    if value is None or isinstance(value, str):
        return value or None
    if isinstance(value, bool | dict | list):
        raise Unreadable("keys", f"expected text as {key} (in any case), came {name_of(value)}")
    return str(value)


def name_in(fields: dict[str, JsonValue], key: str, allowed: re.Pattern[str]) -> str | None:
    """Read a name that others build on: text of a fixed alphabet, never a number.

    Args:
        fields: By lower-case key, as ``fold`` gives them.
        key: In lower case, such as ``jobid``.
        allowed: What the whole name must match: ``JOB_ID`` or ``FUNCTION_NAME``.

    Returns:
        The name; ``None`` when missing, ``null`` or empty.

    Raises:
        Unreadable: Layer ``keys``: it is no string, or has other characters or another length.
    """
    value = fields.get(key)
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise Unreadable("keys", f"expected a string as {key} (in any case), came {name_of(value)}")
    if not allowed.fullmatch(value):
        raise Unreadable("keys", f"expected {allowed.pattern} as {key} (in any case), came {shown(value)}")
    return value


def wording_of(fields: dict[str, JsonValue], key: str) -> str | None:
    """Read a field that is only handed on to people: text as it is, anything else as JSON, ``null`` as ``None``."""
    value = fields.get(key)
    return value if value is None or isinstance(value, str) else dump(value)
