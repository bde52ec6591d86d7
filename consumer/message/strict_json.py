r"""Parse JSON from outside: one value for a text, or the reason why not.

Stricter than the usual parsers where two of them would read one text in two ways, or where the value can't be stored
or sent again: a key twice with two values, NaN, numbers beyond a float, lone surrogates, U+0000 (PostgreSQL keeps
neither), more than ``MAX_DEPTH`` levels.

pydantic-core reads most texts. It silently keeps the last of two equal keys, so its value is accepted only when it
accounts for every colon of the text: one for each key, and those inside strings. A dropped key leaves a colon over.
Any other text is read again by the standard library with every rule spelt out, which also gives a fault's position.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from typing import Final, NoReturn

from pydantic import JsonValue
from pydantic_core import from_json

MAX_DEPTH: Final = 100
"""Objects and arrays within each other; the services' own messages have fewer than ten."""
COUNTS_COLONS = True  # 7 us a message: bench ablation "colons"
"""Whether texts are first read by pydantic-core; ``False`` reads each with every rule spelt out."""

_CONTAINERS = (dict, list)
_NEVER_EQUAL = 1 << 40
# A quote without its partner runs to the end of the text: the "? keeps the search linear on such texts.
_BRACKETS = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"?|[\[\]{}]', re.DOTALL)
_NAMES: Final = {type(None): "null", bool: "a boolean", str: "a string", dict: "an object", list: "an array"}
_SHOWN_CHARACTERS = 40


class Undecodable(ValueError):  # noqa: N818 - functions that others call return it; "Error" is kept for what is raised
    """One layer of a message is not what it should be.

    Args:
        layer: ``body``, ``json``, ``xml``, ``envelope``, ``keys`` or ``state``; inside a topic's envelope with
            ``envelope.`` before it.
        reason: One sentence: what was expected and what came; text from outside in it is cut.
        position: Offset within that layer, in bytes (``body``, ``xml``) or characters.
    """

    def __init__(self, layer: str, reason: str, position: int | None = None) -> None:
        super().__init__(reason)
        self.layer = layer
        self.reason = reason
        self.position = position

    def __str__(self) -> str:
        at = "" if self.position is None else f" at {self.position}"
        return f"{self.layer}{at}: {self.reason}"

    def within(self, outer: str, note: str = "") -> Undecodable:
        """The same fault, named from one layer further out."""
        return Undecodable(f"{outer}{self.layer}", f"{self.reason}{note}", self.position)


def shown(text: str) -> str:
    """Quote text from outside for a reason: printable, and cut, since a reason ends in a log line."""
    cut = text[:_SHOWN_CHARACTERS]
    return repr(cut) if cut == text else f"{cut!r} (and {len(text) - len(cut)} more characters)"


def parse(text: str) -> JsonValue:
    """Read one JSON text: every string of its value is valid UTF-8 without U+0000, every number is finite."""
    # An escape \u00.. may be a colon, which would spoil the count, or U+0000.
    if COUNTS_COLONS and "\\u00" not in text:
        try:
            value: JsonValue = from_json(text, allow_inf_nan=False, cache_strings="keys")
        except (ValueError, TypeError):  # TypeError: a lone surrogate as a character, not as an escape
            return _parse_carefully(text)
        if _colons(value, MAX_DEPTH) == text.count(":"):
            return value
    return _parse_carefully(text)


def parse_container(text: str) -> dict[str, JsonValue] | list[JsonValue]:
    r"""Read an object or an array, also with one stray layer of escaping around it.

    The layer may have its quotes (``"{\"a\":1}"``) or have lost them (``{\"a\":1}``). A refusal's reason is that of the
    text as it stands. Source: facts/iproduction.md#userdata.
    """
    try:
        value = parse(text)
        if isinstance(value, str):
            value = parse(value)
    except Undecodable:
        if '\\"' not in text:
            raise
        try:
            inner = parse(f'"{text}"')
            value = parse(inner) if isinstance(inner, str) else None
        except Undecodable:
            value = None
        if value is None:
            raise
    if isinstance(value, _CONTAINERS):
        return value
    raise Undecodable("json", f"expected a JSON object or array, came {name_of(value)}", 0)


