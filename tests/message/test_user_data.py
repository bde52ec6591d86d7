"""Rules of UserData by name, then that any text gives a value."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import JsonValue

from consumer.message.notification import decode_user_data


@pytest.mark.parametrize(
    ("text", "value"),
    [
        pytest.param(None, None, id="missing"),
        pytest.param("", None, id="empty"),
        pytest.param("  \n", None, id="blank"),
        pytest.param("null", None, id="the word null"),
        pytest.param(" null ", None, id="the word null, spaced"),
        pytest.param("test", "test", id="a word"),
        pytest.param(" test ", " test ", id="spaces stay"),
        pytest.param("7", "7", id="a number stays text"),
        pytest.param("007", "007", id="digits stay text"),
        pytest.param("true", "true", id="a boolean stays text"),
        pytest.param('"word"', '"word"', id="a JSON string stays text"),
        pytest.param("{}", {}, id="an empty object"),
        pytest.param(' {"key":"value"} ', {"key": "value"}, id="an object"),
        pytest.param('[1,"a"]', [1, "a"], id="an array"),
        pytest.param('{\\"key\\":\\"value\\"}', {"key": "value"}, id="a stray layer of escaping"),
        pytest.param('"{\\"key\\":\\"value\\"}"', {"key": "value"}, id="a stray layer with its quotes"),
        pytest.param('{"key":"va\\"lue"}', {"key": 'va"lue'}, id="a quote inside is no stray layer"),
        pytest.param('{mode:"gif"}', '{mode:"gif"}', id="nearly JSON stays text"),
        pytest.param('{"a":NaN}', '{"a":NaN}', id="NaN stays text"),
        pytest.param('{"a":1,"a":2}', '{"a":1,"a":2}', id="a contradiction stays text"),
        pytest.param("[" * 500 + "]" * 500, "[" * 500 + "]" * 500, id="too deep stays text"),
    ],
)
def test_each_rule(text: str | None, value: JsonValue) -> None:
    """Objects and arrays are decoded, nothing is None, everything else is the text."""
    assert decode_user_data(text) == value


@given(st.text() | st.sampled_from('{["').flatmap(lambda first: st.text().map(lambda rest: first + rest)))
def test_any_text_gives_a_value(text: str) -> None:
    """No text raises, and what is not decoded is the text itself."""
    value = decode_user_data(text)
    assert value is None or value == text or isinstance(value, dict | list)


@given(st.dictionaries(st.text('ab:\\"{é'), st.text('ab:\\"{é') | st.integers(), min_size=1))
def test_a_stray_layer_is_taken_off(value: dict[str, JsonValue]) -> None:
    """An object escaped once more than needed is the same object."""
    written = json.dumps(value)
    assert decode_user_data(json.dumps(written)) == value
    assert decode_user_data(json.dumps(written)[1:-1]) == value
