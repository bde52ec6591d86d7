"""A sandbox, a store, and clients of both."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from consumer.client import Client
from consumer.sandbox import Sandbox
from consumer.store.open import open_submissions
from consumer.store.submissions import Submissions
from consumer.store_address import parse_store_address
from tests.postgres import postgres_store
from tests.stores import ledger_at

QUEUE = "films"


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox.on_free_port(job_s=0.05) as running:
        running.account.ensure(QUEUE)
        yield running


@pytest.fixture(params=["sqlite", "postgres"])
def store_text(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield str(tmp_path / "state" / "store.db")
    else:
        with postgres_store() as address:
            yield address


@pytest.fixture
async def store(store_text: str) -> str:
    """A store with its tables."""
    ledger = ledger_at(store_text)
    await ledger.open()
    await ledger.close()
    return store_text


@pytest.fixture
async def submissions(store: str) -> AsyncIterator[Submissions]:
    async with open_submissions(parse_store_address(store)) as opened:
        yield opened


@pytest.fixture
def settings(sandbox: Sandbox, store: str) -> dict[str, Any]:
    return {
        "notify_url": sandbox.notify_url(QUEUE),
        "endpoint": sandbox.url,
        "access_key_id": "sandbox",
        "access_key_secret": "sandbox",
        "store": store,
    }


@pytest.fixture
def make_client(settings: dict[str, Any]) -> Callable[..., Client]:
    return lambda **more: Client(**(settings | more))
