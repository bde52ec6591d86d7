"""What the runs with several daemons need: a sandbox whose keys are found nowhere else, and a store for a fleet."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from consumer.sandbox import Sandbox, SandboxSettings
from tests import postgres
from tests.certificates import serving


def sandbox_settings(certificate: Path | None = None) -> SandboxSettings:
    """A sandbox whose keys are found nowhere else, so that a search for them means something.

    Args:
        certificate: For https; without one it speaks http.
    """
    return SandboxSettings(
        port=0,
        tls=None if certificate is None else serving(certificate),
        job_s=0.2,
        pipeline_concurrency=1000,
        mps_calls_per_s=0,
        access_key_id=f"id{secrets.token_hex(8)}",
        access_key_secret=secrets.token_hex(16),
        security_token=secrets.token_hex(24),
    )


@pytest.fixture
def postgres_store() -> Iterator[str]:
    with postgres.postgres_store() as store:
        yield store


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(sandbox_settings()) as running:
        yield running
