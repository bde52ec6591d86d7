"""Poison among the good: set aside whole, and never in the way."""

from __future__ import annotations

import time
from collections.abc import Callable

import anyio
import pytest

from consumer.engine.slots import Slot, Slots
from consumer.plugin.handler import Job
from consumer.policy import Reason
from consumer.sandbox import Sandbox, SandboxJob
from tests.engine.rig import QUEUE, Serve, body, handlers

GOOD = 400
"""Good messages, and as many poisoned ones among them."""
BUSY = 130
"""The same where throughput is measured: more than seven rounds of the slots."""

POISONED: list[tuple[Reason, Callable[[int], bytes]]] = [
    (Reason.UNDECODABLE, lambda number: f"no notification {{ {number}".encode()),
    (Reason.UNROUTED, lambda number: body(f"p{number:030x}u", "Unheard")),
    (Reason.ILL_TYPED, lambda number: body(f"p{number:030x}t", "Typed", UserData="no number")),
    (Reason.JOB_FAILED, lambda number: body(f"p{number:030x}f", "Picky", State="Fail", Code="E")),
]


async def good(job: Job) -> None:
    """Handles."""


async def typed(job: Job[None, int]) -> None:
    """Wants a number."""


async def picky(job: Job[None]) -> None:
    """Looks at the result whatever happened."""
    assert job.result


async def test_half_poison_is_set_aside_byte_for_byte(sandbox: Sandbox, serve: Serve) -> None:
    """With as much poison as good, every good job is done and every poisoned body is kept with its reason."""
    sent: list[tuple[Reason, bytes]] = []
    for number in range(GOOD):
        reason, make = POISONED[number % len(POISONED)]
        sent.append((reason, make(number)))
        sandbox.put(QUEUE, body(f"{number:032x}").decode())
        sandbox.put(QUEUE, sent[-1][1].decode())
        if reason is Reason.JOB_FAILED:
            sandbox.add_job(SandboxJob(job_id=f"p{number:030x}f", function="Picky", state="Fail"))
    async with serve(handlers(Cover=good, Typed=typed, Picky=picky)) as daemon:
        await daemon.emptied(15)
        assert daemon.count("jobs_total", queue=QUEUE, function="Cover", outcome="done") == GOOD
        letters = await daemon.letters()
    assert sorted((letter.letter.reason, letter.letter.body) for letter in letters) == sorted(sent)


async def throughput(sandbox: Sandbox, serve: Serve, *, poisoned: bool, run: int) -> float:
    """Good jobs a second, but for the first and the last tenth, with their handlers' slots full.

    The slots are few, so that they are the limit and not the processor.
    """
    ended: list[float] = []

    async def busy(job: Job) -> None:
        await anyio.sleep(0.2)
        ended.append(time.monotonic())

    for number in range(BUSY):
        sandbox.put(QUEUE, body(f"{run:02x}{number:030x}", "Busy").decode())
        if poisoned:
            sandbox.put(QUEUE, POISONED[number % len(POISONED)][1](run * BUSY + number).decode())
    async with serve(handlers(Busy=busy, Typed=typed, Picky=picky), slots=16) as daemon:
        await daemon.emptied(20)
    spared = BUSY // 10
    return (BUSY - 2 * spared) / (ended[-spared] - ended[spared])


@pytest.mark.timeout(60)
@pytest.mark.alone
async def test_poison_does_not_slow_the_good(sandbox: Sandbox, serve: Serve) -> None:
    """With as much poison as good, the good jobs' throughput is at least nine tenths of what it is without.

    One pair of runs in three has to show it: a pause of the machine falls on one of them.
    """
    ratios: list[float] = []
    while max(ratios, default=0) < 0.9:
        assert len(ratios) < 3, ratios
        alone = await throughput(sandbox, serve, poisoned=False, run=2 * len(ratios))
        among = await throughput(sandbox, serve, poisoned=True, run=2 * len(ratios) + 1)
        ratios.append(among / alone)


def test_places_on_their_way_out_are_limited() -> None:
    """Messages that are being settled leave their slots to others, but no more of them than there are slots."""
    slots = Slots(2)
    assert slots.take_now(9) == 2
    first = [Slot(slots), Slot(slots)]
    for slot in first:
        slot.leave()
        slot.leave()
    assert (slots.free, slots.leaving) == (2, 2)
    assert slots.take_now(9) == 2
    second = [Slot(slots), Slot(slots)]
    second[0].leave()
    assert slots.free == 0, "two are leaving already"
    first[0].close()
    second[0].leave()
    assert (slots.free, slots.leaving) == (1, 2)
    for slot in (first[1], *second):
        slot.close()
    assert (slots.free, slots.leaving) == (2, 0)
