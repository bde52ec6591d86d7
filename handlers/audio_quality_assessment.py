"""The shipped handler of AudioQualityAssessment: it logs the result, nothing more."""

import structlog

from mns_consumer import Job, handler
from mns_consumer.functions import AudioQualityAssessmentResult

log = structlog.get_logger()


@handler("AudioQualityAssessment")
async def audio_quality_assessment(job: Job[AudioQualityAssessmentResult]) -> None:
    """Log the beginning of the assessment."""
    if job.failed:
        log.warning("job failed; it is only logged", **job.failure)
        return
    log.info("audio quality assessed", job_id=job.job_id, result=job.result.summary(), output=job.output)
