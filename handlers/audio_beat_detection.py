"""The shipped handler of AudioBeatDetection: it logs the result, nothing more."""

import structlog

from mns_consumer import Job, handler
from mns_consumer.functions import AudioBeatDetectionResult

log = structlog.get_logger()


@handler("AudioBeatDetection")
async def audio_beat_detection(job: Job[AudioBeatDetectionResult]) -> None:
    """Log where the beats are written."""
    if job.failed:
        log.warning("job failed; it is only logged", **job.failure)
        return
    result = job.result
    log.info("beats detected", job_id=job.job_id, files=len(result.files), first_url=result.first_url)
