"""ImageDelogo (facts/iproduction.md#imagedelogo)."""

from consumer.functions.catalogue import DetailsResult, Function, Medium, Sample
from consumer.functions.parameters import FunctionParams


class ImageDelogoParams(FunctionParams):
    """JobParams of an ImageDelogo job: it has none."""

    function = "ImageDelogo"


class ImageDelogoResult(DetailsResult):
    """Result of an ImageDelogo job."""


FUNCTION = Function(
    name="ImageDelogo",
    title="remove logos from a picture",
    input="image",
    output="image",
    params=ImageDelogoParams,
    result=ImageDelogoResult,
    media=frozenset({Medium.IMAGE}),
    output_media=Medium.IMAGE,
    is_in_ims=False,
    sample=Sample(input="poster.jpg", ending="jpg"),
)
