"""AudioBeatDetection. Result: family (a), a file that holds the beats; its layout is unknown.

Source: facts/iproduction.md#audiobeatdetection.
"""

from pydantic import Field

from consumer.functions.catalogue import Family, FilesResult, Function, ResultFile, Sample


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
    result=AudioBeatDetectionResult,
    sample=Sample(input="song.mp3", ending="txt", files=1),
)
