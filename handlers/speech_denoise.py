"""SpeechDenoise: take the noise out of recorded speech.

Input an audio file; JobParams unknown.

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


class SpeechDenoiseResult(RootModel[JsonValue]):
    """What a SpeechDenoise job gives: ``root`` is what came, whatever it is."""

    def summary(self) -> str:
        """One line for a table: the beginning of what came, as JSON."""
        text = json.dumps(self.root, ensure_ascii=False)
        return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}..."


@handler("SpeechDenoise")
async def speech_denoise(job: Job[SpeechDenoiseResult]) -> None:
    """Log the beginning of the result, and where the audio goes."""
    if job.failed:
        log.warning(
            "job failed; it is only kept", function=job.function, job_id=job.job_id, code=job.code, message=job.message
        )
        return
    log.info("speech denoised", job_id=job.job_id, result=job.result.summary(), output=job.output)
