"""A sandbox for daemon processes; those that a test leaves behind are killed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from consumer.sandbox import Sandbox
from tests.engine.rig import QUEUE
from tests.process.rig import Process


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox.on_free_port() as running:
        running.account.ensure(QUEUE)
        yield running


@pytest.fixture
def started() -> Iterator[list[Process]]:
    processes: list[Process] = []
    yield processes
    for each in processes:
        each.kill()
