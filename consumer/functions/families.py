"""The forms that the results of several functions share; a model of your own can extend them.

    class ImageMattingResult(FilesResult):
        '''Result of an ImageMatting job.'''

Fields that are not documented are kept, never refused: MPS may add some at any time.

Source: facts/iproduction.md#result-families.
"""

from __future__ import annotations

import json
from typing import Final

from pydantic import BaseModel, ConfigDict, Field, JsonValue, RootModel

_MOST_CHARS: Final = 120


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
