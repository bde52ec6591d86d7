"""CaptionExtraction: read the captions burnt into a video's pictures into subtitle files.

Input a video; JobParams ``fps``, ``roi``, ``sep``, ``formatter``, ``track``.

Format: family (a), ``Data`` holds ``{"result": [{"file": KEY}]}``; each key is completed to a full ``oss://`` URL
before it comes here. The files are SubRip (``.srt``); whose text is whose, where ``sep`` asks for several, only their
names can tell.

Source:
    facts: iproduction, 4.
"""

import structlog
from pydantic import BaseModel, ConfigDict, Field

from consumer import Job, handler

log = structlog.get_logger()


class CaptionFile(BaseModel):
    """One subtitle file."""

    model_config = ConfigDict(extra="allow", populate_by_name=True)

    url: str = Field(alias="file", min_length=1, description="oss:// URL of the .srt file")


class CaptionExtractionResult(BaseModel):
    """What a CaptionExtraction job gives; fields that are not documented are kept."""

    model_config = ConfigDict(extra="allow", populate_by_name=True)

    files: list[CaptionFile] = Field(alias="result", description="the subtitle files, in the order they came")

    @property
    def first_url(self) -> str | None:
        """The first file's ``oss://`` URL; ``None`` where no file came."""
        return self.files[0].url if self.files else None

    def summary(self) -> str:
        """One line for a table: how many files, and the first one's URL."""
        return f"files: {len(self.files)}, first: {self.first_url or 'none'}"


@handler("CaptionExtraction")
async def caption_extraction(job: Job[CaptionExtractionResult]) -> None:
    """Log how many subtitle files there are and where the first one is."""
    if job.failed:
        log.warning(
            "job failed; it is only kept", function=job.function, job_id=job.job_id, code=job.code, message=job.message
        )
        return
    result = job.result
    log.info("captions extracted", job_id=job.job_id, files=len(result.files), first_url=result.first_url)
