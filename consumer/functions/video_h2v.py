"""VideoH2V (facts/iproduction.md#videoh2v)."""

from consumer.functions.catalogue import DetailsResult, Function, Medium, Sample
from consumer.functions.parameters import FunctionParams


class VideoH2VParams(FunctionParams):
    """JobParams of a VideoH2V job: it has none."""

    function = "VideoH2V"


class VideoH2VResult(DetailsResult):
    """Result of a VideoH2V job."""


FUNCTION = Function(
    name="VideoH2V",
    title="turn a landscape video into a portrait one",
    input="video",
    output="video",
    params=VideoH2VParams,
    result=VideoH2VResult,
    media=frozenset({Medium.VIDEO}),
    output_media=Medium.VIDEO,
    sample=Sample(input="film.mp4", ending="mp4"),
)
