"""VideoDetext (facts/iproduction.md#videodetext)."""

from consumer.functions.catalogue import DetailsResult, Function, Sample


class VideoDetextResult(DetailsResult):
    """Result of a VideoDetext job."""


FUNCTION = Function(
    name="VideoDetext",
    title="remove text that is part of a video's picture",
    input="video",
    output="video",
    result=VideoDetextResult,
    sample=Sample(input="film.mp4", ending="mp4", params={"Text": [[0.1, 0.8, 0.8, 0.15]]}),
)
