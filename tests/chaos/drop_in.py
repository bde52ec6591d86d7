"""The handlers' file that the daemons of a chaos run load: it writes down what it does, and does what it is told.

One line for each start and each end of a run goes straight to a file that all daemons share (one ``write`` to a file
opened for appending is never torn), so the driver's book does not rest on anything that the daemon says of itself:

    TIME PID begin|end|raise|cut JOB

The time is the machine's, also where the process lives by a clock that was stepped.

Elsewhere: what the jobs are told to do (``traffic``), reading the lines (``book``).
"""

from __future__ import annotations

from typing import Final

from tests.chaos.preload import TRUE_CLOCK_VARIABLE

JOURNAL_VARIABLE: Final = "CHAOS_JOURNAL"
"""The environment's name of the journal's path."""

TEXT: Final = f"""
import asyncio
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from pydantic import BaseModel, ConfigDict

from mns_consumer import Job, Reject, Retry, handler
from mns_consumer.functions import CoverResult

TRUE_CLOCK = int(os.environ.get("{TRUE_CLOCK_VARIABLE}", time.CLOCK_REALTIME))
JOURNAL = os.open(os.environ["{JOURNAL_VARIABLE}"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


class Wish(BaseModel):
    model_config = ConfigDict(strict=True)
    act: str
    seconds: float


def note(word: str, job: Job) -> None:
    os.write(JOURNAL, f"{{time.clock_gettime(TRUE_CLOCK):.6f}} {{os.getpid()}} {{word}} {{job.job_id}}\\n".encode())


@contextmanager
def noted(job: Job) -> Iterator[None]:
    note("begin", job)
    try:
        yield
    except Exception:
        note("raise", job)
        raise
    except BaseException:
        note("cut", job)
        raise
    note("end", job)


def obey(act: str, attempt: int) -> None:
    if act == "hopeless" or (act in {{"fails_once", "fails_late"}} and attempt == 1):
        raise ValueError("as told")
    if act == "asks_again" and attempt == 1:
        raise Retry("as told", after_s=1)
    if act == "rejects":
        raise Reject("as told")


@handler("VideoClip")
async def video_clip(job: Job) -> None:
    with noted(job):
        if job.user_data["act"] == "blocks":
            # As a handler does that calls subprocess.run: the whole event loop waits.
            time.sleep(job.user_data["seconds"])
        else:
            await asyncio.sleep(job.user_data["seconds"])
        obey(job.user_data["act"], job.attempt)


@handler("ImageH2V")
def image_h2v(job: Job) -> None:
    with noted(job):
        time.sleep(job.user_data["seconds"])
        obey(job.user_data["act"], job.attempt)


@handler("Cover")
async def cover(job: Job[CoverResult, Wish]) -> None:
    if job.failed:
        job.result
    with noted(job):
        assert job.result.stills
        await asyncio.sleep(job.user_data.seconds)
"""
