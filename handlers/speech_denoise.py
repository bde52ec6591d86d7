"""SpeechDenoise: take the noise out of recorded speech.

Input an audio file; JobParams unknown.

Format: unknown, no sample exists: any JSON is kept. Once samples are at hand, fields take the place of ``root``.

Source: facts/iproduction.md#speechdenoise.
"""

import structlog

from consumer import AnyResult, Job, handler

log = structlog.get_logger()


class SpeechDenoiseResult(AnyResult):
    """What a SpeechDenoise job gives, whatever it is."""


@handler("SpeechDenoise")
async def speech_denoise(job: Job[SpeechDenoiseResult]) -> None:
    """Log the beginning of the result, and where the audio goes."""
    if job.failed:
        log.warning("job failed; it is only kept", **job.failure)
        return
    log.info("speech denoised", job_id=job.job_id, result=job.result.summary(), output=job.output)
