"""The shipped handler of VideoDelogo: it logs the result, nothing more."""

import structlog

from mns_consumer import Job, handler
from mns_consumer.functions import VideoDelogoResult

log = structlog.get_logger()


@handler("VideoDelogo")
async def video_delogo(job: Job[VideoDelogoResult]) -> None:
    """Log where the video without logos is written."""
    if job.failed:
        log.warning("job failed; it is only logged", **job.failure)
        return
    result = job.result
    log.info(
        "logos removed from video",
        job_id=job.job_id,
        details=len(result.details),
        written=result.written,
        output=job.output,
    )
