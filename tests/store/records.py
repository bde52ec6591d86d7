"""The records that the tests of the store write, and the answers of claims afterwards."""

from __future__ import annotations

from consumer.policy import Reason
from consumer.store.ledger import DeadLetterRecord, Ended, JobRecord, RunRecord


def record(key: str, **fields: object) -> JobRecord:
    """A record with a value in every field, so that swapped columns are noticed."""
    values: dict[str, object] = {
        "queue": "1234/cn-hangzhou/done",
        "kind": "IProduction",
        "function": "Cover",
        "message_id": f"M-{key}",
        "job_id": f"J-{key}",
        "state": "Success",
        "code": "Code",
        "message": "Message",
        "user_data": '{"a": 1}',
        "result": '{"b": 2}',
        "attempts": 3,
        "enqueued_at": 1000.5,
        "started_at": 1001.5,
        "ended_at": 1002.25,
    }
    return JobRecord(key=key, **{**values, **fields})  # type: ignore[arg-type]  # a test names fields freely


def letter(
    key: str,
    *,
    body: bytes = b"\x00\xff raw",
    reason: Reason = Reason.REJECTED,
    error_fingerprint: str = "0123456789abcdef",
    **job: object,
) -> DeadLetterRecord:
    """A dead letter with a value in every field."""
    return DeadLetterRecord(
        job=record(key, **job),
        reason=reason,
        error="expected this, came that",
        traceback="Traceback: here",
        body=body,
        dequeue_count=7,
        first_dequeued_at=999.5,
        error_fingerprint=error_fingerprint,
    )


def run(key: str, error: str = "ValueError: it broke", **fields: object) -> RunRecord:
    """A run with a value in every field but the last."""
    values: dict[str, object] = {
        "queue": "1234/cn-hangzhou/done",
        "function": "Cover",
        "message_id": f"M-{key}",
        "job_id": f"J-{key}",
        "attempt": 1,
        "started_at": 1001.5,
        "ended_at": 1002.25,
        "result": "failed",
        "traceback": f"Traceback: {error}",
        "retry_at": 1010.5,
    }
    return RunRecord(key=key, error=error, **{**values, **fields})  # type: ignore[arg-type]  # a test names fields freely


def ended(*, dead: bool, key: str = "k") -> Ended:
    """A claim's answer for a key that was closed with such a record."""
    made = record(key)
    return Ended(dead, made.function, made.state, made.user_data)
