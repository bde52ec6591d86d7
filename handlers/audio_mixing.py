"""The shipped handler of AudioMixing: it logs the result, nothing more."""

import structlog

from mns_consumer import Job, handler
from mns_consumer.functions import AudioMixingResult

log = structlog.get_logger()


@handler("AudioMixing")
async def audio_mixing(job: Job[AudioMixingResult]) -> None:
    """Log where the mixed audio is."""
    if job.failed:
        log.warning("job failed; it is only logged", **job.failure)
        return
    result = job.result
    log.info("audio mixed", job_id=job.job_id, files=len(result.files), first_url=result.first_url)
