"""AudioMixing (facts/iproduction.md#audiomixing)."""

from pydantic import Field

from consumer.functions.catalogue import Family, FilesResult, Function, ResultFile, Sample


class AudioMixingResult(FilesResult):
    """Result of an AudioMixing job."""

    files: list[ResultFile] = Field(alias="result", description="the mixed audio files, one as documented")


FUNCTION = Function(
    name="AudioMixing",
    title="mix other sounds into an audio file",
    input="audio",
    output="audio",
    family=Family.OBJECT,
    result=AudioMixingResult,
    sample=Sample(
        input="voice.mp3",
        ending="mp3",
        params={"inputs": [{"file": "oss://demo.oss-cn-hangzhou.aliyuncs.com/music.mp3"}]},
        files=1,
    ),
)
