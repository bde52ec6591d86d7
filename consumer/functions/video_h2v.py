"""VideoH2V (facts/iproduction.md#videoh2v)."""

from consumer.functions.catalogue import DetailsResult, Function, Sample


class VideoH2VResult(DetailsResult):
    """Result of a VideoH2V job."""


FUNCTION = Function(
    name="VideoH2V",
    title="turn a landscape video into a portrait one",
    input="video",
    output="video",
    result=VideoH2VResult,
    sample=Sample(input="film.mp4", ending="mp4"),
)
