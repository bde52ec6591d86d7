"""SpeechDenoise (facts/iproduction.md#speechdenoise)."""

from consumer.functions.catalogue import AnyResult, Function, Medium, Sample
from consumer.functions.parameters import FunctionParams


class SpeechDenoiseParams(FunctionParams):
    """JobParams of a SpeechDenoise job: it has none (inferred)."""

    function = "SpeechDenoise"


class SpeechDenoiseResult(AnyResult):
    """Result of a SpeechDenoise job."""


FUNCTION = Function(
    name="SpeechDenoise",
    title="remove the noise from recorded speech",
    input="WAV of 16 or 48 kHz (inferred)",
    output="wav (inferred)",
    params=SpeechDenoiseParams,
    result=SpeechDenoiseResult,
    media=frozenset({Medium.AUDIO}),
    input_ending=".wav",
    output_ending=".wav",
    output_is_inferred=True,
    sample=Sample(input="voice.wav", ending="wav"),
)
