"""ImageH2V (facts/iproduction.md#imageh2v)."""

from consumer.functions.catalogue import DetailsResult, Function, Sample


class ImageH2VResult(DetailsResult):
    """Result of an ImageH2V job."""


FUNCTION = Function(
    name="ImageH2V",
    title="turn a landscape picture into a portrait one",
    input="image",
    output="image",
    result=ImageH2VResult,
    sample=Sample(input="poster.jpg", ending="jpg"),
)
