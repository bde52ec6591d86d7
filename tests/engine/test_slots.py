"""Slots are taken before messages are received, by several polls at once."""

from __future__ import annotations

import time
from collections.abc import Callable

import anyio
import pytest

from consumer.engine.slots import Slot, Slots

pytestmark = pytest.mark.anyio


async def _taking(slots: Slots, count: int, patience_s: float, taken: list[int]) -> None:
    if await slots.take_all(count, patience_s):
        taken.append(count)


async def _soon(holds: Callable[[], bool]) -> None:
    with anyio.fail_after(2):
        while not holds():  # noqa: ASYNC110 - a plain look is enough here
            await anyio.sleep(0.001)


async def test_all_or_none() -> None:
    """A poll that wants sixteen slots and doesn't get them in time takes none."""
    slots = Slots(20)
    slots.take_now(10)
    assert not await slots.take_all(16, 0.01)
    assert slots.free == 10
    slots.give_back(6)
    assert await slots.take_all(16, 0.01)
    assert slots.free == 0


async def test_several_wait_and_each_gets_its_own() -> None:
    """Released slots go to the polls that wait for them; no slot is given twice."""
    slots = Slots(32)
    taken: list[int] = []
    slots.take_now(32)
    async with anyio.create_task_group() as polls:
        for _ in range(2):
            polls.start_soon(_taking, slots, 16, 1.0, taken)
        await anyio.sleep(0.01)
        slots.give_back(15)
        await anyio.sleep(0.01)
        assert taken == []
        slots.give_back(1)
        await _soon(lambda: taken == [16])
        assert slots.free == 0
        slots.give_back(16)
    assert taken == [16, 16]
    assert slots.free == 0


async def test_lingering_ends_early_for_unused_slots() -> None:
    """Slots that come back unused end the wait for more: the next poll begins at once."""
    slots = Slots(16)
    slots.take_now(16)
    slot = Slot(slots)
    begun_s = time.monotonic()
    async with anyio.create_task_group() as polls:
        polls.start_soon(slots.take, 16, 5.0)
        await anyio.sleep(0.01)
        slot.leave(unused=True)
    assert time.monotonic() - begun_s < 2
    assert slots.total - slots.free == 16


async def test_a_message_that_gave_its_slot_up_comes_before_new_ones() -> None:
    """A slot that gets free goes to the message whose turn has come, not to a poll that waited longer."""
    slots = Slots(1)
    assert slots.take_now(1) == 1
    slot = Slot(slots)
    assert slot.step_aside()
    other = Slot(slots)
    assert slots.take_now(1) == 1
    order: list[str] = []

    async def poll() -> None:
        await slots.take(1, 0)
        order.append("poll")

    async def come_back() -> None:
        await slot.come_back()
        order.append("back")

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(poll)
            await anyio.sleep(0.01)
            tasks.start_soon(come_back)
            await anyio.sleep(0.01)
            other.close()
            await anyio.sleep(0.01)
            assert order == ["back"]
            slot.close()
    assert order == ["back", "poll"]


async def test_a_cancelled_wait_for_a_slot_loses_none() -> None:
    """A message that is cancelled while it waits for its slot, also when it just got it, loses no slot."""
    slots = Slots(1)
    slots.take_now(1)
    slot = Slot(slots)
    assert slot.step_aside()
    slots.take_now(1)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(slot.come_back)
        await anyio.sleep(0.01)
        slots.give_back(1)
        tasks.cancel_scope.cancel()
    slot.close()
    assert (slots.free, slots.aside) == (1, 0)


def test_as_many_wait_without_a_slot_as_there_are_slots() -> None:
    """As many messages as there are slots may wait without one; the next one is refused."""
    slots = Slots(2)
    for expected in (True, True, False):
        slots.take_now(1)
        assert Slot(slots).step_aside() is expected
