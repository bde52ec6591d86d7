"""The fingerprint of an error: equal for one cause, different for different ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from consumer.engine.fingerprint import error_fingerprint
from consumer.policy import Reason

HANDLER = """
import json

def convert(text):
    return json.loads(text)

def recurse(depth):
    return recurse(depth - 1) if depth else convert("{")

class Fault(ValueError):
    pass

def refuse(text):
    raise Fault(text)
"""


def caught(source: str, file: Path, function: str, argument: object) -> Exception:
    """What a handler's function raises; the source need not be in the file."""
    names: dict[str, Callable[[object], object]] = {}
    exec(compile(source, str(file), "exec"), names)  # noqa: S102 - the test's own source
    with pytest.raises(Exception) as raised:  # noqa: PT011 - each function raises its own
        names[function](argument)
    traceback = raised.value.__traceback__
    return raised.value.with_traceback(traceback and traceback.tb_next)  # less the frame of this function


def of(error: str, cause: Exception | None = None, handler_file: Path | None = None) -> str:
    return error_fingerprint(
        Reason.EXHAUSTED, "Cover", error, cause, None if handler_file is None else str(handler_file)
    )


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param("failed 3 times; in 0x7fd1", "failed 12 times; in 0xaf01", id="numbers"),
        pytest.param("no object films/2026-01/a1.mp4", "no object films/2025-12/b7.mp4", id="names with digits"),
        pytest.param("no handler for 'VideoH2V' here", "no handler for 'Cover' here", id="quoted values"),
        pytest.param('came "a b"', 'came "c"', id="double quotes"),
        pytest.param("id 6f1c9d5e-aaaa-bbbb-cccc-1234567890ab", "id 0d5e6f1c-dddd-eeee-ffff-ab1234567890", id="ids"),
    ],
)
def test_texts_of_one_cause(one: str, other: str) -> None:
    """Without an exception the error's text counts, less what differs from message to message."""
    assert of(one) == of(other)
    assert of(one) != of(f"{one}, and more")


def test_what_counts_always() -> None:
    """Reasons and functions are never in one group, and the digits are 16."""
    found = {
        error_fingerprint(reason, function, "it can't be read, it can't")
        for reason in (Reason.STUCK, Reason.EXHAUSTED)
        for function in ("Cover", "VideoH2V")
    }
    assert len(found) == 4
    assert {len(one) for one in found} == {16}
    assert found.isdisjoint({of("it was 'read', it can't")})


def test_an_exception_counts_by_its_place(tmp_path: Path) -> None:
    """Type, files and functions of the handler count; lines, texts, libraries, depth and the folder do not."""
    file = tmp_path / "cover.py"
    decode = of("a", caught(HANDLER, file, "convert", "{"))
    assert of("b", caught(f"\n\n{HANDLER}", tmp_path / "elsewhere" / "cover.py", "convert", "[")) == decode
    assert of("a", caught(HANDLER, tmp_path / "other.py", "convert", "{")) != decode
    deep = of("a", caught(HANDLER, file, "recurse", 3))
    assert deep == of("a", caught(HANDLER, file, "recurse", 90))
    assert deep != decode
    assert of("a", caught(HANDLER, file, "convert", None)) != decode, "a TypeError"
    assert of("a", caught(HANDLER, file, "refuse", "x")) == of("b", caught(HANDLER, file, "refuse", "y"))


def test_an_installed_handler() -> None:
    """Files beside the handler are its own, even among the libraries; without any the text counts."""
    home = Path(json.__file__).parents[1] / "site-packages" / "films"
    cause = caught(HANDLER, home / "cover.py", "convert", "{")
    assert of("a", cause, home / "main.py") == of("b", cause, home / "main.py")
    assert of("a", cause) != of("b", cause)
    assert of("a 1", cause) == of("a 2", cause)


def test_an_odd_exception() -> None:
    """An exception that refuses to show its traceback counts by its type and text."""

    class OddError(Exception):
        @property
        def __traceback__(self) -> NoReturn:  # type: ignore[override]  # as a handler may
            raise SystemExit

    assert of("a 1", OddError()) == of("a 2", OddError()) != of("a 1")


def test_any_text_has_a_fingerprint() -> None:
    """A text that can't be encoded, or is very long, is no fault, and takes no time."""
    assert len(of("\udcff" + "a" * 10_000_000 + "'")) == 16
