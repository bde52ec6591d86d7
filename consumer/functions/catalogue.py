"""What a function is, the forms that results share, and how functions are found.

What parameters share is in ``parameters.py``; the rules for a whole request are in ``request.py``, and the form of what
they find in ``finding.py``.

A module's name is its FunctionName in snake case: ``video_h2v`` is ``VideoH2V``, and ``a_s_r`` would be ``ASR``. So the
names are listed without importing the modules: all 16 together take 35 ms of CPU, to build pydantic models.

A model of your own can extend a form:

    class ImageMattingResult(FilesResult):
        '''Result of an ImageMatting job.'''

Fields of a result that are not documented are kept, never refused: MPS may add some at any time.

Source: facts/iproduction.md#result-families.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import json
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from random import Random
from typing import Final

from pydantic import BaseModel, ConfigDict, Field, JsonValue, RootModel

from consumer.functions.parameters import FunctionParams

_MOST_CHARS: Final = 120
_NO_FUNCTIONS: Final = frozenset({"catalogue", "finding", "parameters", "request"})
"""The modules here that are no function's."""
_PAGE: Final = "iproduction.md"


class ResultModel(BaseModel):
    """A result, or a part of one.

    A field has MPS's spelling as its alias and takes both: ``start_s: float = Field(alias="start")``.
    """

    model_config = ConfigDict(extra="allow", populate_by_name=True)


class ResultFile(ResultModel):
    """One file of a result. MPS names a key without its bucket; it is completed to a URL before it is validated."""

    url: str = Field(alias="file", min_length=1, description="oss:// URL of the file")


class FilesResult(ResultModel):
    """Family (a) with files. Without ``result`` it is refused; an empty list is accepted.

    A subclass describes its files by declaring the field again.
    """

    files: list[ResultFile] = Field(alias="result", description="the files, in the order they came")

    @property
    def first_url(self) -> str | None:
        """The first file's ``oss://`` URL; ``None`` without files."""
        return self.files[0].url if self.files else None

    def summary(self) -> str:
        """One line: the number of files, and the first one's URL."""
        return f"files: {len(self.files)}, first: {self.first_url or 'none'}"


class ResultDetail(ResultModel):
    """One entry of ``Details``."""

    status: str | None = Field(default=None, alias="Status", description="how it ended, as it came")
    input: JsonValue = Field(default=None, alias="Input", description="what was read, as it came")
    output: JsonValue = Field(default=None, alias="Output", description="what was written, as it came")


class DetailsResult(ResultModel):
    """Family (c). It rarely names a file: see the job's Output, whose placeholders MPS does not replace."""

    details: list[ResultDetail] = Field(default_factory=list, alias="Details", description="what was done, often empty")

    @property
    def written(self) -> str | None:
        """The first output that the details name, as it came; ``None`` without one."""
        outputs = (detail.output for detail in self.details)
        return next((output for output in outputs if isinstance(output, str) and output), None)

    def summary(self) -> str:
        """One line: the number of details, and the output if they name one."""
        return f"details: {len(self.details)}, {self.written or 'no file named, see the output of the job'}"


class AnyResult(RootModel[JsonValue]):
    """A result of unknown form: ``root`` is any JSON, as it came; also text that does not parse."""

    def summary(self) -> str:
        """One line: the beginning as JSON, at most 120 characters."""
        text = json.dumps(self.root, ensure_ascii=False)
        return text if len(text) <= _MOST_CHARS else f"{text[:_MOST_CHARS]}..."


class Family(StrEnum):
    """The form of a result."""

    OBJECT = "a"
    """``Data`` holds an object with ``result``."""
    ARRAY = "b"
    """``Data`` holds an array."""
    DETAILS = "c"
    """No ``Data``, but ``Details``; also where the form is unknown, since every function may answer so."""


def _files(keys: Sequence[str], _random: Random) -> JsonValue:
    return {"result": [{"file": key} for key in keys]}


def _nothing(_keys: Sequence[str], _random: Random) -> JsonValue:
    return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A job for the demo, and its result for the sandbox.

    Args:
        input: File name of the input.
        ending: Ending of the files that the job writes.
        files: Number of files that the result names.
        data: Makes ``Data`` from the keys of these files; not called for ``Family.DETAILS``.
        ims: Makes the sister service's whole result, which is bare JSON.
    """

    input: str
    ending: str
    params: Mapping[str, JsonValue] = field(default_factory=dict)
    files: int = 0
    data: Callable[[Sequence[str], Random], JsonValue] = _files
    ims: Callable[[Sequence[str], Random], JsonValue] = _nothing


class Medium(StrEnum):
    """A kind of file."""

    AUDIO = "audio"
    IMAGE = "image"
    VIDEO = "video"


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """What is known of one function.

    Args:
        title: What the job does, in a few words.
        input: What Input must be.
        output: What is written to Output; ``None`` for nothing.
        result: It has a method ``summary`` that returns one line.
        media: The kinds that Input may be, as far as its name shows; empty where that is not known.
        input_ending: The ending of Input, where only one kind of file is taken.
        output_media: The kind of the files that come out; ``output_ending`` where only one ending fits.
        output_is_inferred: What comes out is known of the sister service only.
        needs_sequence_id: Several files come out, so that Output needs ``{sequenceId}``.
        sequence_id_is_inferred: No page says so.
        model_ids: The models that are known for ModelId; empty where none is.
        is_in_ims: The sister service has it too.
    """

    name: str
    title: str
    input: str
    output: str | None
    params: type[FunctionParams]
    result: type[BaseModel]
    sample: Sample
    family: Family = Family.DETAILS
    media: frozenset[Medium] = frozenset()
    input_ending: str | None = None
    output_media: Medium | None = None
    output_ending: str | None = None
    output_is_inferred: bool = False
    needs_sequence_id: bool = False
    sequence_id_is_inferred: bool = False
    model_ids: frozenset[str] = frozenset()
    is_in_ims: bool = True

    @property
    def source(self) -> str:
        """The heading of its facts."""
        return f"facts/{_PAGE}#{self.name.lower()}"


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
    """A model of results or parameters, or a part of one, by its class name. Imports as few modules as it can.

    Raises:
        AttributeError: No module defines the name.
    """
    if name[:1].isupper():
        # A model's name usually begins with its FunctionName; that module is imported first.
        likely_first = sorted(_modules(), key=lambda function: not name.startswith(function))
        for stem in ("catalogue", "parameters", *(_modules()[function] for function in likely_first)):
            module = importlib.import_module(f"{__package__}.{stem}")
            found = vars(module).get(name)
            if isinstance(found, type) and issubclass(found, BaseModel | tuple) and found.__module__ == module.__name__:
                return found
    raise AttributeError(f"no model of results or parameters is named {name!r}")
