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
from consumer.engine.delivery import QueueCalls
from consumer.job_state import JobState

_LEASE_S: Final = 60.0
_HANDLE: Final = "no message "
"""How the receipt handles of such jobs begin; none of MNS's holds a space."""


def has_message(receipt: Receipt) -> bool:
    """Whether a delivery's receipt is of a message, which comes again when it is hidden."""
    return not receipt.handle.startswith(_HANDLE)


class NoQueue:
    """Stands for a queue's client: there is no message, so every call about it succeeds."""

    def __init__(self) -> None:
        self._delays: dict[str, int] = {}

    def take_delay(self, handle: str) -> int | None:
        """For how many seconds a message would be hidden now; ``None`` if it was never hidden."""
        return self._delays.pop(handle, None)

    async def hide(self, handle: str, seconds: int) -> Receipt:
        """There is nothing to hide; the delay is kept for ``take_delay``."""
        self._delays[handle] = seconds
        return Receipt(handle, time.monotonic() + seconds)

    async def delete(self, handles: Sequence[str]) -> Sequence[DeleteFailure]:  # noqa: ARG002 - QueueCalls' signature
        """There is nothing to delete."""
        return ()


class QueueAndNoQueue:
    """A queue's client, for deliveries with and without a message side by side."""

    def __init__(self, queue: QueueCalls, none: NoQueue) -> None:
        self._queue = queue
        self._none = none

    async def hide(self, handle: str, seconds: int) -> Receipt:
        """Hide the message, if there is one."""
        return await (self._none if handle.startswith(_HANDLE) else self._queue).hide(handle, seconds)

    async def delete(self, handles: Sequence[str]) -> Sequence[DeleteFailure]:
        """Delete the messages that there are."""
        real = [handle for handle in handles if not handle.startswith(_HANDLE)]
        return await self._queue.delete(real) if real else ()


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


def message_of(answer: JobStatus, *, dequeue_count: int = 1) -> Message:
    """A message whose lease can always be renewed.

    With a ``dequeue_count`` above 1 the start of its run is recorded.
    """
    now = time.time()
    # A new one for each try: a message that is set aside closes its own id.
    message_id = f"job-{answer.job_id}-{time.time_ns()}"
    return Message(
        message_id=message_id,
        body=notification_of(answer),
        receipt=Receipt(f"{_HANDLE}{message_id}", time.monotonic() + _LEASE_S),
        enqueued_at=now,
        first_dequeued_at=now,
        dequeue_count=dequeue_count,
        priority=8,
        group_id=None,
        user_properties={},
        system_properties={},
    )
