"""VideoGreenScreenMatting (facts/iproduction.md#videogreenscreenmatting)."""

from pydantic import Field

from consumer.functions.catalogue import Family, FilesResult, Function, ResultFile, Sample


class VideoGreenScreenMattingResult(FilesResult):
    """Result of a VideoGreenScreenMatting job."""

    files: list[ResultFile] = Field(alias="result", description="the cut-out videos, .mp4 or .webm, one as documented")


FUNCTION = Function(
    name="VideoGreenScreenMatting",
    title="cut the foreground out of a green-screen video",
    input="video; a background is given as bgimage",
    output="video: mp4 with bgimage, webm with an alpha channel without",
    family=Family.OBJECT,
    result=VideoGreenScreenMattingResult,
    sample=Sample(input="studio.mp4", ending="webm", params={"mode": "file"}, files=1),
)
