"""ImageH2V: turn a landscape picture into a portrait one.

Input an image; JobParams none.

Format: family (c), ``{"Details": []}``, which names no file as a rule: the job's Output tells where it was written.

Source: facts/iproduction.md#imageh2v.
"""

import structlog

from consumer import DetailsResult, Job, handler

log = structlog.get_logger()


class ImageH2VResult(DetailsResult):
    """What an ImageH2V job gives."""


@handler("ImageH2V")
async def image_h2v(job: Job[ImageH2VResult]) -> None:
    """Log where the portrait picture goes."""
    if job.failed:
        log.warning("job failed; it is only kept", **job.failure)
        return
    result = job.result
    log.info(
        "image turned to portrait",
        job_id=job.job_id,
        details=len(result.details),
        written=result.written,
        output=job.output,
    )
