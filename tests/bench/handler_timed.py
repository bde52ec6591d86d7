"""The handler of the runs that measure delays: it notes how long ago its message was sent.

It is copied into the daemon's drop-in folder. ``BENCH_DELAYS`` names the file: nanoseconds, a line each.
"""

from __future__ import annotations

import os
import time
from typing import Final

from mns_consumer import Job, handler

_out: Final = os.open(os.environ["BENCH_DELAYS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


@handler("*")
async def timed(job: Job) -> None:
    """Note the delay."""
    now_ns = time.time_ns()
    os.write(_out, f"{now_ns - job.user_data['sent_ns']}\n".encode())
