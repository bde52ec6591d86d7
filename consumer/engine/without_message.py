"""Handle a job that has no message: the life of a delivery, with nothing to hide or delete.

A notification can get lost; MPS still knows the job. Its answer is put into the form of a notification, so that
everything from decoding on is the same: key, claim, handler, ledger.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Final

from consumer.cloud.messages import DeleteFailure, Message, Receipt
from consumer.cloud.mps import JobStatus
from consumer.job_state import JobState

_LEASE_S: Final = 60.0


class NoQueue:
    """Stands for a queue's client: there is no message, so every call about it succeeds."""

    async def hide(self, handle: str, seconds: int) -> Receipt:
        """There is nothing to hide."""
        return Receipt(handle, time.monotonic() + seconds)

    async def delete(self, handles: Sequence[str]) -> Sequence[DeleteFailure]:  # noqa: ARG002 - QueueCalls' signature
        """There is nothing to delete."""
        return ()


def notification_of(answer: JobStatus) -> bytes:
    """A job's state in the form of the notification that MPS would have sent for it.

    Source: facts/iproduction.md#notification.
    """
    fields = {
        "Type": "IProduction",
        "FunctionName": answer.function,
        "JobId": answer.job_id,
        "State": answer.state,
        "Code": "Success" if answer.state == JobState.SUCCESS else None,
        "UserData": answer.user_data,
    }
    return json.dumps({name: value for name, value in fields.items() if value is not None}).encode()


def message_of(answer: JobStatus) -> Message:
    """A message whose lease can always be renewed."""
    now = time.time()
    return Message(
        # A new one for each try: a message that is set aside closes its own id.
        message_id=f"job-{answer.job_id}-{int(now * 1000)}",
        body=notification_of(answer),
        receipt=Receipt("", time.monotonic() + _LEASE_S),
        enqueued_at=now,
        first_dequeued_at=now,
        dequeue_count=1,
        priority=8,
        group_id=None,
        user_properties={},
        system_properties={},
    )
