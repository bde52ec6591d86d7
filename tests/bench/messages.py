"""The messages of every run: notifications as MPS puts them into a queue, base64, with 200 bytes of JSON UserData.

Elsewhere: who puts them into the queue (``server``), who takes them out (``contestants``).
"""

from __future__ import annotations

import base64
import random
from typing import Final

from consumer.job_state import JobState
from consumer.sandbox.jobs import SandboxJob, notification

FUNCTIONS: Final = ("Cover", "AudioMixing", "VideoH2V")
"""The three whose notifications the vendor prints."""
USER_DATA_BYTES: Final = 200

_chance: Final = random.Random()  # noqa: S311 - job ids, no secrets; never the same twice, as a ledger would notice


def user_data(film: int, sent_ns: int = 0) -> str:
    """UserData of exactly ``USER_DATA_BYTES``: JSON as an application would send it.

    Args:
        film: Any number.
        sent_ns: When the message was sent, nanoseconds since 1970; 0 where nobody asks.
    """
    head = f'{{"film": {film}, "sent_ns": {sent_ns}, "note": "'
    return f'{head}{"x" * (USER_DATA_BYTES - len(head) - 2)}"}}'


def body(number: int, sent_ns: int = 0) -> str:
    """The body of one message, about a job that no other message is about."""
    job = SandboxJob(
        job_id=f"{_chance.getrandbits(128):032x}",
        function=FUNCTIONS[number % len(FUNCTIONS)],
        params="{}",
        user_data=user_data(number, sent_ns),
        state=JobState.SUCCESS,
        code="Success",
    )
    return base64.b64encode(notification(job).encode()).decode()
