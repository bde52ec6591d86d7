"""What a chaos run needs: a sandbox, and a schema of its own in a PostgreSQL server."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from typing import NoReturn
from urllib.parse import urlsplit

import asyncpg
import pytest

from consumer.sandbox import Sandbox, SandboxSettings

_POSTGRES = os.environ.get("TEST_POSTGRES_URL", "postgresql://postgres@127.0.0.1:5432/test")


async def _tell(statement: str) -> None:
    connection = await asyncpg.connect(_POSTGRES, timeout=5)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


class NoPostgresError(Exception):
    """No PostgreSQL to try on."""


@contextmanager
def postgres_schema() -> Iterator[str]:
    """The address of an empty schema, dropped at the end.

    Raises:
        NoPostgresError: There is no server, or it does not let us in.
    """
    schema = f"mns_consumer_chaos_{secrets.token_hex(6)}"
    try:
        asyncio.run(_tell(f"CREATE SCHEMA {schema}"))
    except (OSError, asyncpg.PostgresError) as error:
        raise NoPostgresError(
            f"no PostgreSQL at {urlsplit(_POSTGRES).hostname} ({error}); set TEST_POSTGRES_URL"
        ) from None
    try:
        yield f"{_POSTGRES}{'&' if '?' in _POSTGRES else '?'}search_path={schema}"
    finally:
        asyncio.run(_tell(f"DROP SCHEMA {schema} CASCADE"))


def without_postgres(error: NoPostgresError) -> NoReturn:
    """Where there is no server: skip at home, fail in CI."""
    if os.environ.get("CI"):
        pytest.fail(str(error))
    pytest.skip(str(error))


def sandbox_settings() -> SandboxSettings:
    """A sandbox whose secret is found nowhere else, so that a search for it means something."""
    return SandboxSettings(
        port=0,
        job_s=0.2,
        pipeline_concurrency=1000,
        mps_calls_per_s=0,
        access_key_id=f"id{secrets.token_hex(8)}",
        access_key_secret=secrets.token_hex(16),
    )


@pytest.fixture
def postgres_store() -> Iterator[str]:
    with ExitStack() as stack:
        try:
            store = stack.enter_context(postgres_schema())
        except NoPostgresError as error:
            without_postgres(error)
        yield store


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(sandbox_settings()) as running:
        yield running
