"""The shipped handler of ImageH2V: it logs the result, nothing more."""

import structlog

from mns_consumer import Job, handler
from mns_consumer.functions import ImageH2VResult

log = structlog.get_logger()


@handler("ImageH2V")
async def image_h2v(job: Job[ImageH2VResult]) -> None:
    """Log where the portrait picture is written."""
    if job.failed:
        log.warning("job failed; it is only logged", **job.failure)
        return
    result = job.result
    log.info(
        "image turned to portrait",
        job_id=job.job_id,
        details=len(result.details),
        written=result.written,
        output=job.output,
    )
