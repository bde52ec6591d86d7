"""MusicSegmentDetect. Result: family (a), ``{"result": [{"start": 39.32, "end": 63.85, "title": "副歌"}]}``.

副歌 is a chorus. The sister service's result is the bare array of parts.

Source: facts/iproduction.md#musicsegmentdetect.
"""

from collections.abc import Sequence
from random import Random

from pydantic import Field, FiniteFloat, JsonValue, model_validator

from consumer.functions.catalogue import Family, Function, Medium, ResultModel, Sample
from consumer.functions.parameters import FunctionParams


class MusicSegment(ResultModel):
    """One part of the piece."""

    start_s: FiniteFloat = Field(alias="start", description="its beginning, in seconds")
    end_s: FiniteFloat = Field(alias="end", description="its end, in seconds")
    title: str | None = Field(default=None, description="what it is, as it came")


class MusicSegmentDetectParams(FunctionParams):
    """JobParams of a MusicSegmentDetect job: it has none."""

    function = "MusicSegmentDetect"


class MusicSegmentDetectResult(ResultModel):
    """Result of a MusicSegmentDetect job."""

    # Documented is only "empty when there is no chorus": an absent list counts as an empty one.
    segments: list[MusicSegment] = Field(default_factory=list, alias="result", description="the parts, as they came")

    @model_validator(mode="before")
    @classmethod
    def _either_form(cls, data: object) -> object:
        return {"result": data} if isinstance(data, list) else data

    @property
    def total_s(self) -> float:
        """The length of all parts together, in seconds."""
        return sum(segment.end_s - segment.start_s for segment in self.segments)

    def summary(self) -> str:
        """One line: the number of parts, their length together, and the first one's place."""
        if not self.segments:
            return "segments: 0"
        first = self.segments[0]
        head = f"segments: {len(self.segments)}, together {self.total_s:.2f} s"
        return f"{head}, first {first.start_s:.2f}-{first.end_s:.2f} s {first.title or ''}".rstrip()


def _choruses(_keys: Sequence[str], random: Random) -> list[JsonValue]:
    start = 30 + random.random() * 20
    segments: list[JsonValue] = []
    for _ in range(3):
        end = start + 20 + random.random() * 10
        segments.append({"start": round(start, 2), "end": round(end, 2), "title": "副歌"})
        start = end + 15 + random.random() * 10
    return segments


def _data(keys: Sequence[str], random: Random) -> JsonValue:
    return {"result": _choruses(keys, random)}


FUNCTION = Function(
    name="MusicSegmentDetect",
    title="find the choruses of a piece of music",
    input="audio or video",
    output=None,
    family=Family.OBJECT,
    params=MusicSegmentDetectParams,
    result=MusicSegmentDetectResult,
    media=frozenset({Medium.AUDIO, Medium.VIDEO}),
    sample=Sample(input="song.mp3", ending="json", data=_data, ims=_choruses),
)
