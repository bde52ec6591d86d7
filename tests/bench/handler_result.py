"""The handler of the runs under MPS's limit: wants a typed result. Copied into the daemon's handlers folder."""

from __future__ import annotations

from mns_consumer import Job, handler
from mns_consumer.functions import CoverResult


@handler("Cover")
async def cover(job: Job[CoverResult]) -> None:
    """Do nothing; the result was fetched before the call."""
