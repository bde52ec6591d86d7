"""The messages of every run: notifications as MPS sends them, in base64, with 200 bytes of JSON UserData."""

from __future__ import annotations

import base64
import random
from typing import Final

from consumer.job_state import JobState
from consumer.sandbox.jobs import SandboxJob, notification

FUNCTIONS: Final = ("Cover", "AudioMixing", "VideoH2V")
"""The three for which the vendor documents a notification."""
USER_DATA_BYTES: Final = 200

_random: Final = random.Random()  # noqa: S311 - job ids, no secrets; a seed would repeat them, and the jobs would be duplicates


def user_data(film: int, sent_ns: int = 0) -> str:
    """UserData of exactly ``USER_DATA_BYTES``: JSON as an application would send it.

    Args:
        film: Any number.
        sent_ns: Time of the send, nanoseconds since 1970; 0 where delays are not measured.
    """
    head = f'{{"film": {film}, "sent_ns": {sent_ns}, "note": "'
    return f'{head}{"x" * (USER_DATA_BYTES - len(head) - 2)}"}}'


def body(number: int, sent_ns: int = 0) -> str:
    """The body of one message, about a job of its own."""
    job = SandboxJob(
        job_id=f"{_random.getrandbits(128):032x}",
        function=FUNCTIONS[number % len(FUNCTIONS)],
        params="{}",
        user_data=user_data(number, sent_ns),
        state=JobState.SUCCESS,
        code="Success",
    )
    return base64.b64encode(notification(job).encode()).decode()
