"""The states of an intelligent production job, as QueryIProductionJob and notifications spell them.

Source: facts/iproduction.md#job-states.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class JobState(StrEnum):
    """One state; a member equals the text that MPS sends."""

    QUEUING = "Queuing"
    ANALYSING = "Analysing"
    SUCCESS = "Success"
    FAIL = "Fail"


ENDED: Final = frozenset({JobState.SUCCESS, JobState.FAIL})
"""The final states; MPS's text can be looked up in it."""
