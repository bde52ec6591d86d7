"""A sandbox with unique keys."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from consumer.sandbox import Sandbox, SandboxSettings
from tests.certificates import serving


def sandbox_settings(certificate: Path | None = None) -> SandboxSettings:
    """Settings with unique keys, so that a search for leaked secrets finds nothing else; https with a certificate."""
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
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(sandbox_settings()) as started:
        yield started
