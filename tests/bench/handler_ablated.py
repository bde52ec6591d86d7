"""The handler of ablation runs: switches one trick off when it is loaded, and does nothing."""

from __future__ import annotations

import os

from mns_consumer import Job, handler
from tests.bench.tricks import switch_off

switch_off(os.environ["BENCH_WITHOUT"])


@handler("*")
async def nothing(job: Job) -> None:
    """Do nothing."""
