"""SpeechDenoise (facts/iproduction.md#speechdenoise)."""

from consumer.functions.catalogue import AnyResult, Function, Sample


class SpeechDenoiseResult(AnyResult):
    """Result of a SpeechDenoise job."""


FUNCTION = Function(
    name="SpeechDenoise",
    title="remove the noise from recorded speech",
    input="WAV of 16 or 48 kHz (inferred)",
    output="wav (inferred)",
    result=SpeechDenoiseResult,
    sample=Sample(input="voice.wav", ending="wav"),
)
