"""The shipped handler of Cover: it logs the result, nothing more."""

import structlog

from mns_consumer import Job, handler
from mns_consumer.functions import CoverResult

log = structlog.get_logger()


@handler("Cover")
async def cover(job: Job[CoverResult]) -> None:
    """Log the number of stills, and the best one's score, time and URL."""
    if job.failed:
        log.warning("job failed; it is only logged", **job.failure)
        return
    best = job.result.best
    log.info(
        "cover made",
        job_id=job.job_id,
        stills=len(job.result.stills),
        best_score=best and best.score,
        best_time_ms=best and best.time_ms,
        best_url=best and best.url,
        output=job.output,
    )
