"""The forms that the results of several functions share, once, for the shipped handlers and for yours.

    class ImageMattingResult(FilesResult):
        '''What an ImageMatting job gives.'''

    FilesResult      family (a), files: ``{"result": [{"file": URL}]}``
    DetailsResult    family (c), details only: ``{"Details": [{"Status", "Input", "Output"}]}``, often empty
    AnyResult        format unknown: any JSON as it came, also text that does not parse

``ResultModel`` is what the first two stand on, for a form of one's own. What no page documents is kept, never refused:
MPS may add fields on any day, and they must not set messages aside.

Elsewhere: reading a result out of MPS's answer, and completing keys to URLs (``message.result``); the forms that one
function alone has (its file in ``handlers``).
"""

from __future__ import annotations

import json
from typing import Final

from pydantic import BaseModel, ConfigDict, Field, JsonValue, RootModel

_SHOWN_CHARS: Final = 120


class ResultModel(BaseModel):
    """A result, or a part of one: fields that it does not name are kept, and its own spelling is read as MPS's is.

    A field takes MPS's spelling as its alias: ``start_s: float = Field(alias="start")``.
    """

    model_config = ConfigDict(extra="allow", populate_by_name=True)


class ResultFile(ResultModel):
    """One file of a result: MPS gives a key without its bucket, which is completed to a URL before it comes here."""

    url: str = Field(alias="file", min_length=1, description="oss:// URL of the file")


class FilesResult(ResultModel):
    """A result that names files; without ``result`` it is refused, an empty list is none.

    A subclass says what the files are by naming the field again with a description of its own.

    Source: facts/iproduction.md#result-families.
    """

    files: list[ResultFile] = Field(alias="result", description="the files, in the order they came")

    @property
    def first_url(self) -> str | None:
        """The first file's ``oss://`` URL; ``None`` where no file came."""
        return self.files[0].url if self.files else None

    def summary(self) -> str:
        """One line for a table: how many files, and the first one's URL."""
        return f"files: {len(self.files)}, first: {self.first_url or 'none'}"


class ResultDetail(ResultModel):
    """One entry of ``Details``."""

    status: str | None = Field(default=None, alias="Status", description="how it ended, as it came")
    input: JsonValue = Field(default=None, alias="Input", description="what was read, as it came")
    output: JsonValue = Field(default=None, alias="Output", description="what was written, as it came")


class DetailsResult(ResultModel):
    """A result that names no file as a rule: the job's Output tells where it was written.

    That Output is a template whose placeholders MPS does not fill in when it is asked.

    Source: facts/iproduction.md#query-a-job, facts/iproduction.md#result-families.
    """

    details: list[ResultDetail] = Field(default_factory=list, alias="Details", description="what was done, often empty")

    @property
    def written(self) -> str | None:
        """The first output that the details name, as it came; ``None`` where they name none."""
        outputs = (detail.output for detail in self.details)
        return next((output for output in outputs if isinstance(output, str) and output), None)

    def summary(self) -> str:
        """One line for a table: how many details, and the output if they name one."""
        return f"details: {len(self.details)}, {self.written or 'no file named, see the output of the job'}"


class AnyResult(RootModel[JsonValue]):
    """A result whose format is unknown: ``root`` is what came, whatever it is. Nothing is invented.

    Source: facts/iproduction.md#result.
    """

    def summary(self) -> str:
        """One line for a table: the beginning of what came, as JSON, 120 characters at most."""
        text = json.dumps(self.root, ensure_ascii=False)
        return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}..."
