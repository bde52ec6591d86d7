"""AudioMixing: mix other sounds into an audio file.

Input an audio file; JobParams ``inputs``, ``[{"file": "oss://..."}]``, one for now.

Format: family (a), ``Data`` holds ``{"result": [{"file": KEY}]}``; each key is completed to a full ``oss://`` URL
before it comes here. One file as documented.

Source:
    facts: iproduction, 4.
"""

import structlog
from pydantic import BaseModel, ConfigDict, Field

from consumer import Job, handler

log = structlog.get_logger()


class MixedAudio(BaseModel):
    """One mixed audio file."""

    model_config = ConfigDict(extra="allow", populate_by_name=True)

    url: str = Field(alias="file", min_length=1, description="oss:// URL of the audio file")


class AudioMixingResult(BaseModel):
    """What a AudioMixing job gives; fields that are not documented are kept."""

    model_config = ConfigDict(extra="allow", populate_by_name=True)

    files: list[MixedAudio] = Field(alias="result", description="the mixed audio files, one as documented")

    @property
    def first_url(self) -> str | None:
        """The first file's ``oss://`` URL; ``None`` where no file came."""
        return self.files[0].url if self.files else None

    def summary(self) -> str:
        """One line for a table: how many files, and the first one's URL."""
        return f"files: {len(self.files)}, first: {self.first_url or 'none'}"


@handler("AudioMixing")
async def audio_mixing(job: Job[AudioMixingResult]) -> None:
    """Log where the mixed audio is."""
    if job.failed:
        log.warning(
            "job failed; it is only kept", function=job.function, job_id=job.job_id, code=job.code, message=job.message
        )
        return
    result = job.result
    log.info("audio mixed", job_id=job.job_id, files=len(result.files), first_url=result.first_url)
