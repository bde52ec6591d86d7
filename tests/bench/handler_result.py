"""The handler of the runs under MPS's limit: it wants a typed result and does nothing with it.

It is copied into the daemon's drop-in folder.
"""

from __future__ import annotations

from mns_consumer import Job, handler
from mns_consumer.functions import CoverResult


@handler("Cover")
async def cover(job: Job[CoverResult]) -> None:
    """Do nothing; the result was fetched before the call."""
