"""VideoClip: cut the highlights out of a video.

Input a video; JobParams none.

Format: family (a), ``Data`` holds ``{"result": [{"file": KEY}]}``; each key is completed to a full ``oss://`` URL
before it comes here. The sister service answers with bare JSON instead (family e),
``{"VideoSummaryList": [{"StartTime": "1.0", "EndTime": "4.52"}]}``: seconds from the video's beginning, as strings.

Source:
    facts: iproduction, 4.
"""

from typing import Self

import structlog
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator

from consumer import Job, handler

log = structlog.get_logger()


class ClipFile(BaseModel):
    """One cut video."""

    model_config = ConfigDict(extra="allow", populate_by_name=True)

    url: str = Field(alias="file", min_length=1, description="oss:// URL of the cut video")


class ClipSpan(BaseModel):
    """One highlight by its place in the video."""

    model_config = ConfigDict(extra="allow", populate_by_name=True)

    start_s: FiniteFloat = Field(alias="StartTime", description="its beginning, in seconds")
    end_s: FiniteFloat = Field(alias="EndTime", description="its end, in seconds")


class VideoClipResult(BaseModel):
    """What a VideoClip job gives: files, or the places to cut at; fields that are not documented are kept."""

    model_config = ConfigDict(extra="allow", populate_by_name=True)

    files: list[ClipFile] = Field(default_factory=list, alias="result", description="the cut videos")
    spans: list[ClipSpan] = Field(
        default_factory=list, alias="VideoSummaryList", description="the highlights' places, by the sister service"
    )

    @model_validator(mode="after")
    def _either_form(self) -> Self:
        if not self.model_fields_set & {"files", "spans"}:
            raise ValueError("expected an object with result or with VideoSummaryList")
        return self

    @property
    def first_url(self) -> str | None:
        """The first cut video's ``oss://`` URL; ``None`` where no file came."""
        return self.files[0].url if self.files else None

    def summary(self) -> str:
        """One line for a table: the files and the first one's URL, or the places and how long they are together."""
        if self.spans and not self.files:
            return f"spans: {len(self.spans)}, together {sum(span.end_s - span.start_s for span in self.spans):.2f} s"
        return f"files: {len(self.files)}, first: {self.first_url or 'none'}"


@handler("VideoClip")
async def video_clip(job: Job[VideoClipResult]) -> None:
    """Log how many cut videos or places there are and where the first video is."""
    if job.failed:
        log.warning(
            "job failed; it is only kept", function=job.function, job_id=job.job_id, code=job.code, message=job.message
        )
        return
    result = job.result
    log.info(
        "video clipped",
        job_id=job.job_id,
        files=len(result.files),
        first_url=result.first_url,
        spans=len(result.spans),
    )
