"""VideoGreenScreenMatting: cut what stands before a green screen out of a video.

Input a video, and a background picture when one is to be put behind; JobParams ``bgimage`` (a URL), ``mode``
(``file``).

Format: family (a), ``Data`` holds ``{"result": [{"file": KEY}]}``; each key is completed to a full ``oss://`` URL
before it comes here. With ``bgimage`` the file is an MP4, without it a WEBM with an alpha channel.

Source:
    facts: iproduction, 4.
"""

import structlog
from pydantic import BaseModel, ConfigDict, Field

from consumer import Job, handler

log = structlog.get_logger()


class MattedVideo(BaseModel):
    """One cut-out video."""

    model_config = ConfigDict(extra="allow", populate_by_name=True)

    url: str = Field(alias="file", min_length=1, description="oss:// URL of the .mp4 or .webm file")


class VideoGreenScreenMattingResult(BaseModel):
    """What a VideoGreenScreenMatting job gives; fields that are not documented are kept."""

    model_config = ConfigDict(extra="allow", populate_by_name=True)

    files: list[MattedVideo] = Field(alias="result", description="the cut-out videos, one as documented")

    @property
    def first_url(self) -> str | None:
        """The first file's ``oss://`` URL; ``None`` where no file came."""
        return self.files[0].url if self.files else None

    def summary(self) -> str:
        """One line for a table: how many files, and the first one's URL."""
        return f"files: {len(self.files)}, first: {self.first_url or 'none'}"


@handler("VideoGreenScreenMatting")
async def video_green_screen_matting(job: Job[VideoGreenScreenMattingResult]) -> None:
    """Log where the cut-out video is."""
    if job.failed:
        log.warning(
            "job failed; it is only kept", function=job.function, job_id=job.job_id, code=job.code, message=job.message
        )
        return
    result = job.result
    log.info("green screen removed", job_id=job.job_id, files=len(result.files), first_url=result.first_url)
