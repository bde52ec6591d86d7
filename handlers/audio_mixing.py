"""AudioMixing: mix other sounds into an audio file.

Input an audio file; JobParams ``inputs``, ``[{"file": "oss://..."}]``, one for now.

Format: family (a), ``{"result": [{"file": KEY}]}``. One file as documented.

Source: facts/iproduction.md#audiomixing.
"""

import structlog
from pydantic import Field

from consumer import FilesResult, Job, ResultFile, handler

log = structlog.get_logger()


class AudioMixingResult(FilesResult):
    """What an AudioMixing job gives."""

    files: list[ResultFile] = Field(alias="result", description="the mixed audio files, one as documented")


@handler("AudioMixing")
async def audio_mixing(job: Job[AudioMixingResult]) -> None:
    """Log where the mixed audio is."""
    if job.failed:
        log.warning("job failed; it is only kept", **job.failure)
        return
    result = job.result
    log.info("audio mixed", job_id=job.job_id, files=len(result.files), first_url=result.first_url)
