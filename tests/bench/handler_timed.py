"""The handler of the runs that measure delays: writes the time since its message was sent.

It is copied into the daemon's handlers folder. ``BENCH_DELAYS`` names the file: nanoseconds, one line each.
"""

from __future__ import annotations

import os
import time
from typing import Final

from mns_consumer import Job, handler

_out: Final = os.open(os.environ["BENCH_DELAYS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


@handler("*")
async def timed(job: Job) -> None:
    """Write the delay."""
    now_ns = time.time_ns()
    os.write(_out, f"{now_ns - job.user_data['sent_ns']}\n".encode())
