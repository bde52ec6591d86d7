"""The shipped handler of VideoGreenScreenMatting: it logs the result, nothing more."""

import structlog

from mns_consumer import Job, handler
from mns_consumer.functions import VideoGreenScreenMattingResult

log = structlog.get_logger()


@handler("VideoGreenScreenMatting")
async def video_green_screen_matting(job: Job[VideoGreenScreenMattingResult]) -> None:
    """Log where the cut-out video is."""
    if job.failed:
        log.warning("job failed; it is only logged", **job.failure)
        return
    result = job.result
    log.info("green screen removed", job_id=job.job_id, files=len(result.files), first_url=result.first_url)
