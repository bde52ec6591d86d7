"""AudioBeatDetection: find the beats of a piece of music.

Input an audio file or a video; JobParams none.

Format: family (a), ``Data`` holds ``{"result": [{"file": KEY}]}``; each key is completed to a full ``oss://`` URL
before it comes here. The beats are not in the result but in the ``.txt`` file that it names, as ``BeatList`` and
``DownBeatList``; how they are spelt there is unknown. Whoever needs them reads the file.

Source:
    facts: iproduction, 4.
"""

import structlog
from pydantic import BaseModel, ConfigDict, Field

from consumer import Job, handler

log = structlog.get_logger()


class BeatFile(BaseModel):
    """One file of beats."""

    model_config = ConfigDict(extra="allow", populate_by_name=True)

    url: str = Field(
        alias="file", min_length=1, description="oss:// URL of the .txt file that holds BeatList and DownBeatList"
    )


class AudioBeatDetectionResult(BaseModel):
    """What a AudioBeatDetection job gives; fields that are not documented are kept."""

    model_config = ConfigDict(extra="allow", populate_by_name=True)

    files: list[BeatFile] = Field(alias="result", description="the files of beats, one as documented")

    @property
    def first_url(self) -> str | None:
        """The first file's ``oss://`` URL; ``None`` where no file came."""
        return self.files[0].url if self.files else None

    def summary(self) -> str:
        """One line for a table: how many files, and the first one's URL."""
        return f"files: {len(self.files)}, first: {self.first_url or 'none'}"


@handler("AudioBeatDetection")
async def audio_beat_detection(job: Job[AudioBeatDetectionResult]) -> None:
    """Log where the beats are written."""
    if job.failed:
        log.warning(
            "job failed; it is only kept", function=job.function, job_id=job.job_id, code=job.code, message=job.message
        )
        return
    result = job.result
    log.info("beats detected", job_id=job.job_id, files=len(result.files), first_url=result.first_url)
