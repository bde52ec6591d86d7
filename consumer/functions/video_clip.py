"""VideoClip. Result: family (a) with files, or the sister service's places to cut at, family (e).

Source: facts/iproduction.md#videoclip.
"""

from collections.abc import Sequence
from random import Random
from typing import Self

from pydantic import Field, FiniteFloat, JsonValue, model_validator

from consumer.functions.catalogue import Family, FilesResult, Function, Medium, ResultFile, ResultModel, Sample
from consumer.functions.parameters import FunctionParams


class ClipSpan(ResultModel):
    """The place of one highlight in the video."""

    start_s: FiniteFloat = Field(alias="StartTime", description="its beginning, in seconds")
    end_s: FiniteFloat = Field(alias="EndTime", description="its end, in seconds")


class VideoClipParams(FunctionParams):
    """JobParams of a VideoClip job: it has none."""

    function = "VideoClip"


class VideoClipResult(FilesResult):
    """Result of a VideoClip job: files, or places to cut at."""

    files: list[ResultFile] = Field(default_factory=list, alias="result", description="the cut videos")
    spans: list[ClipSpan] = Field(
        default_factory=list, alias="VideoSummaryList", description="the highlights' places, by the sister service"
    )

    @model_validator(mode="after")
    def _either_form(self) -> Self:
        if not self.model_fields_set & {"files", "spans"}:
            raise ValueError("expected an object with result or with VideoSummaryList")
        return self

    def summary(self) -> str:
        """One line: the files and the first one's URL, or the places and their length together."""
        if self.spans and not self.files:
            return f"spans: {len(self.spans)}, together {sum(span.end_s - span.start_s for span in self.spans):.2f} s"
        return super().summary()


def _spans(_keys: Sequence[str], random: Random) -> JsonValue:
    start = round(random.uniform(0, 5), 2)
    return {"VideoSummaryList": [{"StartTime": str(start), "EndTime": str(round(start + 4, 2))}]}


FUNCTION = Function(
    name="VideoClip",
    title="cut the highlights out of a video",
    input="video",
    output="video",
    family=Family.OBJECT,
    params=VideoClipParams,
    result=VideoClipResult,
    media=frozenset({Medium.VIDEO}),
    output_media=Medium.VIDEO,
    sample=Sample(input="film.mp4", ending="mp4", files=1, ims=_spans),
)
