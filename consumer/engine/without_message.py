"""Handle a job that has no message: the same life, with nothing to hide or delete.

A notification can get lost; the job is still there to be asked for. MPS's answer is put into the words of a
notification, so that everything from decoding on is what it would have been: key, claim, handler, ledger.

Elsewhere: the life (``engine.process``), who asks for it (the command ``jobs run``).
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Final

from consumer.cloud.messages import DeleteFailure, Message, Receipt
from consumer.cloud.mps import JobStatus
from consumer.engine.delivery import Delivery
from consumer.job_state import JobState

_LEASE_S: Final = 60.0


class NoQueue:
    """Stands where a queue's client would be: there is no message, so every order about it is carried out."""

    async def hide(self, handle: str, seconds: int) -> Receipt:
        """Nothing is there to hide."""
        return Receipt(handle, time.monotonic() + seconds)

    async def delete(self, handles: Sequence[str]) -> Sequence[DeleteFailure]:  # noqa: ARG002 - the queue's own face
        """Nothing is there to delete."""
        return ()


def notification_of(answer: JobStatus) -> bytes:
    """A job's state in the words of the notification that MPS would have sent for it.

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


def delivery_of(answer: JobStatus) -> Delivery:
    """A delivery whose lease can always be renewed."""
    now = time.time()
    receipt = Receipt("", time.monotonic() + _LEASE_S)
    message = Message(
        # Another one for each try: a message that is set aside closes its own id.
        message_id=f"job-{answer.job_id}-{int(now * 1000)}",
        body=notification_of(answer),
        receipt=receipt,
        enqueued_at=now,
        first_dequeued_at=now,
        dequeue_count=1,
        priority=8,
        group_id=None,
        user_properties={},
        system_properties={},
    )
    return Delivery(message, receipt)
