"""The shipped handler of ImageDelogo: it logs the result, nothing more."""

import structlog

from mns_consumer import Job, handler
from mns_consumer.functions import ImageDelogoResult

log = structlog.get_logger()


@handler("ImageDelogo")
async def image_delogo(job: Job[ImageDelogoResult]) -> None:
    """Log where the picture without logos is written."""
    if job.failed:
        log.warning("job failed; it is only logged", **job.failure)
        return
    result = job.result
    log.info(
        "logos removed from image",
        job_id=job.job_id,
        details=len(result.details),
        written=result.written,
        output=job.output,
    )
