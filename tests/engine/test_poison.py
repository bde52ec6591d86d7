"""Poison among the good: set aside whole, and never in the way."""

from __future__ import annotations

import time
from collections.abc import Callable

from consumer.plugin.job import Job
from consumer.policy import Reason
from consumer.sandbox import Sandbox
from tests.engine.rig import QUEUE, Serve, body, handlers

GOOD = 400
"""Good messages, and as many poisoned ones among them."""

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
    async with serve(handlers(Cover=good, Typed=typed, Picky=picky)) as daemon:
        await daemon.emptied(15)
        assert daemon.count("jobs_total", queue=QUEUE, function="Cover", outcome="done") == GOOD
        letters = await daemon.letters()
    assert sorted((letter.letter.reason, letter.letter.body) for letter in letters) == sorted(sent)


async def test_poison_does_not_slow_the_good(sandbox: Sandbox, serve: Serve) -> None:
    """Beside a stream of poison the good jobs take no turn longer: every one starts within the same second."""
    for number in range(GOOD):
        sandbox.put(QUEUE, POISONED[number % len(POISONED)][1](number).decode())
    async with serve(handlers(Cover=good, Typed=typed, Picky=picky)) as daemon:
        await daemon.emptied(15)
        sandbox.put(QUEUE, body().decode())
        began_at = time.monotonic()
        await daemon.emptied()
        assert time.monotonic() - began_at < 1
