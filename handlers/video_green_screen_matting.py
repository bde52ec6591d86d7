"""VideoGreenScreenMatting: cut what stands before a green screen out of a video.

Input a video, and a background picture when one is to be put behind; JobParams ``bgimage`` (a URL), ``mode``
(``file``).

Format: family (a), ``{"result": [{"file": KEY}]}``. With ``bgimage`` the file is an MP4, without it
a WEBM with an alpha channel.

Source: facts/iproduction.md#videogreenscreenmatting.
"""

import structlog
from pydantic import Field

from consumer import FilesResult, Job, ResultFile, handler

log = structlog.get_logger()


class VideoGreenScreenMattingResult(FilesResult):
    """What a VideoGreenScreenMatting job gives."""

    files: list[ResultFile] = Field(alias="result", description="the cut-out videos, .mp4 or .webm, one as documented")


@handler("VideoGreenScreenMatting")
async def video_green_screen_matting(job: Job[VideoGreenScreenMattingResult]) -> None:
    """Log where the cut-out video is."""
    if job.failed:
        log.warning("job failed; it is only kept", **job.failure)
        return
    result = job.result
    log.info("green screen removed", job_id=job.job_id, files=len(result.files), first_url=result.first_url)
