"""ImageDelogo: wipe logos out of a picture.

Input an image; JobParams none.

Format: family (c), ``{"Details": []}``, which names no file as a rule: the job's Output tells where it was written.

Source: facts/iproduction.md#imagedelogo.
"""

import structlog

from consumer import DetailsResult, Job, handler

log = structlog.get_logger()


class ImageDelogoResult(DetailsResult):
    """What an ImageDelogo job gives."""


@handler("ImageDelogo")
async def image_delogo(job: Job[ImageDelogoResult]) -> None:
    """Log where the picture without logos goes."""
    if job.failed:
        log.warning("job failed; it is only kept", **job.failure)
        return
    result = job.result
    log.info(
        "logos removed from image",
        job_id=job.job_id,
        details=len(result.details),
        written=result.written,
        output=job.output,
    )
