"""VideoDelogo (facts/iproduction.md#videodelogo)."""

from consumer.functions.catalogue import DetailsResult, Function, Sample


class VideoDelogoResult(DetailsResult):
    """Result of a VideoDelogo job."""


FUNCTION = Function(
    name="VideoDelogo",
    title="remove logos from a video",
    input="video",
    output="video",
    result=VideoDelogoResult,
    sample=Sample(input="film.mp4", ending="mp4", params={"Logo": [[0.05, 0.05, 0.2, 0.1]]}),
)
