"""VideoDelogo (facts/iproduction.md#videodelogo)."""

from pydantic import Field

from consumer.functions.catalogue import DetailsResult, Function, Medium, Sample
from consumer.functions.parameters import Boxes, FunctionParams


class VideoDelogoParams(FunctionParams):
    """JobParams of a VideoDelogo job: ``{"Logo":"[[0.05,0.05,0.2,0.1]]"}``, the boxes as text."""

    function = "VideoDelogo"
    ims_names = {"LogoModel": "Logo", "Boxes": "Logo"}  # noqa: RUF012 - a ClassVar of the base

    logo: Boxes | None = Field(
        default=None,
        validation_alias="Logo",
        serialization_alias="Logo",
        description="at most 2 boxes [xmin,ymin,width,height], each number from 0 to 1, inside the picture",
    )


class VideoDelogoResult(DetailsResult):
    """Result of a VideoDelogo job."""


FUNCTION = Function(
    name="VideoDelogo",
    title="remove logos from a video",
    input="video",
    output="video",
    params=VideoDelogoParams,
    result=VideoDelogoResult,
    media=frozenset({Medium.VIDEO}),
    output_media=Medium.VIDEO,
    sample=Sample(input="film.mp4", ending="mp4", params={"Logo": "[[0.05,0.05,0.2,0.1]]"}),
)
