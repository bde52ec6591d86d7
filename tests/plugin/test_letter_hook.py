"""How the hook of dead letters is marked, found and checked."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from consumer.errors import HandlersError
from consumer.plugin.letter_hook import build_letter_hook, is_letter_hook
from consumer.plugin.registry import Registry, Sources, discover
from mns_consumer import Letter, on_dead_letter

Write = Callable[[str, str], Path]

HANDLER = """
from mns_consumer import Job, Letter, handler, on_dead_letter

@handler("Cover")
async def cover(job: Job) -> None: ...
"""
HOOK = """
from mns_consumer import Letter, on_dead_letter

@on_dead_letter
async def notify(letter: Letter) -> None: ...
"""


def found(folder: Path) -> Registry:
    return discover(Sources(directory=folder, use_entry_points=False))


def test_a_file_may_have_the_hook_alone(write: Write) -> None:
    """The hook is found in a drop-in file that has no handler, with its origin, and that file is not empty."""
    write("films.py", HANDLER)
    path = write("notify.py", HOOK)
    registry = found(path.parent)
    hook = registry.letter_hook
    assert hook is not None
    assert (hook.origin, hook.provider, hook.timeout_s) == (f"{path}:3", str(path.parent), 30.0)
    assert list(registry.handlers) == ["Cover"]
    assert registry.empty == ()
    assert registry.functions[-1] is hook.function


def test_without_one_there_is_none(write: Write) -> None:
    """A registry of handlers alone has no hook, and a hook alone is no handler."""
    path = write("films.py", HANDLER)
    assert found(path.parent).letter_hook is None
    path.write_text(HOOK)
    with pytest.raises(HandlersError, match="no handler found"):
        found(path.parent)


def test_two_are_an_error(write: Write) -> None:
    """Two hooks of one kind of source are refused, with both places."""
    write("films.py", HANDLER + HOOK)
    path = write("notify.py", HOOK)
    with pytest.raises(HandlersError, match=r"two functions of @on_dead_letter: .*films.py:\d+ and .*notify.py:3"):
        found(path.parent)


def test_the_stronger_source_wins(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hook of a drop-in folder is preferred to that of an import path."""
    monkeypatch.syspath_prepend(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "weaker_hooks.py").write_text(HANDLER.replace("Cover", "VideoClip") + HOOK)
    write("films.py", HANDLER)
    path = write("notify.py", HOOK)
    registry = discover(Sources(directory=path.parent, modules=["weaker_hooks"], use_entry_points=False))
    assert registry.letter_hook is not None
    assert registry.letter_hook.origin == f"{path}:3"
    assert list(registry.handlers) == ["Cover", "VideoClip"]


@pytest.mark.parametrize(
    ("source", "error"),
    [
        pytest.param(
            "def notify(letter: Letter) -> None: ...",
            r"films.py:\d+: the function of @on_dead_letter must be async; expected `async def notify\(letter: ",
            id="a plain function",
        ),
        pytest.param(
            "async def notify() -> None: ...", r"callable with one letter.*its signature is \(\)", id="no parameter"
        ),
        pytest.param("async def notify(a: Letter, b: int) -> None: ...", "callable with one letter", id="two"),
        pytest.param("async def notify(job: Job) -> None: ...", r"takes <class .*Job.*expected `async def", id="a job"),
        pytest.param("async def notify(letter: 'Nothing') -> None: ...", "can't be evaluated", id="an unknown name"),
    ],
)
def test_a_wrong_one_is_refused(write: Write, source: str, error: str) -> None:
    """A hook that can't be called with a letter is refused at the start, with its place and what was expected."""
    path = write("films.py", HANDLER + f"\n@on_dead_letter\n{source}\n")
    with pytest.raises(HandlersError, match=error):
        found(path.parent)


def test_the_decorator_takes_a_time_limit() -> None:
    """With or without parentheses the function stays as it is; the limit is checked where it is written."""

    async def notify(letter: Letter) -> None: ...

    assert not is_letter_hook(notify)
    assert on_dead_letter(timeout_s=120)(notify) is notify
    assert build_letter_hook(notify).timeout_s == 120
    assert on_dead_letter(notify) is notify
    assert build_letter_hook(notify).timeout_s == 30
    for wrong in (0, -1, 601, float("nan")):
        with pytest.raises(ValueError, match=r"@on_dead_letter\(timeout_s=.*expected seconds above 0, up to 600"):
            on_dead_letter(timeout_s=wrong)
    with pytest.raises(TypeError, match="expected a function"):
        on_dead_letter(3)  # type: ignore[call-overload]


def test_a_package_that_is_not_named_gets_no_letters(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hook of an installed package counts only if its distribution is listed; else the log names it."""
    folder = tmp_path / "site"
    info = folder / "films_plugin-1.2.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: films-plugin\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text("[mns_consumer.handlers]\nfilms = films_of_a_package\n")
    (folder / "films_of_a_package.py").write_text(textwrap.dedent(HANDLER + HOOK))
    monkeypatch.syspath_prepend(folder)
    registry = discover(Sources())
    assert registry.letter_hook is None
    assert "has a function of @on_dead_letter" in registry.skipped[-1]
    assert "every dead letter" in registry.skipped[-1]
    assert discover(Sources(use_entry_points=["films-plugin"])).letter_hook is not None
