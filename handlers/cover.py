"""Cover: pick the best still pictures of a video, or make a moving one.

Input a video; JobParams ``Model``: empty for stills, ``gif`` for a moving picture.

Format: family (b), ``Data`` is an array ``[{"Score": number, "Time": "28278.25", "Url": KEY}]``; Time is in
milliseconds from the video's beginning (inferred), each key is completed to a full ``oss://`` URL before it comes here.
Also seen as family (c), ``{"Details": []}``, which names no picture: the job's Output tells where it was written.

Source: facts/iproduction.md#cover.
"""

import structlog
from pydantic import Field, FiniteFloat, JsonValue, model_validator

from consumer import Job, ResultModel, handler

log = structlog.get_logger()


class CoverStill(ResultModel):
    """One picture."""

    score: FiniteFloat = Field(alias="Score", description="how well it suits, higher is better; its scale is unknown")
    time_ms: FiniteFloat = Field(alias="Time", description="its place in the video, in milliseconds (inferred)")
    url: str = Field(alias="Url", min_length=1, description="oss:// URL of the picture")


class CoverResult(ResultModel):
    """What a Cover job gives, of either family; fields that are not documented are kept."""

    stills: list[CoverStill] = Field(default_factory=list, description="the pictures, in the order they came")
    details: list[JsonValue] = Field(default_factory=list, alias="Details", description="family (c), often empty")

    @model_validator(mode="before")
    @classmethod
    def _either_family(cls, data: object) -> object:
        if isinstance(data, list):
            return {"stills": data}
        # Any object would fit an open model, and a third format would pass as a cover without stills.
        if isinstance(data, dict) and data.keys().isdisjoint({"Details", "details", "stills"}):
            raise ValueError(f"expected an array of stills, or an object with Details, came the keys {sorted(data)}")
        return data

    @property
    def best(self) -> CoverStill | None:
        """The still of the highest score, the earlier named of equals; ``None`` where there is none."""
        return max(self.stills, key=lambda still: still.score, default=None)

    def summary(self) -> str:
        """One line for a table: how many stills, and the best one's score, time and URL."""
        best = self.best
        if best is None:
            return "stills: 0, see the output of the job"
        return f"stills: {len(self.stills)}, best: {best.score:.2f} at {best.time_ms / 1000:.2f} s, {best.url}"


@handler("Cover")
async def cover(job: Job[CoverResult]) -> None:
    """Log how many stills there are, and the best one's score, time and URL."""
    if job.failed:
        log.warning("job failed; it is only kept", **job.failure)
        return
    best = job.result.best
    log.info(
        "cover made",
        job_id=job.job_id,
        stills=len(job.result.stills),
        best_score=best and best.score,
        best_time_ms=best and best.time_ms,
        best_url=best and best.url,
        output=job.output,
    )
