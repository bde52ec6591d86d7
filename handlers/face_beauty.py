"""The shipped handler of FaceBeauty: it logs the result, nothing more."""

import structlog

from mns_consumer import Job, handler
from mns_consumer.functions import FaceBeautyResult

log = structlog.get_logger()


@handler("FaceBeauty")
async def face_beauty(job: Job[FaceBeautyResult]) -> None:
    """Log the beginning of the result, and where the video is written."""
    if job.failed:
        log.warning("job failed; it is only logged", **job.failure)
        return
    log.info("faces beautified", job_id=job.job_id, result=job.result.summary(), output=job.output)
