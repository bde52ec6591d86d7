"""Long polls: how fast they wake, and that nothing is dequeued for a client that has gone."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from consumer.sandbox import Sandbox
from consumer.sandbox.queue import State

Reply = tuple[int, dict[str, str], bytes]
Ask = Callable[..., Coroutine[Any, Any, Reply]]
Texts = Callable[[bytes, str], list[str]]
WriteSigned = Callable[..., bytes]

# The promise is milliseconds. What breaks it waits for the end of the poll, 10 s; a busy machine may pause in between.
SOON_S = 3


async def polling(sandbox: Sandbox, count: int = 1) -> None:
    """Wait until this number of long polls is held."""
    await until(lambda: sandbox.account.held_long_polls >= count)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition that has no event."""
    while not condition():  # noqa: ASYNC110 - what is waited for has no event to wait on
        await asyncio.sleep(0.001)


async def test_a_long_poll_wakes_on_a_send(sandbox: Sandbox, ask: Ask, texts: Texts) -> None:
    """A waiting receive is answered within milliseconds of a send."""
    sandbox.account.ensure("q")
    poll = asyncio.create_task(ask("GET", "/queues/q/messages?waitseconds=10"))
    await polling(sandbox)
    began_s = time.monotonic()
    sandbox.put("q", "x")
    status, _, body = await poll
    assert time.monotonic() - began_s < SOON_S
    assert (status, texts(body, "MessageBody")) == (200, ["x"])


@pytest.mark.parametrize("how", ["delay", "visibility", "revoke", "clock"])
async def test_a_long_poll_wakes_when_a_message_becomes_visible(
    sandbox: Sandbox, ask: Ask, texts: Texts, how: str
) -> None:
    """A waiting receive gets a message whose delay or visibility timeout ends meanwhile, in time."""
    queue = sandbox.account.ensure("q").queue
    message = sandbox.put("q", "x", delay_s=1 if how == "delay" else 0)
    if how != "delay":
        (message,) = queue.receive(1, sandbox.clock.now_ms())
        queue.change_visibility(message.handle or "", 1 if how == "visibility" else 3600, sandbox.clock.now_ms())
    due_ms = message.visible_ms
    poll = asyncio.create_task(ask("GET", "/queues/q/messages?waitseconds=10"))
    await polling(sandbox)
    if how in ("delay", "visibility"):
        sandbox.account.advance_clock(0.9)
    if how == "revoke":
        due_ms = sandbox.clock.now_ms()
        queue.revoke(message)
    if how == "clock":
        sandbox.account.advance_clock(3600)
    _, _, body = await poll
    assert texts(body, "MessageBody") == ["x"]
    assert -2 < sandbox.clock.now_ms() - due_ms < SOON_S * 1000


async def test_a_message_hidden_during_a_poll_wakes_it_at_the_new_time(sandbox: Sandbox, ask: Ask) -> None:
    """A lease that is shortened while another client polls ends for that client when it says."""
    queue = sandbox.account.ensure("q").queue
    sandbox.put("q", "x")
    (message,) = queue.receive(1, sandbox.clock.now_ms())
    poll = asyncio.create_task(ask("GET", "/queues/q/messages?waitseconds=10"))
    await polling(sandbox)
    due_ms = queue.change_visibility(message.handle or "", 1, sandbox.clock.now_ms()).visible_ms
    sandbox.account.advance_clock(0.9)
    assert (await poll)[0] == 200
    assert -2 < sandbox.clock.now_ms() - due_ms < SOON_S * 1000


async def test_an_empty_poll_lasts_as_asked(sandbox: Sandbox, ask: Ask) -> None:
    """An empty long poll ends after its wait with 404, taken from the queue's setting when not asked."""
    sandbox.account.create("slow", {"PollingWaitSeconds": "1"})

    async def waited_s(target: str) -> float:
        began_s = time.monotonic()
        assert (await ask("GET", f"/queues/slow/messages{target}"))[0] == 404
        return time.monotonic() - began_s

    explicit_s, by_default_s, none_s = await asyncio.gather(*map(waited_s, ("?waitseconds=1", "", "?waitseconds=0")))
    assert 1 <= explicit_s < 1 + SOON_S
    assert 1 <= by_default_s < 1 + SOON_S
    assert none_s < 1


async def test_polls_share_what_comes(sandbox: Sandbox, ask: Ask, texts: Texts) -> None:
    """Five waiting receives of one get one message each of five sent, none twice."""
    sandbox.account.ensure("q")
    polls = [asyncio.create_task(ask("GET", "/queues/q/messages?waitseconds=10")) for _ in range(5)]
    await polling(sandbox, 5)
    for number in range(5):
        sandbox.put("q", str(number))
    bodies = [texts(body, "MessageBody") for _, _, body in await asyncio.gather(*polls)]
    assert sorted(bodies) == [["0"], ["1"], ["2"], ["3"], ["4"]]


