"""CaptionExtraction. Result: family (a), SubRip files; with ``sep`` they differ only by name.

Source: facts/iproduction.md#captionextraction.
"""

from pydantic import Field

from consumer.functions.catalogue import Family, FilesResult, Function, ResultFile, Sample


class CaptionExtractionResult(FilesResult):
    """Result of a CaptionExtraction job."""

    files: list[ResultFile] = Field(alias="result", description="the .srt subtitle files, in the order they came")


FUNCTION = Function(
    name="CaptionExtraction",
    title="extract the captions that are part of a video's picture into subtitle files",
    input="video",
    output="subtitles; with sep, Output needs {resultType}",
    family=Family.OBJECT,
    result=CaptionExtractionResult,
    sample=Sample(input="film.mp4", ending="srt", params={"fps": 5, "track": "main"}, files=1),
)
