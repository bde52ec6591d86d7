"""The handler of most runs: does nothing and wants no result. Copied into the daemon's handlers folder."""

from __future__ import annotations

from mns_consumer import Job, handler


@handler("*")
async def nothing(job: Job) -> None:
    """Do nothing."""
