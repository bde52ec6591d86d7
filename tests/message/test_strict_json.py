"""Strict JSON: the fast reader and the careful one accept the same language."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import JsonValue

from consumer.message import strict_json
from consumer.message.strict_json import (
    MAX_DEPTH,
    Undecodable,
    agree,
    dump,
    name_of,
    parse,
    parse_container,
    shown,
    storable,
)

CLEAN_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | CLEAN_TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(CLEAN_TEXT, inner, max_size=4),
    max_leaves=20,
)
JSON_LIKE = st.lists(
    st.sampled_from(
        [
            "{",
            "}",
            "[",
            "]",
            '"',
            ":",
            ",",
            "\\",
            "a",
            "1",
            "null",
            '"a":',
            '"b":1',
            " ",
            "\\u003a",
            "\\u0000",
            "\\ud800",
            "e999",
        ]
    ),
    max_size=24,
).map("".join)


@given(value=VALUES, ascii_only=st.booleans(), indent=st.sampled_from([None, 2]))
def test_what_was_written_is_read(*, value: JsonValue, ascii_only: bool, indent: int | None) -> None:
    """Any storable value comes back as it was, however it was written."""
    assert agree(parse(json.dumps(value, ensure_ascii=ascii_only, indent=indent)), value)
    assert agree(parse(dump(value)), value)


def outcome(reading: Callable[[str], JsonValue], text: str) -> tuple[str, int | None]:
    try:
        return dump(reading(text)), None
    except Undecodable as refusal:
        return f"refused: {refusal.reason}", refusal.position


@given(JSON_LIKE | CLEAN_TEXT | VALUES.map(dump))
@example('{"a":1,"a":2}')
@example('{"a":"x:","a":"x"}')
@example('{"a:b":1,"a:b":2}')
@example('{"a":1,"a":"\\u003a"}')
@example("[" * MAX_DEPTH + "]" * MAX_DEPTH)
@example("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1))
@example('{"":' * MAX_DEPTH + "{}" + "}" * MAX_DEPTH)
@example("[1e999]")
@example("1" * 4301)
def test_both_readings_agree(text: str) -> None:
    """The fast reader accepts nothing that the careful one refuses, and gives the same value."""
    careful, fast = (outcome(reading, text) for reading in (strict_json._parse_carefully, parse))
    assert fast == careful


@pytest.mark.parametrize(
    ("text", "position", "reason"),
    [
        pytest.param("", 0, "the end", id="nothing"),
        pytest.param("{", 1, "the end", id="cut"),
        pytest.param('{"a"\uff1a1}', 4, "'\uff1a'", id="full-width colon"),
        pytest.param("[1 2]", 3, "'2'", id="no comma"),
        pytest.param("{} {}", 3, "'{'", id="two documents"),
        pytest.param("NaN", None, "NaN", id="NaN"),
        pytest.param("[-Infinity]", None, "-Infinity", id="minus infinity"),
        pytest.param("[1e999]", None, "64-bit", id="beyond a float"),
        pytest.param("9" * 5000, None, "can't be read", id="a very long integer"),
        pytest.param('"\\ud800"', None, "lone surrogate", id="lone surrogate as an escape"),
        pytest.param('{"\\udc00":1}', None, "lone surrogate", id="lone surrogate in a key"),
        pytest.param('"\ud800"', None, "lone surrogate", id="lone surrogate as a character"),
        pytest.param('{"a":["\\u0000"]}', None, "U+0000", id="the character that no store keeps"),
        pytest.param('"\0"', 1, "control character", id="a raw control character"),
        pytest.param('{"a":1,"a":1.0}', None, "'a' comes twice", id="a key with two values"),
        pytest.param("[" * 60_000, MAX_DEPTH, "levels", id="deep and open"),
        pytest.param('{"a":' * 9_000 + "1" + "}" * 9_000, 5 * MAX_DEPTH, "levels", id="deep and closed"),
    ],
)
def test_what_is_no_json_here(text: str, position: int | None, reason: str) -> None:
    """Each refusal says what came, and where if that is known."""
    with pytest.raises(Undecodable) as refusal:
        parse(text)
    assert refusal.value.layer == "json"
    assert reason in refusal.value.reason
    assert refusal.value.position == position


def test_brackets_inside_strings_are_no_depth() -> None:
    """Only structure counts as nesting."""
    assert parse('["\\"' + "[{" * 500 + '", "\\u00e9", []]') == ['"' + "[{" * 500, "é", []]


def test_a_full_stack_is_a_refusal() -> None:
    """A caller whose own stack is nearly full gets a reason, not a RecursionError."""
    text = "[" * 90 + '"\\u00e9"' + "]" * 90

    def descend() -> str:
        try:
            return descend()
        except RecursionError:
            try:
                parse(text)
            except Undecodable as refusal:
                return refusal.reason
            return "read"

    # Whichever frame has just enough room answers; frames below it had too little even to call.
    assert descend() in {"read", "nested too deeply to be read"}


@pytest.mark.parametrize(
    "text",
    ['"' + '\\"' * 32_000, "[" + '"\\' * 32_000, "[" + "[]," * 150 + '"' + '\\"' * 32_000, '{"a":1,' * 9_000],
    ids=["open string", "open strings", "open string after many brackets", "open objects"],
)
def test_hostile_texts_take_linear_time(text: str) -> None:
    """64 KB made to slow a parser down is refused in well under a second."""
    begun = time.process_time()
    with pytest.raises(Undecodable):
        parse_container(text)
    assert time.process_time() - begun < 0.5


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a":1}', {"a": 1}),
        ("[1]", [1]),
        ('"{\\"a\\":1}"', {"a": 1}),
        ('{\\"a\\":1}', {"a": 1}),
        ('[{\\"a\\":\\"b\\"}]', [{"a": "b"}]),
    ],
)
def test_a_container_with_or_without_a_stray_layer(text: str, value: JsonValue) -> None:
    """One layer of escaping is taken off, with its quotes or without."""
    assert parse_container(text) == value


@pytest.mark.parametrize(
    "text", ["1", "null", '"a"', '"1"', "{", '{\\"a\\"', '{"a":\\"}', '\\"a\\"', '{\\\\\\"a\\\\\\":1}']
)
def test_what_is_no_container(text: str) -> None:
    """A scalar, broken text and two stray layers are refused."""
    with pytest.raises(Undecodable):
        parse_container(text)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (1, 1, True),
        (1, 1.0, False),
        (1, True, False),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, True),
        ([1, 2], [2, 1], False),
    ],
)
def test_agreement_is_that_of_json(*, one: JsonValue, other: JsonValue, same: bool) -> None:
    """Values agree as JSON, not as Python."""
    assert agree(one, other) is same


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (None, "null"),
        (True, "a boolean"),
        (1, "a number"),
        (1.5, "a number"),
        ("", "a string"),
        ([], "an array"),
        ({}, "an object"),
    ],
)
def test_names(value: JsonValue, name: str) -> None:
    """Reasons speak of JSON's types, not of Python's."""
    assert name_of(value) == name


def test_what_can_not_be_written_is_refused() -> None:
    """A value from elsewhere that is too deep or too long to write gives a reason."""
    deep: list[JsonValue] = []
    for _ in range(100_000):
        deep = [deep]
    for value in (deep, 10**5000):
        with pytest.raises(Undecodable):
            dump(value)
    while deep:  # taken apart from outside, since dropping it whole would recurse too
        inner = deep.pop()
        assert isinstance(inner, list)
        deep = inner


@given(st.text())
@example("a\ud800\0b")
def test_storable_text_can_be_stored(text: str) -> None:
    """What is made storable encodes as UTF-8 and holds no U+0000; what already was is not touched."""
    made = storable(text)
    assert "\0" not in made
    assert storable(made) == made == made.encode().decode()
    assert made == text or "\0" in text or any("\ud800" <= character <= "\udfff" for character in text)


def test_reasons_stay_short() -> None:
    """Foreign text in an error is cut and has no line break."""
    assert shown("a\n") == "'a\\n'"
    assert shown("x" * 50) == f"'{'x' * 40}' (and 10 more characters)"
    assert len(shown("\0" * 65_536)) < 250
