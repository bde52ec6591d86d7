"""What the tests of the operators' commands share: places for stores, and dead letters in them."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from urllib.parse import urlsplit

import asyncpg
import pytest

from consumer.policy import Reason
from consumer.store.dead_letters import StoredLetter
from consumer.store.ledger import Claimed, DeadLetter, Elsewhere, Ended, Filter, JobRecord
from consumer.store.open import make_ledger, make_operators

POSTGRES = os.environ.get("TEST_POSTGRES_URL", "postgresql://postgres@127.0.0.1:5432/test")
ACCOUNT = "1234567890123456/cn-hangzhou"


@contextmanager
def postgres_schema() -> Iterator[str]:
    """The address of an empty schema, dropped at the end; where there is no server: skip at home, fail in CI."""
    schema = f"mns_consumer_cli_{secrets.token_hex(6)}"

    async def tell(statement: str) -> None:
        connection = await asyncpg.connect(POSTGRES, timeout=5)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    try:
        asyncio.run(tell(f"CREATE SCHEMA {schema}"))
    except (OSError, asyncpg.PostgresError) as error:
        told = f"no PostgreSQL at {urlsplit(POSTGRES).hostname} ({error}); set TEST_POSTGRES_URL"
        if os.environ.get("CI"):
            pytest.fail(told)
        pytest.skip(told)
    yield f"{POSTGRES}{'&' if '?' in POSTGRES else '?'}search_path={schema}"
    asyncio.run(tell(f"DROP SCHEMA {schema} CASCADE"))


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
) -> DeadLetter:
    return DeadLetter(
        job=record(name, queue, function),
        reason=reason,
        error=error,
        traceback="Traceback: here",
        body=body,
        dequeue_count=7,
        first_dequeued_at=1_700_000_000.5,
    )


def fill(target: str, letters: Sequence[DeadLetter] = (), done: Sequence[JobRecord] = ()) -> None:
    """Put ends into a store, as a daemon does."""

    async def put() -> None:
        ledger = make_ledger(target)
        await ledger.open()
        try:
            for one in letters:
                await ledger.claim(one.job.key, 60)
                await ledger.fail(one.job.key, "failed")
                await ledger.claim(one.job.key, 60)
                assert await ledger.bury(one)
            for job in done:
                await ledger.claim(job.key, 60)
                assert await ledger.done(job)
        finally:
            await ledger.close()

    asyncio.run(put())


def claim(target: str, key: str) -> Claimed | Ended | Elsewhere:
    """What a daemon is told that asks for a key."""

    async def ask() -> Claimed | Ended | Elsewhere:
        ledger = make_ledger(target)
        await ledger.open()
        try:
            return await ledger.claim(key, 60)
        finally:
            await ledger.close()

    return asyncio.run(ask())


def stored(target: str) -> list[StoredLetter]:
    """Every dead letter of a store."""

    async def look() -> list[StoredLetter]:
        operators = make_operators(target)
        try:
            return list(await operators.list_letters(Filter(), limit=1000))
        finally:
            await operators.close()

    return asyncio.run(look())


def states(target: str) -> list[str]:
    """How far each dead letter is, in the order of their numbers."""
    return [one.state.value for one in stored(target)]
