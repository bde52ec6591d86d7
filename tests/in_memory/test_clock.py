"""The clock of this folder's tests: it jumps to the next timer, and waits for sockets and threads."""

from __future__ import annotations

import asyncio
import time
from functools import partial

import anyio
import anyio.to_thread

from tests.in_memory.clock import Clock


async def test_a_sleep_takes_its_time_and_no_more() -> None:
    """Sleeps end in their order, at exactly their time, whatever their length."""
    began_s, order = time.monotonic(), list[tuple[float, float]]()

    async def sleeper(seconds: float) -> None:
        await anyio.sleep(seconds)
        order.append((seconds, round(time.monotonic() - began_s, 6)))

    async with anyio.create_task_group() as tasks:
        for seconds in (86_400, 1, 0.25):
            tasks.start_soon(sleeper, seconds)
    assert order == [(0.25, 0.25), (1, 1), (86_400, 86_400)]


async def test_deadlines_and_wall_time_follow() -> None:
    """Deadlines of anyio, the loop's time and the wall clock are one clock."""
    wall_s = time.time()
    with anyio.move_on_after(3600) as scope:
        await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert time.time() - wall_s == 3600
    assert asyncio.get_running_loop().time() == anyio.current_time() == time.monotonic()


async def test_what_was_sent_arrives_before_the_clock_moves() -> None:
    """A server and a client of this process exchange bytes before the clock moves."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readline())
        await writer.drain()
        writer.close()

    began_s = time.monotonic()
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        with anyio.fail_after(1):
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
            writer.write(b"hello\n")
            assert await reader.readline() == b"hello\n"
        writer.close()
        await writer.wait_closed()
    assert time.monotonic() == began_s


async def test_a_thread_at_work_stops_the_clock(clock: Clock) -> None:
    """While a worker thread works no timer runs; one that sleeps by the clock wakes at its time."""
    loop, began_s = asyncio.get_running_loop(), time.monotonic()

    def works() -> float:
        for _ in range(100_000):
            pass
        clock.sleep(7, loop)
        for _ in range(100_000):
            pass
        return time.monotonic()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(anyio.sleep, 3600)
        assert await anyio.to_thread.run_sync(works) - began_s == 7
        tasks.cancel_scope.cancel()


async def test_one_that_waits_for_a_thread_does_not_stop_the_clock(clock: Clock) -> None:
    """With one thread for two calls that sleep, the second begins when the first has ended."""
    loop, began_s, limiter = asyncio.get_running_loop(), time.monotonic(), anyio.CapacityLimiter(1)
    async with anyio.create_task_group() as tasks:
        for _ in range(2):
            tasks.start_soon(partial(anyio.to_thread.run_sync, clock.sleep, 5, loop, limiter=limiter))
    assert time.monotonic() - began_s == 10
