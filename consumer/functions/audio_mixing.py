"""AudioMixing (facts/iproduction.md#audiomixing)."""

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from consumer.functions.catalogue import Family, FilesResult, Function, Medium, ResultFile, Sample
from consumer.functions.parameters import FunctionParams, decoded


class MixedFile(BaseModel):
    """The sound that is mixed into Input."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    file: str = Field(pattern=r"^oss://[^/\s]+/.+", description="oss:// URL of an audio file")


def _list(value: object) -> object:
    found = decoded(value)
    if isinstance(found, dict):
        raise ValueError("one object is IMS's form; MPS takes a list of one")  # noqa: TRY004 - pydantic takes no other
    return found


class AudioMixingParams(FunctionParams):
    """JobParams of an AudioMixing job: ``{"inputs":[{"file":"oss://..."}]}``."""

    function = "AudioMixing"

    inputs: Annotated[list[MixedFile], BeforeValidator(_list)] = Field(
        min_length=1, max_length=1, description='a list of exactly one {"file":"oss://..."}'
    )


class AudioMixingResult(FilesResult):
    """Result of an AudioMixing job."""

    files: list[ResultFile] = Field(alias="result", description="the mixed audio files, one as documented")


FUNCTION = Function(
    name="AudioMixing",
    title="mix other sounds into an audio file",
    input="audio",
    output="audio",
    family=Family.OBJECT,
    params=AudioMixingParams,
    result=AudioMixingResult,
    media=frozenset({Medium.AUDIO}),
    output_media=Medium.AUDIO,
    sample=Sample(
        input="voice.mp3",
        ending="mp3",
        params={"inputs": [{"file": "oss://demo.oss-cn-hangzhou.aliyuncs.com/music.mp3"}]},
        files=1,
    ),
)
