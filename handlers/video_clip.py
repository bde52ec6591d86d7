"""VideoClip: cut the highlights out of a video.

Input a video; JobParams none.

Format: family (a), ``{"result": [{"file": KEY}]}``. The sister service answers with bare JSON instead
(family e), ``{"VideoSummaryList": [{"StartTime": "1.0", "EndTime": "4.52"}]}``: seconds from the video's beginning, as
strings.

Source: facts/iproduction.md#videoclip.
"""

from typing import Self

import structlog
from pydantic import Field, FiniteFloat, model_validator

from consumer import FilesResult, Job, ResultFile, ResultModel, handler

log = structlog.get_logger()


class ClipSpan(ResultModel):
    """One highlight by its place in the video."""

    start_s: FiniteFloat = Field(alias="StartTime", description="its beginning, in seconds")
    end_s: FiniteFloat = Field(alias="EndTime", description="its end, in seconds")


class VideoClipResult(FilesResult):
    """What a VideoClip job gives: files, or the places to cut at; fields that are not documented are kept."""

    files: list[ResultFile] = Field(default_factory=list, alias="result", description="the cut videos")
    spans: list[ClipSpan] = Field(
        default_factory=list, alias="VideoSummaryList", description="the highlights' places, by the sister service"
    )

    @model_validator(mode="after")
    def _either_form(self) -> Self:
        if not self.model_fields_set & {"files", "spans"}:
            raise ValueError("expected an object with result or with VideoSummaryList")
        return self

    def summary(self) -> str:
        """One line for a table: the files and the first one's URL, or the places and how long they are together."""
        if self.spans and not self.files:
            return f"spans: {len(self.spans)}, together {sum(span.end_s - span.start_s for span in self.spans):.2f} s"
        return super().summary()


@handler("VideoClip")
async def video_clip(job: Job[VideoClipResult]) -> None:
    """Log how many cut videos or places there are and where the first video is."""
    if job.failed:
        log.warning("job failed; it is only kept", **job.failure)
        return
    result = job.result
    log.info(
        "video clipped",
        job_id=job.job_id,
        files=len(result.files),
        first_url=result.first_url,
        spans=len(result.spans),
    )
