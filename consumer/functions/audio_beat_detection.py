"""AudioBeatDetection. Result: family (a), a file that holds the beats; its layout is unknown.

Source: facts/iproduction.md#audiobeatdetection.
"""

from pydantic import Field

from consumer.functions.catalogue import Family, FilesResult, Function, Medium, ResultFile, Sample
from consumer.functions.parameters import FunctionParams


class AudioBeatDetectionParams(FunctionParams):
    """JobParams of an AudioBeatDetection job: it has none."""

    function = "AudioBeatDetection"


class AudioBeatDetectionResult(FilesResult):
    """Result of an AudioBeatDetection job."""

    files: list[ResultFile] = Field(
        alias="result", description="the .txt files that hold BeatList and DownBeatList, one as documented"
    )


FUNCTION = Function(
    name="AudioBeatDetection",
    title="find the beats of a piece of music",
    input="audio or video",
    output="one .txt file with BeatList and DownBeatList",
    family=Family.OBJECT,
    params=AudioBeatDetectionParams,
    result=AudioBeatDetectionResult,
    media=frozenset({Medium.AUDIO, Medium.VIDEO}),
    output_ending=".txt",
    sample=Sample(input="song.mp3", ending="txt", files=1),
)
