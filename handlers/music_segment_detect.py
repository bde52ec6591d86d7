"""MusicSegmentDetect: find the choruses of a piece of music.

Input an audio file or a video; JobParams none.

Format: family (a), ``Data`` holds ``{"result": [{"start": 39.32, "end": 63.85, "title": "副歌"}]}``, in seconds from
the beginning (inferred); 副歌 is a chorus. Empty when the piece has none.

Source: facts/iproduction.md#musicsegmentdetect.
"""

import structlog
from pydantic import Field, FiniteFloat

from consumer import Job, ResultModel, handler

log = structlog.get_logger()


class MusicSegment(ResultModel):
    """One part of the piece."""

    start_s: FiniteFloat = Field(alias="start", description="its beginning, in seconds (inferred)")
    end_s: FiniteFloat = Field(alias="end", description="its end, in seconds (inferred)")
    title: str | None = Field(default=None, description="what it is, as it came")


class MusicSegmentDetectResult(ResultModel):
    """What a MusicSegmentDetect job gives; fields that are not documented are kept."""

    # "Empty when there is no chorus" is all that is known: an absent list must be as good as an empty one.
    segments: list[MusicSegment] = Field(default_factory=list, alias="result", description="the parts, as they came")

    @property
    def total_s(self) -> float:
        """How long all parts are together, in seconds."""
        return sum(segment.end_s - segment.start_s for segment in self.segments)

    def summary(self) -> str:
        """One line for a table: how many parts, how long together, and where the first one is."""
        if not self.segments:
            return "segments: 0"
        first = self.segments[0]
        head = f"segments: {len(self.segments)}, together {self.total_s:.2f} s"
        return f"{head}, first {first.start_s:.2f}-{first.end_s:.2f} s {first.title or ''}".rstrip()


@handler("MusicSegmentDetect")
async def music_segment_detect(job: Job[MusicSegmentDetectResult]) -> None:
    """Log how many parts there are, how long they are together, and where the first one begins."""
    if job.failed:
        log.warning("job failed; it is only kept", **job.failure)
        return
    segments = job.result.segments
    log.info(
        "music segments detected",
        job_id=job.job_id,
        segments=len(segments),
        total_s=round(job.result.total_s, 2),
        first_start_s=segments[0].start_s if segments else None,
        first_end_s=segments[0].end_s if segments else None,
    )
