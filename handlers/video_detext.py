"""The shipped handler of VideoDetext: it logs the result, nothing more."""

import structlog

from mns_consumer import Job, handler
from mns_consumer.functions import VideoDetextResult

log = structlog.get_logger()


@handler("VideoDetext")
async def video_detext(job: Job[VideoDetextResult]) -> None:
    """Log where the video without text is written."""
    if job.failed:
        log.warning("job failed; it is only logged", **job.failure)
        return
    result = job.result
    log.info(
        "text removed from video",
        job_id=job.job_id,
        details=len(result.details),
        written=result.written,
        output=job.output,
    )
