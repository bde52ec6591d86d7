"""VideoGreenScreenMatting (facts/iproduction.md#videogreenscreenmatting)."""

from typing import Annotated, Literal

from pydantic import Field

from consumer.functions.catalogue import Family, FilesResult, Function, Medium, ResultFile, Sample
from consumer.functions.parameters import INFERRED, FunctionParams


class VideoGreenScreenMattingParams(FunctionParams):
    """JobParams of a VideoGreenScreenMatting job: ``{"bgimage":URL,"mode":"file"}``."""

    function = "VideoGreenScreenMatting"

    bgimage: str | None = Field(
        default=None,
        pattern=r"^(https?|oss)://[^/\s]+/.+",
        description="URL of the background picture, by default none",
    )
    mode: Annotated[Literal["file"] | None, INFERRED] = Field(
        default=None, description='"file", as a page of 2021 has it'
    )

    @property
    def output_ending(self) -> str:
        """With a background the video is an mp4, without one a webm with an alpha channel."""
        return ".mp4" if self.bgimage else ".webm"


class VideoGreenScreenMattingResult(FilesResult):
    """Result of a VideoGreenScreenMatting job."""

    files: list[ResultFile] = Field(alias="result", description="the cut-out videos, .mp4 or .webm, one as documented")


FUNCTION = Function(
    name="VideoGreenScreenMatting",
    title="cut the foreground out of a green-screen video",
    input="video; a background is given as bgimage",
    output="video: mp4 with bgimage, webm with an alpha channel without",
    family=Family.OBJECT,
    params=VideoGreenScreenMattingParams,
    result=VideoGreenScreenMattingResult,
    media=frozenset({Medium.VIDEO}),
    output_media=Medium.VIDEO,
    sample=Sample(input="studio.mp4", ending="webm", params={"mode": "file"}, files=1),
)
