"""What the tests of the operators' commands share: dead letters in stores."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from consumer.policy import Reason
from consumer.store.ledger import Claimed, DeadLetterRecord, Elsewhere, Ended, Filter, JobRecord, StoredLetter
from tests.store.records import run
from tests.stores import ledger_at, operators_at

ACCOUNT = "1234567890123456/cn-hangzhou"


def record(name: str, queue: str = "jobs", function: str = "Cover") -> JobRecord:
    return JobRecord(
        key=f"{ACCOUNT}/{queue}|IProduction|J-{name}",
        queue=f"{ACCOUNT}/{queue}",
        kind="IProduction",
        function=function,
        message_id=f"M-{name}",
        job_id=f"J-{name}",
        state="Success",
        code="Success",
        user_data='{"film": 7}',
        result='{"stills": 5}',
        attempts=3,
        enqueued_at=1_700_000_000.0,
        started_at=1_700_000_001.0,
        ended_at=1_700_000_002.0,
    )


def letter(
    name: str,
    body: bytes = b'{"a": 1}',
    *,
    reason: Reason = Reason.REJECTED,
    queue: str = "jobs",
    function: str = "Cover",
    error: str = "expected this, came that",
    error_fingerprint: str = "0123456789abcdef",
) -> DeadLetterRecord:
    return DeadLetterRecord(
        job=record(name, queue, function),
        reason=reason,
        error=error,
        traceback="Traceback: here",
        body=body,
        dequeue_count=7,
        first_dequeued_at=1_700_000_000.5,
        error_fingerprint=error_fingerprint,
    )


def fill(target: str, letters: Sequence[DeadLetterRecord] = (), done: Sequence[JobRecord] = ()) -> None:
    """Put ends into a store, as a daemon does."""

    async def put() -> None:
        ledger = ledger_at(target)
        await ledger.open()
        try:
            for one in letters:
                await ledger.claim(one.job.key, 60)
                await ledger.fail(run(one.job.key, "failed", queue=one.job.queue, job_id=one.job.job_id))
                await ledger.claim(one.job.key, 60)
                assert await ledger.set_aside(one)
            for job in done:
                await ledger.claim(job.key, 60)
                assert await ledger.done(job)
        finally:
            await ledger.close()

    asyncio.run(put())


def claim(target: str, key: str) -> Claimed | Ended | Elsewhere:
    """The store's answer to a daemon that claims a key."""

    async def ask() -> Claimed | Ended | Elsewhere:
        ledger = ledger_at(target)
        await ledger.open()
        try:
            return await ledger.claim(key, 60)
        finally:
            await ledger.close()

    return asyncio.run(ask())


def stored(target: str) -> list[StoredLetter]:
    """Every dead letter of a store."""

    async def look() -> list[StoredLetter]:
        operators = operators_at(target)
        try:
            return list(await operators.list_letters(Filter(), limit=1000))
        finally:
            await operators.close()

    return asyncio.run(look())


def states(target: str) -> list[str]:
    """The state of each dead letter, in the order of their numbers."""
    return [one.state.value for one in stored(target)]
