"""AudioQualityAssessment (facts/iproduction.md#audioqualityassessment)."""

from consumer.functions.catalogue import AnyResult, Function, Medium, Sample
from consumer.functions.parameters import FunctionParams


class AudioQualityAssessmentParams(FunctionParams):
    """JobParams of an AudioQualityAssessment job: it has none (inferred)."""

    function = "AudioQualityAssessment"


class AudioQualityAssessmentResult(AnyResult):
    """Result of an AudioQualityAssessment job."""


FUNCTION = Function(
    name="AudioQualityAssessment",
    title="assess the sound quality of a recording",
    input="16-bit WAV, 1 or 2 channels, 8,000 to 48,000 Hz",
    output=None,
    params=AudioQualityAssessmentParams,
    result=AudioQualityAssessmentResult,
    media=frozenset({Medium.AUDIO}),
    input_ending=".wav",
    sample=Sample(input="voice.wav", ending="json"),
)
