"""Poison among the good takes no slot from them."""

from __future__ import annotations

import time

import anyio
import pytest

from consumer.plugin.handler import Job
from consumer.store.ledger import DeadLetterRecord
from tests.engine.rig import body, handlers
from tests.engine.test_poison import POISONED, picky, typed
from tests.in_memory.ledger import MemoryLedger
from tests.in_memory.queue import MemoryQueue
from tests.in_memory.rig import Serve, Surroundings

BUSY = 320
"""Good messages, and as many poisoned ones among them."""
SETTLE_S = 0.05
"""How long a dead letter takes: a quarter of a good job's handler."""


@pytest.fixture
def around(around: Surroundings, monkeypatch: pytest.MonkeyPatch) -> Surroundings:
    """A store that is slow to take dead letters, and an MPS that knows of failed jobs."""
    set_aside = MemoryLedger.set_aside

    async def slow(self: MemoryLedger, letter: DeadLetterRecord) -> bool:
        await anyio.sleep(SETTLE_S)
        return await set_aside(self, letter)

    monkeypatch.setattr(MemoryLedger, "set_aside", slow)
    for number in range(2 * BUSY):
        around.mps.add(f"p{number:030x}f", function="Picky", state="Fail")
    return around


async def throughput(queue: MemoryQueue, serve: Serve, *, poisoned: bool, run: int) -> float:
    """Good jobs a second, but for the first and the last tenth."""
    ended: list[float] = []

    async def busy(job: Job) -> None:
        await anyio.sleep(4 * SETTLE_S)
        ended.append(time.monotonic())

    for number in range(BUSY):
        queue.put(body(f"{run:02x}{number:030x}", "Busy"))
        if poisoned:
            queue.put(POISONED[number % len(POISONED)][1](run * BUSY + number))
    async with serve(handlers(Busy=busy, Typed=typed, Picky=picky), slots=32) as daemon:
        await daemon.emptied()
    spared = BUSY // 10
    return (BUSY - 2 * spared) / (ended[-spared] - ended[spared])


async def test_poison_does_not_slow_the_good(queue: MemoryQueue, serve: Serve) -> None:
    """With as much poison as good, the good jobs' throughput is at least nine tenths of what it is without."""
    alone = await throughput(queue, serve, poisoned=False, run=0)
    among = await throughput(queue, serve, poisoned=True, run=1)
    assert among >= 0.9 * alone
