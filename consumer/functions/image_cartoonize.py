"""ImageCartoonize. Result: family (a), several files: the documented sample names a result and an origin.

Source: facts/iproduction.md#imagecartoonize.
"""

from pydantic import Field

from consumer.functions.catalogue import Family, FilesResult, Function, ResultFile, Sample


class ImageCartoonizeResult(FilesResult):
    """Result of an ImageCartoonize job."""

    files: list[ResultFile] = Field(alias="result", description="the pictures, in the order they came")


FUNCTION = Function(
    name="ImageCartoonize",
    title="redraw a picture as a cartoon",
    input="image",
    output="pictures; Output needs {sequenceId} (inferred)",
    family=Family.OBJECT,
    result=ImageCartoonizeResult,
    sample=Sample(input="poster.jpg", ending="jpg", files=2),
)
