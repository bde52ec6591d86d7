"""VideoDelogo: wipe logos out of a video.

Input a video; JobParams ``Logo``, ``[[xmin, ymin, width, height], ...]`` as ratios of the picture, at most two.

Format: family (c), ``{"Details": []}``, which names no file as a rule: the job's Output tells where it was written.

Source: facts/iproduction.md#videodelogo.
"""

import structlog

from consumer import DetailsResult, Job, handler

log = structlog.get_logger()


class VideoDelogoResult(DetailsResult):
    """What a VideoDelogo job gives."""


@handler("VideoDelogo")
async def video_delogo(job: Job[VideoDelogoResult]) -> None:
    """Log where the video without logos goes."""
    if job.failed:
        log.warning("job failed; it is only kept", **job.failure)
        return
    result = job.result
    log.info(
        "logos removed from video",
        job_id=job.job_id,
        details=len(result.details),
        written=result.written,
        output=job.output,
    )
