"""VideoDetext (facts/iproduction.md#videodetext)."""

from collections.abc import Iterator
from typing import Final

from pydantic import Field

from consumer.functions.catalogue import DetailsResult, Function, Medium, Sample
from consumer.functions.parameters import Boxes, FunctionParams

_LOWEST_PART: Final = 0.7


class VideoDetextParams(FunctionParams):
    """JobParams of a VideoDetext job: ``{"Text":"[[0.1,0.8,0.8,0.15]]"}``, the boxes as text."""

    function = "VideoDetext"
    ims_names = {"LimitRegion": "Text", "Time": "no time range"}  # noqa: RUF012 - a ClassVar of the base

    text: Boxes | None = Field(
        default=None,
        validation_alias="Text",
        serialization_alias="Text",
        description="at most 2 boxes [xmin,ymin,width,height], each number from 0 to 1, inside the picture",
    )

    def warnings(self) -> Iterator[tuple[str, str]]:
        """A box that the function may not look at, as the vendor has measured."""
        for box in self.text or ():
            if box.ymin + box.height <= _LOWEST_PART:
                yield "Text", "a box in the bottom 30 % of the picture: text above it may not be erased"


class VideoDetextResult(DetailsResult):
    """Result of a VideoDetext job."""


FUNCTION = Function(
    name="VideoDetext",
    title="remove text that is part of a video's picture",
    input="video",
    output="video",
    params=VideoDetextParams,
    result=VideoDetextResult,
    media=frozenset({Medium.VIDEO}),
    output_media=Medium.VIDEO,
    model_ids=frozenset({"algo-video-detext-new"}),
    sample=Sample(input="film.mp4", ending="mp4", params={"Text": "[[0.1,0.8,0.8,0.15]]"}),
)
