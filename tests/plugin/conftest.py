"""A drop-in folder to write to, and ``sys.modules`` restored after each test."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

Write = Callable[[str, str], Path]


@pytest.fixture(autouse=True)
def clean_modules(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Remove what a test imports, so that no test finds another's modules."""
    before = dict(sys.modules)
    # The temporary packages must not be found in a finder's cache of an older folder's listing.
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield
    for name in sys.modules.keys() - before.keys():
        if name.startswith(("_mns_consumer_handlers_", "mine", "handlers")):
            del sys.modules[name]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty drop-in folder that only its owner may write to."""
    made = tmp_path / "drop-in"
    made.mkdir(mode=0o755)
    return made


@pytest.fixture
def write(folder: Path) -> Write:
    """Write a file of the drop-in folder, by its name there."""

    def put(name: str, text: str) -> Path:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text).lstrip("\n"), encoding="utf-8")
        path.chmod(0o644)
        return path

    return put
