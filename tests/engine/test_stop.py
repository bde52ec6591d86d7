"""Stopping: in order, in time, with nothing lost."""

from __future__ import annotations

import time

import anyio

from consumer.plugin.handler import Job, Limits, Note, build
from consumer.plugin.registry import Registry
from consumer.sandbox import Sandbox
from tests.engine.rig import QUEUE, Serve, body, handlers


async def nothing(job: Job) -> None:
    """Does nothing."""


async def test_running_handlers_finish_before_the_end(sandbox: Sandbox, serve: Serve) -> None:
    """A stop waits for the running handler, whose message is then deleted."""
    begun = anyio.Event()
    ended = False

    async def cover(job: Job) -> None:
        nonlocal ended
        begun.set()
        await anyio.sleep(1)
        ended = True

    sandbox.put(QUEUE, body().decode())
    async with serve(handlers(Cover=cover)) as daemon:
        await begun.wait()
        await daemon.stop()
    assert ended
    assert not sandbox.messages(QUEUE)


async def test_what_has_not_started_is_given_back(sandbox: Sandbox, serve: Serve) -> None:
    """Messages that wait for a busy handler are visible again within 2 s of the stop."""
    begun = anyio.Event()

    async def cover(job: Job) -> None:
        begun.set()
        await anyio.sleep(1)

    for number in range(4):
        sandbox.put(QUEUE, body(f"{number:032x}").decode())
    registry = Registry({"Cover": build(cover, Note("Cover", Limits(concurrency=1)))})
    async with serve(registry) as daemon:
        await begun.wait()
        await anyio.sleep(0.3)
        stopped_at = time.time()
        await daemon.stop()
        left = sandbox.messages(QUEUE)
        assert len(left) == 3
        assert all(message.visible_ms / 1000 <= stopped_at + 2 for message in left)


async def test_a_second_stop_skips_the_waiting(sandbox: Sandbox, serve: Serve) -> None:
    """After a second signal the daemon ends within 2 s though a handler runs; done messages are still deleted."""
    begun = anyio.Event()

    async def slow(job: Job) -> None:
        begun.set()
        await anyio.sleep(60)

    async def quick(job: Job) -> None:
        await begun.wait()

    sandbox.put(QUEUE, body("1" * 32, "Slow").decode())
    sandbox.put(QUEUE, body("2" * 32, "Quick").decode())
    async with serve(handlers(Slow=slow, Quick=quick)) as daemon:
        await begun.wait()
        daemon.app.stop()
        assert await daemon.stop() < 2
        assert len(sandbox.messages(QUEUE)) == 1
