"""The handlers that the daemons of a chaos run load. They do what the job's UserData orders, and write a journal.

The journal is one file for all daemons, so that the verdict does not depend on what a daemon logs. It has a line for
each begin and each end of a run; one ``write`` to a file that is opened for appending is never torn:

    TIME PID begin|end|raise|cut JOB

The time is the machine's, also in a process whose clock is stepped. ``traffic`` sends the jobs, ``verdict`` reads the
journal.
"""

from __future__ import annotations

from typing import Final

from tests.chaos.preload import TRUE_CLOCK_VARIABLE

JOURNAL_VARIABLE: Final = "CHAOS_JOURNAL"
"""The environment variable with the path of the journal."""

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


class Order(BaseModel):
    model_config = ConfigDict(strict=True)
    act: str
    seconds: float


def write(what: str, job: Job) -> None:
    os.write(JOURNAL, f"{{time.clock_gettime(TRUE_CLOCK):.6f}} {{os.getpid()}} {{what}} {{job.job_id}}\\n".encode())


@contextmanager
def journalled(job: Job) -> Iterator[None]:
    write("begin", job)
    try:
        yield
    except Exception:
        write("raise", job)
        raise
    except BaseException:
        write("cut", job)
        raise
    write("end", job)


def obey(act: str, attempt: int) -> None:
    if act == "hopeless" or (act in {{"fails_once", "fails_late"}} and attempt == 1):
        raise ValueError("as ordered")
    if act == "asks_again" and attempt == 1:
        raise Retry("as ordered", after_s=1)
    if act == "rejects":
        raise Reject("as ordered")


@handler("VideoClip")
async def video_clip(job: Job) -> None:
    with journalled(job):
        if job.user_data["act"] == "blocks":
            # This blocks the event loop, as a call of subprocess.run does.
            time.sleep(job.user_data["seconds"])
        else:
            await asyncio.sleep(job.user_data["seconds"])
        obey(job.user_data["act"], job.attempt)


@handler("ImageH2V")
def image_h2v(job: Job) -> None:
    with journalled(job):
        time.sleep(job.user_data["seconds"])
        obey(job.user_data["act"], job.attempt)


@handler("Cover")
async def cover(job: Job[CoverResult, Order]) -> None:
    if job.failed:
        job.result
    with journalled(job):
        assert job.result.stills
        await asyncio.sleep(job.user_data.seconds)
"""
