"""FaceBeauty (facts/iproduction.md#facebeauty)."""

from consumer.functions.catalogue import AnyResult, Function, Sample


class FaceBeautyResult(AnyResult):
    """Result of a FaceBeauty job."""


FUNCTION = Function(
    name="FaceBeauty",
    title="beautify the faces in a video",
    input="video",
    output="mp4 (inferred)",
    result=FaceBeautyResult,
    sample=Sample(input="film.mp4", ending="mp4"),
)
