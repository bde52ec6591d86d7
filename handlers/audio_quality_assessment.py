"""AudioQualityAssessment: judge how good a recording sounds.

Input a 16-bit WAV file of one or two channels, 8000 to 48000 Hz; JobParams unknown.

Format: unknown, no sample exists: any JSON is kept. Once samples are at hand, fields take the place of ``root``.

Source: facts/iproduction.md#audioqualityassessment.
"""

import structlog

from consumer import AnyResult, Job, handler

log = structlog.get_logger()


class AudioQualityAssessmentResult(AnyResult):
    """What an AudioQualityAssessment job gives, whatever it is."""


@handler("AudioQualityAssessment")
async def audio_quality_assessment(job: Job[AudioQualityAssessmentResult]) -> None:
    """Log the beginning of the assessment."""
    if job.failed:
        log.warning("job failed; it is only kept", **job.failure)
        return
    log.info("audio quality assessed", job_id=job.job_id, result=job.result.summary(), output=job.output)
