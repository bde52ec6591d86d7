"""ImageCartoonize. Result: family (a), several files: the documented sample names a result and an origin.

Source: facts/iproduction.md#imagecartoonize.
"""

from pydantic import ConfigDict, Field

from consumer.functions.catalogue import Family, FilesResult, Function, ResultFile, Sample
from consumer.functions.parameters import FunctionParams


class ImageCartoonizeParams(FunctionParams):
    """JobParams of an ImageCartoonize job: not documented, so any are taken and written as they are."""

    model_config = ConfigDict(extra="allow")
    function = "ImageCartoonize"


class ImageCartoonizeResult(FilesResult):
    """Result of an ImageCartoonize job."""

    files: list[ResultFile] = Field(alias="result", description="the pictures, in the order they came")


FUNCTION = Function(
    name="ImageCartoonize",
    title="redraw a picture as a cartoon",
    input="image",
    output="pictures; Output needs {sequenceId} (inferred)",
    family=Family.OBJECT,
    params=ImageCartoonizeParams,
    result=ImageCartoonizeResult,
    # No media: the vendor's own sample of this function names a video and an .srt file.
    needs_sequence_id=True,
    sequence_id_is_inferred=True,
    is_in_ims=False,
    sample=Sample(input="poster.jpg", ending="jpg", files=2),
)
