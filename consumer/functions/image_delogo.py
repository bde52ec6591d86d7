"""ImageDelogo (facts/iproduction.md#imagedelogo)."""

from consumer.functions.catalogue import DetailsResult, Function, Sample


class ImageDelogoResult(DetailsResult):
    """Result of an ImageDelogo job."""


FUNCTION = Function(
    name="ImageDelogo",
    title="remove logos from a picture",
    input="image",
    output="image",
    result=ImageDelogoResult,
    sample=Sample(input="poster.jpg", ending="jpg"),
)
