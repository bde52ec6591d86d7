"""AudioQualityAssessment. Result: an array with one object for each channel, as the sister service documents it.

In MPS its form is not documented: whatever else comes is kept and handed on.

Source: facts/iproduction.md#audioqualityassessment.
"""

import json
from collections.abc import Sequence
from random import Random
from typing import Final, Self

from pydantic import Field, FiniteFloat, JsonValue, ModelWrapValidatorHandler, ValidationError, model_validator

from consumer.functions.catalogue import Family, Function, Medium, ResultModel, Sample
from consumer.functions.parameters import FunctionParams

VALID: Final = "Valid"
_MOST_CHARS: Final = 120
_SCORES: Final = ("Discontinuity", "Coloration", "Noisiness", "Loudness")
_RATIOS: Final = ("Double Talk Ratio(%)", "Bad Mute Ratio(%)", "Saturated Ratio(%)")


class AudioQualityAssessmentParams(FunctionParams):
    """JobParams of an AudioQualityAssessment job: it has none (inferred)."""

    function = "AudioQualityAssessment"


class AudioChannel(ResultModel):
    """The quality of one channel. Scores go from 0 to 5; unless the tag is Valid they are 0 and mean nothing."""

    tag: str | None = Field(
        default=None, alias="Tag", description="Valid, File too Short (less than 2 s), Mute or Voice too Short"
    )
    mos: FiniteFloat | None = Field(default=None, alias="MOS(0-5)", description="mean opinion score, 0 to 5")
    band: str | None = Field(default=None, alias="MOS", description="the score in a word, from Excellent to Bad")
    discontinuity: FiniteFloat | None = Field(default=None, alias="Discontinuity(0-5)", description="score, 0 to 5")
    coloration: FiniteFloat | None = Field(default=None, alias="Coloration(0-5)", description="score, 0 to 5")
    noisiness: FiniteFloat | None = Field(default=None, alias="Noisiness(0-5)", description="score, 0 to 5")
    loudness: FiniteFloat | None = Field(default=None, alias="Loudness(0-5)", description="score, 0 to 5")
    loudness_db: FiniteFloat | None = Field(
        default=None,
        alias="Loudness(-90dB-0dB)",
        description="in dB from -90, no speech, to 0; below -24 it is too quiet",
    )
    speech_ratio: FiniteFloat | None = Field(
        default=None, alias="Speech Ratio", description="how much is speech; its unit is not documented"
    )
    double_talk_percent: FiniteFloat | None = Field(
        default=None, alias="Double Talk Ratio(%)", description="how much is speech of two at once, in percent"
    )
    bad_mute_percent: FiniteFloat | None = Field(
        default=None, alias="Bad Mute Ratio(%)", description="how much is wrongly mute, in percent"
    )
    saturated_percent: FiniteFloat | None = Field(
        default=None, alias="Saturated Ratio(%)", description="how much is saturated, in percent"
    )

    @property
    def is_valid(self) -> bool:
        """Whether its scores mean anything."""
        return self.tag == VALID


class AudioQualityAssessmentResult(ResultModel):
    """Result of an AudioQualityAssessment job: the channels, or what came in another form."""

    channels: list[AudioChannel] = Field(default_factory=list, description="one for each channel, in their order")
    other: JsonValue = Field(default=None, description="the result as it came, where it has another form")

    @model_validator(mode="wrap")
    @classmethod
    def _any_form(cls, data: object, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if isinstance(data, cls) or (isinstance(data, dict) and data.keys() & {"channels", "other"}):
            return handler(data)
        if isinstance(data, list):
            try:
                return handler({"channels": data})
            except ValidationError:
                pass  # a form that is not documented
        return handler({"other": data})

    @property
    def worst(self) -> AudioChannel | None:
        """The valid channel with the lowest score, the first of equals; ``None`` without one."""
        scored = [(channel.mos, channel) for channel in self.channels if channel.is_valid and channel.mos is not None]
        return min(scored, key=lambda pair: pair[0])[1] if scored else None

    def summary(self) -> str:
        """One line: the number of channels, and the worst one's score."""
        if self.other is None:
            worst, tags = self.worst, ", ".join(channel.tag or "no tag" for channel in self.channels) or "none"
            score = f", worst: MOS {worst.mos:.2f} {worst.band or ''}".rstrip() if worst else ""
            return f"channels: {len(self.channels)} ({tags}){score}"
        text = json.dumps(self.other, ensure_ascii=False)
        return text if len(text) <= _MOST_CHARS else f"{text[:_MOST_CHARS]}..."


def _channels(_keys: Sequence[str], random: Random) -> JsonValue:
    channels: list[JsonValue] = []
    for _ in range(2):
        mos = round(random.uniform(3, 3.99), 2)
        channels.append(
            {
                "Tag": VALID,
                "MOS(0-5)": mos,
                "MOS": "Good",
                **{f"{name}(0-5)": round(random.uniform(3, 5), 2) for name in _SCORES},
                "Loudness(-90dB-0dB)": round(random.uniform(-23, -18), 1),
                **{name: round(random.uniform(0, 5), 1) for name in _RATIOS},
                "Speech Ratio": round(random.uniform(0.4, 0.9), 2),
            }
        )
    return channels


FUNCTION = Function(
    name="AudioQualityAssessment",
    title="assess the sound quality of a recording",
    input="16-bit WAV, 1 or 2 channels, 8,000 to 48,000 Hz",
    output=None,
    params=AudioQualityAssessmentParams,
    result=AudioQualityAssessmentResult,
    family=Family.ARRAY,
    media=frozenset({Medium.AUDIO}),
    input_ending=".wav",
    sample=Sample(input="voice.wav", ending="json", data=_channels, ims=_channels),
)
