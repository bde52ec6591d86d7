"""AudioQualityAssessment: judge how good a recording sounds.

Input a 16-bit WAV file of one or two channels, 8000 to 48000 Hz; JobParams unknown.

Format: unknown, no sample exists. So the model is open: any JSON is kept as it came, also text that does not parse,
and nothing is invented. Once samples are at hand, fields take the place of ``root``.

Source:
    facts: iproduction, 4.
"""

import json

import structlog
from pydantic import JsonValue, RootModel

from consumer import Job, handler

_SHOWN_CHARS = 120

log = structlog.get_logger()


class AudioQualityAssessmentResult(RootModel[JsonValue]):
    """What an AudioQualityAssessment job gives: ``root`` is what came, whatever it is."""

    def summary(self) -> str:
        """One line for a table: the beginning of what came, as JSON."""
        text = json.dumps(self.root, ensure_ascii=False)
        return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}..."


@handler("AudioQualityAssessment")
async def audio_quality_assessment(job: Job[AudioQualityAssessmentResult]) -> None:
    """Log the beginning of the assessment."""
    if job.failed:
        log.warning(
            "job failed; it is only kept", function=job.function, job_id=job.job_id, code=job.code, message=job.message
        )
        return
    log.info("audio quality assessed", job_id=job.job_id, result=job.result.summary(), output=job.output)
