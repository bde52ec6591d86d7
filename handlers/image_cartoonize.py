"""ImageCartoonize: redraw a picture as a cartoon.

Input an image; JobParams unknown.

Format: family (a), ``Data`` holds ``{"result": [{"file": KEY}]}``; each key is completed to a full ``oss://`` URL
before it comes here. Several files: the documented sample names a result and an origin.

Source:
    facts: iproduction, 4.
"""

import structlog
from pydantic import BaseModel, ConfigDict, Field

from consumer import Job, handler

log = structlog.get_logger()


class CartoonFile(BaseModel):
    """One picture of the job."""

    model_config = ConfigDict(extra="allow", populate_by_name=True)

    url: str = Field(alias="file", min_length=1, description="oss:// URL of the picture")


class ImageCartoonizeResult(BaseModel):
    """What a ImageCartoonize job gives; fields that are not documented are kept."""

    model_config = ConfigDict(extra="allow", populate_by_name=True)

    files: list[CartoonFile] = Field(alias="result", description="the pictures, in the order they came")

    @property
    def first_url(self) -> str | None:
        """The first file's ``oss://`` URL; ``None`` where no file came."""
        return self.files[0].url if self.files else None

    def summary(self) -> str:
        """One line for a table: how many files, and the first one's URL."""
        return f"files: {len(self.files)}, first: {self.first_url or 'none'}"


@handler("ImageCartoonize")
async def image_cartoonize(job: Job[ImageCartoonizeResult]) -> None:
    """Log how many pictures there are and where the first one is."""
    if job.failed:
        log.warning(
            "job failed; it is only kept", function=job.function, job_id=job.job_id, code=job.code, message=job.message
        )
        return
    result = job.result
    log.info("image cartoonized", job_id=job.job_id, files=len(result.files), first_url=result.first_url)
