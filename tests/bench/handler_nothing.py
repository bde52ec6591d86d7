"""The handler of most runs: it does nothing and wants no result. It is copied into the daemon's drop-in folder."""

from __future__ import annotations

from mns_consumer import Job, handler


@handler("*")
async def nothing(job: Job) -> None:
    """Do nothing."""
