"""AudioQualityAssessment (facts/iproduction.md#audioqualityassessment)."""

from consumer.functions.catalogue import AnyResult, Function, Sample


class AudioQualityAssessmentResult(AnyResult):
    """Result of an AudioQualityAssessment job."""


FUNCTION = Function(
    name="AudioQualityAssessment",
    title="assess the sound quality of a recording",
    input="16-bit WAV, 1 or 2 channels, 8,000 to 48,000 Hz",
    output=None,
    result=AudioQualityAssessmentResult,
    sample=Sample(input="voice.wav", ending="json"),
)