async def test_a_batch_poll_ends_with_the_first_message(sandbox: Sandbox, ask: Ask, texts: Texts) -> None:
    """A batch receive is answered as soon as there is one message."""
    sandbox.account.ensure("q")
    poll = asyncio.create_task(ask("GET", "/queues/q/messages?numOfMessages=16&waitseconds=10"))
    await polling(sandbox)
    sandbox.put("q", "x")
    assert texts((await poll)[2], "MessageBody") == ["x"]


async def test_deleting_the_queue_ends_its_polls(sandbox: Sandbox, ask: Ask, texts: Texts) -> None:
    """A long poll on a queue that is deleted ends at once with QueueNotExist."""
    sandbox.account.ensure("q")
    poll = asyncio.create_task(ask("GET", "/queues/q/messages?waitseconds=10"))
    await polling(sandbox)
    sandbox.account.delete("q")
    assert texts((await poll)[2], "Code") == ["QueueNotExist"]


async def test_nothing_is_dequeued_for_a_socket_that_has_closed(sandbox: Sandbox, write_signed: WriteSigned) -> None:
    """A client leaves a long poll and a message comes in the same instant: it stays, 50 times out of 50."""
    queue = sandbox.account.ensure("q").queue
    for round_ in range(50):
        _, writer = await asyncio.open_connection("127.0.0.1", sandbox.port)
        writer.write(write_signed("GET", "/queues/q/messages?waitseconds=10", leave_out=("Connection",)))
        await polling(sandbox)
        message = sandbox.put("q", str(round_))
        # The poll looks in the next turn of the loop. The socket is shut before, so the loop can't have seen the end of
        # the stream when the poll looks.
        writer.get_extra_info("socket")._sock.shutdown(2)
        await until(lambda: not sandbox.account.held_long_polls)
        assert (message.state, message.dequeue_count) == (State.ACTIVE, 0)
        queue.delete(queue.receive(1, sandbox.clock.now_ms())[0].handle or "", sandbox.clock.now_ms())
        writer.close()


async def test_a_wake_up_for_a_client_that_has_gone_goes_to_the_next(
    sandbox: Sandbox, ask: Ask, texts: Texts, write_signed: WriteSigned
) -> None:
    """When the first waiter has gone, the message it was woken for reaches the second at once."""
    sandbox.account.ensure("q")
    _, writer = await asyncio.open_connection("127.0.0.1", sandbox.port)
    writer.write(write_signed("GET", "/queues/q/messages?waitseconds=10", leave_out=("Connection",)))
    await polling(sandbox)
    second = asyncio.create_task(ask("GET", "/queues/q/messages?waitseconds=10"))
    await polling(sandbox, 2)
    writer.get_extra_info("socket")._sock.shutdown(2)
    began_s = time.monotonic()
    sandbox.put("q", "x")
    assert texts((await second)[2], "MessageBody") == ["x"]
    assert time.monotonic() - began_s < SOON_S
    writer.close()


async def test_a_poll_cancelled_after_its_wake_up_takes_nothing(sandbox: Sandbox, ask: Ask, texts: Texts) -> None:
    """A message whose first waiter is cancelled before it could look reaches the second."""
    mailbox = sandbox.account.ensure("q")
    first = asyncio.create_task(mailbox.polls.receive(1, 10, lambda: False))
    await until(lambda: len(mailbox.polls) == 1)
    second = asyncio.create_task(ask("GET", "/queues/q/messages?waitseconds=10"))
    await polling(sandbox)
    sandbox.put("q", "x")
    first.cancel()
    assert texts((await second)[2], "MessageBody") == ["x"]
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_too_many_long_polls_are_answered_at_once(ask: Ask, write_signed: WriteSigned) -> None:
    """Beyond max_long_polls a poll is answered at once as empty, and the held one goes on."""
    async with Sandbox.on_free_port(max_long_polls=1) as sandbox:
        sandbox.account.ensure("q")

        async def poll() -> bytes:
            reader, writer = await asyncio.open_connection("127.0.0.1", sandbox.port)
            writer.write(write_signed("GET", "/queues/q/messages?waitseconds=10"))
            answer = await reader.read()
            writer.close()
            return answer

        first = asyncio.create_task(poll())
        await polling(sandbox)
        began_s = time.monotonic()
        assert b"MessageNotExist" in await poll()
        assert time.monotonic() - began_s < SOON_S
        sandbox.put("q", "x")
        assert (await first).startswith(b"HTTP/1.1 200")


async def test_a_sandbox_stops_at_once_with_polls_held(write_signed: WriteSigned) -> None:
    """Leaving the block ends held polls and hung requests at once."""
    async with Sandbox.on_free_port() as sandbox:
        sandbox.account.ensure("q")
        reader, writer = await asyncio.open_connection("127.0.0.1", sandbox.port)
        writer.write(write_signed("GET", "/queues/q/messages?waitseconds=30"))
        await polling(sandbox)
        began_s = time.monotonic()
    assert time.monotonic() - began_s < SOON_S
    assert await reader.read() == b""
    writer.close()
