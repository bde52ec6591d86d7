"""VideoDetext: wipe burnt-in text out of a video.

Input a video; JobParams ``Text``, up to two boxes ``[[x, y, w, h], ...]`` as ratios of the picture.

Format: family (c), ``{"Details": []}``, which names no file as a rule: the job's Output tells where it was written.

Source: facts/iproduction.md#videodetext.
"""

import structlog

from consumer import DetailsResult, Job, handler

log = structlog.get_logger()


class VideoDetextResult(DetailsResult):
    """What a VideoDetext job gives."""


@handler("VideoDetext")
async def video_detext(job: Job[VideoDetextResult]) -> None:
    """Log where the video without text goes."""
    if job.failed:
        log.warning("job failed; it is only kept", **job.failure)
        return
    result = job.result
    log.info(
        "text removed from video",
        job_id=job.job_id,
        details=len(result.details),
        written=result.written,
        output=job.output,
    )
