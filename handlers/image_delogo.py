"""ImageDelogo: wipe logos out of a picture.

Input an image; JobParams none.

Format: family (c), no ``Data`` but ``{"Details": []}`` or ``{"Details": [{"Status", "Input", "Output"}]}``. It names
no file as a rule: the job's Output tells where it was written, a template whose placeholders MPS does not fill in when
it is asked.

Source:
    facts: iproduction, 4.
"""

import structlog
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from consumer import Job, handler

log = structlog.get_logger()


class ImageDelogoDetail(BaseModel):
    """One entry of ``Details``."""

    model_config = ConfigDict(extra="allow", populate_by_name=True)

    status: str | None = Field(default=None, alias="Status", description="how it ended, as it came")
    input: JsonValue = Field(default=None, alias="Input", description="what was read, as it came")
    output: JsonValue = Field(default=None, alias="Output", description="what was written, as it came")


class ImageDelogoResult(BaseModel):
    """What a ImageDelogo job gives; fields that are not documented are kept."""

    model_config = ConfigDict(extra="allow", populate_by_name=True)

    details: list[ImageDelogoDetail] = Field(
        default_factory=list, alias="Details", description="what was done, often empty"
    )

    @property
    def written(self) -> str | None:
        """The first output that the details name, as it came; ``None`` where they name none."""
        outputs = (detail.output for detail in self.details)
        return next((output for output in outputs if isinstance(output, str) and output), None)

    def summary(self) -> str:
        """One line for a table: how many details, and the output if they name one."""
        return f"details: {len(self.details)}, {self.written or 'no file named, see the output of the job'}"


@handler("ImageDelogo")
async def image_delogo(job: Job[ImageDelogoResult]) -> None:
    """Log where the picture without logos goes."""
    if job.failed:
        log.warning(
            "job failed; it is only kept", function=job.function, job_id=job.job_id, code=job.code, message=job.message
        )
        return
    result = job.result
    log.info(
        "logos removed from image",
        job_id=job.job_id,
        details=len(result.details),
        written=result.written,
        output=job.output,
    )
