"""ImageCartoonize: redraw a picture as a cartoon.

Input an image; JobParams unknown.

Format: family (a), ``{"result": [{"file": KEY}]}``. Several files: the documented sample names a result and an origin.

Source: facts/iproduction.md#imagecartoonize.
"""

import structlog
from pydantic import Field

from consumer import FilesResult, Job, ResultFile, handler

log = structlog.get_logger()


class ImageCartoonizeResult(FilesResult):
    """What an ImageCartoonize job gives."""

    files: list[ResultFile] = Field(alias="result", description="the pictures, in the order they came")


@handler("ImageCartoonize")
async def image_cartoonize(job: Job[ImageCartoonizeResult]) -> None:
    """Log how many pictures there are and where the first one is."""
    if job.failed:
        log.warning("job failed; it is only kept", **job.failure)
        return
    result = job.result
    log.info("image cartoonized", job_id=job.job_id, files=len(result.files), first_url=result.first_url)
