"""VideoH2V: turn a landscape video into a portrait one.

Input a video; JobParams none.

Format: family (c), ``{"Details": []}``, which names no file as a rule: the job's Output tells where it was written.

Source: facts/iproduction.md#videoh2v.
"""

import structlog

from consumer import DetailsResult, Job, handler

log = structlog.get_logger()


class VideoH2VResult(DetailsResult):
    """What a VideoH2V job gives."""


@handler("VideoH2V")
async def video_h2v(job: Job[VideoH2VResult]) -> None:
    """Log where the portrait video goes."""
    if job.failed:
        log.warning("job failed; it is only kept", **job.failure)
        return
    result = job.result
    log.info(
        "video turned to portrait",
        job_id=job.job_id,
        details=len(result.details),
        written=result.written,
        output=job.output,
    )
