"""The shipped handler of VideoClip: it logs the result, nothing more."""

import structlog

from mns_consumer import Job, handler
from mns_consumer.functions import VideoClipResult

log = structlog.get_logger()


@handler("VideoClip")
async def video_clip(job: Job[VideoClipResult]) -> None:
    """Log the number of cut videos or places, and where the first video is."""
    if job.failed:
        log.warning("job failed; it is only logged", **job.failure)
        return
    result = job.result
    log.info(
        "video clipped",
        job_id=job.job_id,
        files=len(result.files),
        first_url=result.first_url,
        spans=len(result.spans),
    )
