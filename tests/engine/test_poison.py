"""Poison is set aside whole, and takes no slot from good messages."""

from __future__ import annotations

from collections.abc import Callable

from consumer.engine.slots import Slot, Slots
from consumer.plugin.handler import Job
from consumer.policy import Reason
from consumer.sandbox import Sandbox, SandboxJob
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
        if reason is Reason.JOB_FAILED:
            sandbox.add_job(SandboxJob(job_id=f"p{number:030x}f", function="Picky", state="Fail"))
    async with serve(handlers(Cover=good, Typed=typed, Picky=picky)) as daemon:
        await daemon.emptied(15)
        assert daemon.count("jobs_total", queue=QUEUE, function="Cover", outcome="done") == GOOD
        letters = await daemon.letters()
    assert sorted((letter.letter.reason, letter.letter.body) for letter in letters) == sorted(sent)


def test_messages_that_settle_without_a_slot_are_limited() -> None:
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
