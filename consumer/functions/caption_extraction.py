"""CaptionExtraction. Result: family (a), SubRip files; with ``sep`` they differ only by name. IMS's is ``{}``.

Source: facts/iproduction.md#captionextraction.
"""

from typing import Annotated, Literal, NamedTuple

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from consumer.functions.catalogue import Family, FilesResult, Function, Medium, ResultFile, Sample
from consumer.functions.parameters import INFERRED, FunctionParams, decoded, inferred_error

_Share = Annotated[float, Field(ge=0, le=1)]


class Region(NamedTuple):
    """The part of a picture that is read: ``[[top, bottom], [left, right]]``, shares of height and width, 0 to 1."""

    top_bottom: tuple[_Share, _Share]
    left_right: tuple[_Share, _Share]


def _not_empty(region: Region) -> Region:
    for low, high in region:
        if low >= high:
            raise inferred_error(f"the region from {low:g} to {high:g} is empty")
    return region


class CaptionExtractionParams(FunctionParams):
    """JobParams of a CaptionExtraction job: ``{"fps":5,"roi":[[0.75,1],[0,1]],"track":"main"}``."""

    function = "CaptionExtraction"

    fps: int = Field(default=5, ge=2, le=10, description="pictures that are read in a second, 2 to 10, by default 5")
    roi: Annotated[Region, BeforeValidator(decoded), AfterValidator(_not_empty)] | None = Field(
        default=None,
        description="the part that is read, [[top,bottom],[left,right]] from 0 to 1, by default the bottom quarter",
    )
    sep: bool = Field(default=False, description="whether each language gets a file of its own, by default false")
    formatter: str | None = Field(default=None, description="text that formats the captions in the file")
    track: Literal["main"] | None = Field(default=None, description='"main" reads the main captions alone')
    lang: Annotated[Literal["ch", "en", "ch_ml"], INFERRED] = Field(
        default="ch", description="language: ch, en or ch_ml, by default ch (inferred)"
    )

    @property
    def needs_result_type(self) -> bool:
        """With ``sep`` the files differ by ``{resultType}`` alone."""
        return self.sep


class CaptionExtractionResult(FilesResult):
    """Result of a CaptionExtraction job; without files it is the sister service's, and Output names the file."""

    files: list[ResultFile] = Field(alias="result", description="the .srt subtitle files, in the order they came")

    @model_validator(mode="before")
    @classmethod
    def _no_file_named(cls, data: object) -> object:
        return {"result": []} if data == {} else data


FUNCTION = Function(
    name="CaptionExtraction",
    title="extract the captions that are part of a video's picture into subtitle files",
    input="video",
    output="subtitles; with sep, Output needs {resultType}",
    family=Family.OBJECT,
    params=CaptionExtractionParams,
    result=CaptionExtractionResult,
    media=frozenset({Medium.VIDEO}),
    output_ending=".srt",
    sample=Sample(input="film.mp4", ending="srt", params={"fps": 5, "track": "main"}, files=1),
)
