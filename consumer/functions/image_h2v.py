"""ImageH2V (facts/iproduction.md#imageh2v)."""

from consumer.functions.catalogue import DetailsResult, Function, Medium, Sample
from consumer.functions.parameters import FunctionParams


class ImageH2VParams(FunctionParams):
    """JobParams of an ImageH2V job: it has none."""

    function = "ImageH2V"


class ImageH2VResult(DetailsResult):
    """Result of an ImageH2V job."""


FUNCTION = Function(
    name="ImageH2V",
    title="turn a landscape picture into a portrait one",
    input="image",
    output="image",
    params=ImageH2VParams,
    result=ImageH2VResult,
    media=frozenset({Medium.IMAGE}),
    output_media=Medium.IMAGE,
    is_in_ims=False,
    sample=Sample(input="poster.jpg", ending="jpg"),
)
