"""Handlers with a limit of their own starve nobody."""

from __future__ import annotations

import time

import anyio
import pytest

from consumer.engine.slots import Slot, Slots
from consumer.plugin.handler import Limits, Note, build
from consumer.plugin.job import Job
from consumer.plugin.registry import Registry
from consumer.sandbox import Sandbox
from tests.engine.rig import QUEUE, Serve, body

SLOTS = 8


@pytest.mark.alone
async def test_a_limited_handler_leaves_the_slots_to_others(sandbox: Sandbox, serve: Serve) -> None:
    """With more messages than slots for a slow handler of concurrency 1, all others are handled at once."""
    seen: list[str] = []
    running = most = 0

    async def cover(job: Job) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await anyio.sleep(0.5)
        running -= 1

    async def clip(job: Job) -> None:
        seen.append(job.job_id)

    for number in range(3 * SLOTS):
        sandbox.put(QUEUE, body(f"c{number}").decode())
    for number in range(20):
        sandbox.put(QUEUE, body(f"v{number}", "VideoClip").decode())
    registry = Registry(
        {
            "Cover": build(cover, Note("Cover", Limits(concurrency=1))),
            "VideoClip": build(clip, Note("VideoClip", Limits())),
        }
    )
    async with serve(registry, slots=SLOTS) as daemon:
        slots = daemon.app.lanes[0].slots
        began_at = time.monotonic()
        await daemon.until(lambda: len(seen) == 20)
        assert time.monotonic() - began_at < 3
        assert slots.aside <= SLOTS
        # The others were given back without a failure, and wait in the queue.
        assert daemon.count("jobs_total", queue=QUEUE, function="Cover", outcome="released") >= SLOTS
        assert daemon.count("retries_total", queue=QUEUE, function="Cover", cause="failed") == 0
        assert await daemon.stop() < 3
    assert most == 1
    assert (slots.aside, slots.free) == (0, SLOTS)


async def test_all_messages_of_a_limited_handler_are_handled(sandbox: Sandbox, serve: Serve) -> None:
    """Those that stood aside take their slots again, one after the other, each once."""
    seen: list[str] = []

    async def cover(job: Job) -> None:
        await anyio.sleep(0.02)
        seen.append(job.job_id)

    for number in range(2 * SLOTS):
        sandbox.put(QUEUE, body(f"c{number}").decode())
    registry = Registry({"Cover": build(cover, Note("Cover", Limits(concurrency=2)))})
    async with serve(registry, slots=SLOTS) as daemon:
        await daemon.emptied(15)
    assert sorted(seen) == sorted(f"c{number}" for number in range(2 * SLOTS))


async def test_who_stood_aside_comes_before_new_messages() -> None:
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


async def test_a_wait_for_a_place_that_is_cancelled_loses_none() -> None:
    """A message that gives up while it waits for its slot, also at the very moment, leaves all slots to others."""
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


def test_only_so_many_stand_aside() -> None:
    """As many messages as there are slots may wait without one; the next one is told to go."""
    slots = Slots(2)
    for expected in (True, True, False):
        slots.take_now(1)
        assert Slot(slots).step_aside() is expected


pytestmark = pytest.mark.timeout(30)
