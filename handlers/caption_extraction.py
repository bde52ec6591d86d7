"""CaptionExtraction: read the captions burnt into a video's pictures into subtitle files.

Input a video; JobParams ``fps``, ``roi``, ``sep``, ``formatter``, ``track``.

Format: family (a), ``{"result": [{"file": KEY}]}``. The files are SubRip (``.srt``); whose text is whose, where
``sep`` asks for several, only their names can tell.

Source: facts/iproduction.md#captionextraction.
"""

import structlog
from pydantic import Field

from consumer import FilesResult, Job, ResultFile, handler

log = structlog.get_logger()


class CaptionExtractionResult(FilesResult):
    """What a CaptionExtraction job gives."""

    files: list[ResultFile] = Field(alias="result", description="the .srt subtitle files, in the order they came")


@handler("CaptionExtraction")
async def caption_extraction(job: Job[CaptionExtractionResult]) -> None:
    """Log how many subtitle files there are and where the first one is."""
    if job.failed:
        log.warning("job failed; it is only kept", **job.failure)
        return
    result = job.result
    log.info("captions extracted", job_id=job.job_id, files=len(result.files), first_url=result.first_url)
