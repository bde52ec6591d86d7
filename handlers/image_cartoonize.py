"""The shipped handler of ImageCartoonize: it logs the result, nothing more."""

import structlog

from mns_consumer import Job, handler
from mns_consumer.functions import ImageCartoonizeResult

log = structlog.get_logger()


@handler("ImageCartoonize")
async def image_cartoonize(job: Job[ImageCartoonizeResult]) -> None:
    """Log the number of pictures and where the first one is."""
    if job.failed:
        log.warning("job failed; it is only logged", **job.failure)
        return
    result = job.result
    log.info("image cartoonized", job_id=job.job_id, files=len(result.files), first_url=result.first_url)
