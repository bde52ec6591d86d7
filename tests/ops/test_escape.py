"""Which characters are escaped, and that nothing is lost by it where a program reads."""

from __future__ import annotations

import json
import sys
import unicodedata
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.ops.sanitize import json_escaped, printable, printable_block

HIDDEN: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
ANY_TEXT: Final = st.text(st.characters(exclude_categories=())) | st.text(
    'a\\"\x7f\x9b\u202e\u2028\U000e0001\ud800\n。'
)


def hidden(text: str) -> set[str]:
    return {char for char in text if unicodedata.category(char) in HIDDEN}


def test_every_hidden_character_is_escaped() -> None:
    """Each control, separator, format character and surrogate of this Python's Unicode goes; all else stays."""
    for code in range(sys.maxunicode + 1):
        char = chr(code)
        if unicodedata.category(char) in HIDDEN:
            assert printable(char).isascii(), hex(code)
            assert hidden(printable(char)) == set(), hex(code)
        elif unicodedata.category(char) != "Cn":
            assert printable(char) == char, hex(code)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        pytest.param("job 7: 封面\u3000完成", "job 7: 封面\u3000完成", id="letters and wide spaces stay"),
        pytest.param("\x1b[2J\x9b2J\x7f", r"\x1b[2J\x9b2J\x7f", id="escape sequences"),
        pytest.param("a\nb\rc\td\x85e\u2028f\u2029g", r"a\nb\rc\td\x85e\u2028f\u2029g", id="line breaks"),
        pytest.param("\u202eabc\u2066\u200f\u061c", r"\u202eabc\u2066\u200f\u061c", id="direction"),
        pytest.param("a\u200bb\ufeff\u00ad", r"a\u200bb\ufeff\xad", id="no width"),
        pytest.param("\ud800\U000e0041", r"\ud800\U000e0041", id="surrogates and tags"),
    ],
)
def test_one_line(text: str, shown: str) -> None:
    """Characters that a terminal would obey or not show are escaped."""
    assert printable(text) == shown


def test_a_block_keeps_its_lines_off_the_margin() -> None:
    """Line breaks and tabs stay, other breaks do not, and no line begins where ours do."""
    block = printable_block("a\n\tb\r\nerror: c\x85error: d\n")
    assert block == "  a\n  \tb\\r\n  error: c\\x85error: d\n  "


@given(ANY_TEXT)
def test_json_keeps_every_value(text: str) -> None:
    """Escaped JSON is parsed to the text that went in, holds no hidden character, and goes out as UTF-8."""
    for indent in (None, 2):
        escaped = json_escaped(json.dumps({"text": [text]}, ensure_ascii=False, indent=indent))
        assert json.loads(escaped) == {"text": [text]}
        assert hidden(escaped) <= {"\n"}
        escaped.encode()
