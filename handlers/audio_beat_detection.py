"""AudioBeatDetection: find the beats of a piece of music.

Input an audio file or a video; JobParams none.

Format: family (a), ``{"result": [{"file": KEY}]}``. The beats are not in the result but in the ``.txt`` file that it
names, as ``BeatList`` and ``DownBeatList``; how they are spelt there is unknown. Whoever needs them reads the file.

Source: facts/iproduction.md#audiobeatdetection.
"""

import structlog
from pydantic import Field

from consumer import FilesResult, Job, ResultFile, handler

log = structlog.get_logger()


class AudioBeatDetectionResult(FilesResult):
    """What an AudioBeatDetection job gives."""

    files: list[ResultFile] = Field(
        alias="result", description="the .txt files that hold BeatList and DownBeatList, one as documented"
    )


@handler("AudioBeatDetection")
async def audio_beat_detection(job: Job[AudioBeatDetectionResult]) -> None:
    """Log where the beats are written."""
    if job.failed:
        log.warning("job failed; it is only kept", **job.failure)
        return
    result = job.result
    log.info("beats detected", job_id=job.job_id, files=len(result.files), first_url=result.first_url)
