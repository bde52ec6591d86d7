"""The states of an intelligent production job, as QueryIProductionJob and notifications spell them, and its codes.

Source: facts/iproduction.md#job-states, facts/iproduction.md#api-error-codes.
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
NOT_WRITTEN_CODE: Final = "OutputNotWritten"
"""The code of a job that reports Success and has written nothing (facts/iproduction.md#output-not-written): ours."""


class CodeClass(StrEnum):
    """The classes of codes. Which codes failed jobs have is not documented, so the API's general ones have a class."""

    NONE = "none"
    SUCCESS = "success"
    NOT_WRITTEN = "not_written"
    INVALID_PARAMETER = "invalid_parameter"
    PERMISSION_DENIED = "permission_denied"
    INVALID_IDENTITY = "invalid_identity"
    THROTTLING = "throttling"
    INTERNAL_ERROR = "internal_error"
    OTHER = "other"


_CLASSES: Final = {
    "Success": CodeClass.SUCCESS,
    NOT_WRITTEN_CODE: CodeClass.NOT_WRITTEN,
    "InvalidParameter": CodeClass.INVALID_PARAMETER,
    "PermissionDenied": CodeClass.PERMISSION_DENIED,
    "InvalidIdentity": CodeClass.INVALID_IDENTITY,
    "Throttling": CodeClass.THROTTLING,
    "InternalError": CodeClass.INTERNAL_ERROR,
}


def code_class(code: str | None) -> CodeClass:
    """The class of a code, by its part before the first dot."""
    return _CLASSES.get(code.partition(".")[0], CodeClass.OTHER) if code else CodeClass.NONE
