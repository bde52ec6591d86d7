"""The shipped handler of MusicSegmentDetect: it logs the result, nothing more."""

import structlog

from mns_consumer import Job, handler
from mns_consumer.functions import MusicSegmentDetectResult

log = structlog.get_logger()


@handler("MusicSegmentDetect")
async def music_segment_detect(job: Job[MusicSegmentDetectResult]) -> None:
    """Log the number of parts, their length together, and where the first one begins."""
    if job.failed:
        log.warning("job failed; it is only logged", **job.failure)
        return
    segments = job.result.segments
    log.info(
        "music segments detected",
        job_id=job.job_id,
        segments=len(segments),
        total_s=round(job.result.total_s, 2),
        first_start_s=segments[0].start_s if segments else None,
        first_end_s=segments[0].end_s if segments else None,
    )
