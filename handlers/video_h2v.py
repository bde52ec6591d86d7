"""The shipped handler of VideoH2V: it logs the result, nothing more."""

import structlog

from mns_consumer import Job, handler
from mns_consumer.functions import VideoH2VResult

log = structlog.get_logger()


@handler("VideoH2V")
async def video_h2v(job: Job[VideoH2VResult]) -> None:
    """Log where the portrait video is written."""
    if job.failed:
        log.warning("job failed; it is only logged", **job.failure)
        return
    result = job.result
    log.info(
        "video turned to portrait",
        job_id=job.job_id,
        details=len(result.details),
        written=result.written,
        output=job.output,
    )
