"""List and find the functions.

A module's name is its FunctionName in snake case: ``video_h2v`` is ``VideoH2V``, and ``a_s_r`` would be ``ASR``. So the
names are listed without importing the modules: all 16 together take 25 ms of CPU, to build pydantic models.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from random import Random

    from pydantic import BaseModel, JsonValue

_NO_FUNCTIONS: Final = frozenset({"catalogue", "families"})


class Family(StrEnum):
    """The form of a result (facts/iproduction.md#result-families)."""

    OBJECT = "a"
    """``Data`` holds an object with ``result``."""
    ARRAY = "b"
    """``Data`` holds an array."""
    DETAILS = "c"
    """No ``Data``, but ``Details``; also where the form is unknown, since every function may answer so."""


def _files(keys: Sequence[str], _random: Random) -> JsonValue:
    return {"result": [{"file": key} for key in keys]}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A job for the demo, and its result for the sandbox.

    Args:
        input: File name of the input.
        ending: Ending of the files that the job writes.
        params: JobParams.
        files: Number of files that the result names.
        data: Makes ``Data`` from the keys of these files; not called for ``Family.DETAILS``.
    """

    input: str
    ending: str
    params: Mapping[str, JsonValue] = field(default_factory=dict)
    files: int = 0
    data: Callable[[Sequence[str], Random], JsonValue] = _files


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """What is known of one function.

    Args:
        name: FunctionName.
        title: What the job does, in a few words.
        input: What Input must be.
        output: What is written to Output; ``None`` for nothing.
        result: Model of the result; it has a method ``summary`` that returns one line.
        sample: An example.
        family: Form of the result.
    """

    name: str
    title: str
    input: str
    output: str | None
    result: type[BaseModel]
    sample: Sample
    family: Family = Family.DETAILS


@functools.cache
def _modules() -> Mapping[str, str]:
    """Each FunctionName with its module's name."""
    inside = (info.name for info in pkgutil.iter_modules([str(Path(__file__).parent)]))
    return {stem.title().replace("_", ""): stem for stem in inside if stem not in _NO_FUNCTIONS}


def names() -> Sequence[str]:
    """The documented FunctionNames in alphabetical order; the daemon takes other names, too."""
    return tuple(_modules())


def documented() -> Sequence[Function]:
    """All functions, in the order of their names."""
    return tuple(_function(stem) for stem in _modules().values())


def find(name: str) -> Function | None:
    """The function of this name; ``None`` for a name that is not documented."""
    stem = _modules().get(name)
    return None if stem is None else _function(stem)


def _function(stem: str) -> Function:
    function: Function = importlib.import_module(f"{__package__}.{stem}").FUNCTION
    return function


def nearest(name: str) -> str | None:
    """The documented name that is spelt most like this one; ``None`` when none is near."""
    by_folded = {known.lower(): known for known in names()}
    close = difflib.get_close_matches(name.lower(), by_folded, n=1, cutoff=0.6)
    return by_folded[close[0]] if close else None


def model(name: str) -> object:
    """A result model, or a part of one, by its class name. Imports as few modules as it can.

    Raises:
        AttributeError: No module defines the name.
    """
    if name[:1].isupper():
        # A model's name usually begins with its FunctionName; that module is imported first.
        likely_first = sorted(_modules(), key=lambda function: not name.startswith(function))
        for stem in ("families", *(_modules()[function] for function in likely_first)):
            module = importlib.import_module(f"{__package__}.{stem}")
            found = vars(module).get(name)
            if getattr(found, "__module__", None) == module.__name__:
                return found
    raise AttributeError(f"no result model is named {name!r}")