def dump(value: JsonValue) -> str:
    """Write a value as compact JSON; a value of ``parse`` is never refused."""
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    except (ValueError, RecursionError) as fault:
        raise Undecodable("json", f"the value can't be written as JSON: {fault}") from fault


def text_or_json(value: JsonValue) -> str | None:
    """A text as it is, ``None`` for ``null``, any other value as compact JSON."""
    return value if value is None or isinstance(value, str) else dump(value)


def agree(one: JsonValue, other: JsonValue) -> bool:
    """Whether two values are the same JSON: ``1``, ``1.0`` and ``true`` are three, the order of keys is none."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def name_of(value: JsonValue) -> str:
    """The type's name in JSON, for a reason: ``an object``, ``a number`` ..."""
    return _NAMES.get(type(value), "a number")


def storable(text: str) -> str:
    r"""Spell what no store keeps (lone surrogates, U+0000) as ``\ud800`` and ``\u0000``; the rest stays."""
    return text.replace("\0", "\\u0000").encode("utf-8", "backslashreplace").decode()


def _colons(value: JsonValue, levels: int) -> int:
    """Count the colons that a value accounts for; where a rule is broken the sum is wrong on purpose.

    Colons inside keys are left out: they are rare, and a text that has them is only read twice.
    """
    items: Iterable[JsonValue]
    if isinstance(value, dict):
        total, items = len(value), value.values()
    elif isinstance(value, list):
        total, items = 0, value
    elif isinstance(value, str):
        return value.count(":")
    else:
        return _NEVER_EQUAL if isinstance(value, float) and not math.isfinite(value) else 0
    if levels <= 1:  # the deepest allowed, where an empty container would be passed over below
        return _NEVER_EQUAL
    for item in items:
        if isinstance(item, str):  # no call for the most frequent case
            total += item.count(":")
        elif item:
            total += _colons(item, levels - 1)
    return total


def _parse_carefully(text: str) -> JsonValue:
    """The same with every rule spelt out, about three times as slow."""
    _refuse_depth(text)
    try:
        value: JsonValue = _DECODER.decode(text)
    except json.JSONDecodeError as fault:
        came = shown(text[fault.pos]) if fault.pos < len(text) else "the end"
        raise Undecodable("json", f"not JSON: {fault.msg[:1].lower()}{fault.msg[1:]}, came {came}", fault.pos) from None
    except Undecodable:
        raise
    except ValueError as fault:  # an integer longer than Python reads
        raise Undecodable("json", f"a number can't be read: {fault}") from None
    except RecursionError:  # the caller's own stack was nearly full
        raise Undecodable("json", "nested too deeply to be read") from None
    _refuse_unstorable(value)
    return value


def _refuse_depth(text: str) -> None:
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return
    depth = 0
    for match in _BRACKETS.finditer(text):
        mark = match.group()
        if mark in "[{":
            depth += 1
            if depth > MAX_DEPTH:
                raise Undecodable("json", f"expected at most {MAX_DEPTH} levels of nesting", match.start())
        elif mark in "]}":
            depth -= 1


def _object(pairs: list[tuple[str, JsonValue]]) -> dict[str, JsonValue]:
    found: dict[str, JsonValue] = {}
    for key, value in pairs:
        if key in found and not agree(found[key], value):
            raise Undecodable("json", f"the key {shown(key)} comes twice with different values")
        found.setdefault(key, value)
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise Undecodable("json", f"{name} is no JSON number")


def _refuse_unstorable(value: JsonValue) -> None:
    waiting: list[JsonValue] = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            waiting.extend(item)
            waiting.extend(item.values())
        elif isinstance(item, list):
            waiting.extend(item)
        elif isinstance(item, str):
            if "\0" in item:
                raise Undecodable("json", f"the string {shown(item)} holds U+0000, which no store keeps")
            if not item.isascii() and storable(item) != item:
                raise Undecodable("json", f"the string {shown(item)} holds a lone surrogate")
        elif isinstance(item, float) and not math.isfinite(item):
            raise Undecodable("json", "a number is beyond the range of a 64-bit float")


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_refuse_constant)
