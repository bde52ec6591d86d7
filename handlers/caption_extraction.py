"""The shipped handler of CaptionExtraction: it logs the result, nothing more."""

import structlog

from mns_consumer import Job, handler
from mns_consumer.functions import CaptionExtractionResult

log = structlog.get_logger()


@handler("CaptionExtraction")
async def caption_extraction(job: Job[CaptionExtractionResult]) -> None:
    """Log the number of subtitle files and where the first one is."""
    if job.failed:
        log.warning("job failed; it is only logged", **job.failure)
        return
    result = job.result
    log.info("captions extracted", job_id=job.job_id, files=len(result.files), first_url=result.first_url)
