"""FaceBeauty (facts/iproduction.md#facebeauty)."""

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer

from consumer.functions.catalogue import AnyResult, Function, Medium, Sample
from consumer.functions.parameters import INFERRED, FunctionParams

_Switch = Annotated[int, Field(ge=0, le=1)]
_Strength = Annotated[int, Field(ge=0, le=100)]
_Shift = Annotated[int, Field(ge=-100, le=100)]


class BeautyParams(BaseModel):
    """What is beautified, and by how much. What is not given keeps its default."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    skin_beauty_enable: _Switch = Field(default=1, description="beautify the skin: 0 or 1, by default 1")
    shape_beauty_enable: _Switch = Field(default=1, description="change shapes: 0 or 1, by default 1")
    skin_model: _Switch = Field(default=1, description="0 or 1, by default 1")
    whiten: _Strength = Field(default=20, description="0 to 100, by default 20")
    smooth: _Strength = Field(default=20, description="0 to 100, by default 20")
    detail: _Strength = Field(default=20, description="0 to 100, by default 20")
    cheek_thin: _Strength = Field(default=0, description="0 to 100, by default 0")
    face_cut: _Strength = Field(default=0, description="0 to 100, by default 0")
    face_thin: _Strength = Field(default=0, description="0 to 100, by default 0")
    chin_thin: _Strength = Field(default=0, description="0 to 100, by default 0")
    eye_size: _Strength = Field(default=0, description="0 to 100, by default 0")
    smile: _Strength = Field(default=0, description="0 to 100, by default 0")
    face_length: _Shift = Field(default=0, description="-100 to 100, by default 0")
    chin_length: _Shift = Field(default=0, description="-100 to 100, by default 0")
    eye_corner1: _Shift = Field(default=0, description="-100 to 100, by default 0")
    eye_distance: _Shift = Field(default=0, description="-100 to 100, by default 0")
    nose_thin: _Shift = Field(default=0, description="-100 to 100, by default 0")
    nose_wing: _Shift = Field(default=0, description="-100 to 100, by default 0")
    nose_length: _Shift = Field(default=0, description="-100 to 100, by default 0")
    mouth_size: _Shift = Field(default=0, description="-100 to 100, by default 0")
    mouth_position: _Shift = Field(default=0, description="-100 to 100, by default 0")
    lip_thickness: _Shift = Field(default=0, description="-100 to 100, by default 0")
    hair_line: _Shift = Field(default=0, description="-100 to 100, by default 0")
    detect_mode: _Switch = Field(default=1, description="0 for a video, 1 for a picture, by default 1")
    detect_level: int = Field(default=1, ge=0, le=2, description="0 to 2, by default 1")
    threshold: float = Field(default=0.8, ge=0, le=1, description="0 to 1, by default 0.8")
    detect_interval: int = Field(default=5, ge=1, le=65_535, description="1 to 65535, by default 5")
    max_face_num: int = Field(default=32, ge=0, le=32, description="faces at most, 0 to 32, by default 32")
    min_face: int = Field(default=40, ge=10, le=1024, description="10 to 1024, by default 40")


def _read(value: object) -> object:
    """The values of ``"k=v,k=v"``; anything else as it is."""
    if not isinstance(value, str):
        return value
    found: dict[str, str] = {}
    for part in value.split(",") if value.strip() else ():
        name, mark, number = (piece.strip() for piece in part.partition("="))
        if not mark or name in found:
            raise ValueError(f"{part.strip()!r} is no k=v, or k came twice")
        found[name] = number
    return found


def _written(params: BeautyParams) -> str:
    return ",".join(f"{name}={value:g}" for name, value in params.model_dump(exclude_unset=True).items())


class FaceBeautyParams(FunctionParams):
    """JobParams of a FaceBeauty job: ``{"beauty_params":"whiten=30,smooth=30"}``; its rules are inferred."""

    function = "FaceBeauty"

    beauty_params: Annotated[
        BeautyParams | None,
        BeforeValidator(_read),
        PlainSerializer(_written, return_type=str, when_used="unless-none"),
        INFERRED,
    ] = Field(default=None, description='text "k=v,k=v", such as "whiten=30,smooth=30"')


class FaceBeautyResult(AnyResult):
    """Result of a FaceBeauty job."""


FUNCTION = Function(
    name="FaceBeauty",
    title="beautify the faces in a video",
    input="video",
    output="mp4 (inferred)",
    params=FaceBeautyParams,
    result=FaceBeautyResult,
    media=frozenset({Medium.VIDEO}),
    output_ending=".mp4",
    output_is_inferred=True,
    sample=Sample(input="film.mp4", ending="mp4"),
)
