"""The shipped handler of SpeechDenoise: it logs the result, nothing more."""

import structlog

from mns_consumer import Job, handler
from mns_consumer.functions import SpeechDenoiseResult

log = structlog.get_logger()


@handler("SpeechDenoise")
async def speech_denoise(job: Job[SpeechDenoiseResult]) -> None:
    """Log the beginning of the result, and where the audio is written."""
    if job.failed:
        log.warning("job failed; it is only logged", **job.failure)
        return
    log.info("speech denoised", job_id=job.job_id, result=job.result.summary(), output=job.output)
