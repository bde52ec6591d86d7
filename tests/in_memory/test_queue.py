"""What the engine needs of a queue: one suite for the queue in memory, and for the real client with the sandbox."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import anyio
import pytest

from consumer.cloud.credentials import Keys, StaticCredentials
from consumer.cloud.messages import Batch
from consumer.cloud.mns import MnsQueue
from consumer.cloud.pool import open_pool
from consumer.errors import CloudError, Fault
from consumer.sandbox import Fault as SandboxFault
from consumer.sandbox import Sandbox
from tests.in_memory.queue import MemoryQueue, Verb

NAME = "jobs"
VISIBILITY_S = 10


@dataclass
class Rig:
    """A queue, and what a test does to it."""

    queue: MemoryQueue | MnsQueue
    put: Callable[[bytes], object]
    fail: Callable[[Verb, bool], None]
    """Let the next call of a verb fail; with ``True`` its effect is there and its answer is lost."""
    pass_time: Callable[[float], Awaitable[None]]


@pytest.fixture(params=["memory", "sandbox"])
async def rig(request: pytest.FixtureRequest) -> AsyncIterator[Rig]:
    if request.param == "memory":
        queue = MemoryQueue(NAME, visibility_s=VISIBILITY_S)
        yield Rig(queue, queue.put, lambda verb, after: queue.fail(verb, Fault.NETWORK, after=after), anyio.sleep)
        return
    # The SDK signs by the computer's clock, not by the one of these tests.
    async with Sandbox.on_free_port(verify_signatures=False) as sandbox, open_pool() as pool:
        sandbox.account.create(NAME, {"VisibilityTimeout": str(VISIBILITY_S), "PollingWaitSeconds": "0"})

        def fail(verb: Verb, after: bool) -> None:  # noqa: FBT001 - as the other one
            kind = "drop_after" if after else "drop"
            sandbox.faults.add(SandboxFault.model_validate({"kind": kind, "operations": (verb,), "count": 1}))

        yield Rig(
            MnsQueue(
                endpoint=sandbox.url,
                queue=NAME,
                credentials=StaticCredentials(Keys("sandbox", "sandbox")),
                pool=pool,
            ),
            lambda body: sandbox.put(NAME, body.decode()),
            fail,
            anyio.sleep,
        )


async def received(rig: Rig, count: int = 16) -> Batch:
    return await rig.queue.receive(count, 0)


async def test_what_is_sent_is_received_once(rig: Rig) -> None:
    """A received message is hidden: another receive does not bring it, and its first receipt says for how long."""
    rig.put(b"one")
    (message,) = (await received(rig)).messages
    assert (message.body, message.dequeue_count, message.group_id) == (b"one", 1, None)
    assert abs(message.enqueued_at - time.time()) < 2
    assert VISIBILITY_S - 3 <= message.receipt.expires_at - time.monotonic() <= VISIBILITY_S
    assert not (await received(rig)).messages


async def test_a_batch_is_no_larger_than_asked(rig: Rig) -> None:
    """A receive brings at most as many as it asks for, the oldest first."""
    for number in range(20):
        rig.put(f"{number}".encode())
    assert [message.body for message in (await received(rig, 3)).messages] == [b"0", b"1", b"2"]
    assert len((await received(rig, 16)).messages) == 16
    assert len((await received(rig, 16)).messages) == 1


async def test_a_hidden_message_comes_back(rig: Rig) -> None:
    """When its visibility timeout ends a message is received again: same id, a new handle, one more dequeue."""
    rig.put(b"one")
    (first,) = (await received(rig)).messages
    await rig.pass_time(VISIBILITY_S + 1)
    (second,) = (await received(rig)).messages
    assert second.message_id == first.message_id
    assert second.receipt.handle != first.receipt.handle
    assert second.dequeue_count == 2
    assert abs(second.first_dequeued_at - first.first_dequeued_at) < 0.01


async def test_a_hide_replaces_the_handle(rig: Rig) -> None:
    """The previous handle no longer hides or deletes; the new one is valid for the time asked for."""
    rig.put(b"one")
    (message,) = (await received(rig)).messages
    renewed = await rig.queue.hide(message.receipt.handle, 60)
    assert 57 <= renewed.expires_at - time.monotonic() <= 60
    with pytest.raises(CloudError) as raised:
        await rig.queue.hide(message.receipt.handle, 60)
    assert raised.value.fault is Fault.GONE
    (failure,) = await rig.queue.delete([message.receipt.handle])
    assert (failure.handle, failure.gone, failure.retryable) == (message.receipt.handle, True, False)
    await rig.pass_time(VISIBILITY_S + 1)
    assert not (await received(rig)).messages
    assert list(await rig.queue.delete([renewed.handle])) == []


async def test_a_handle_dies_with_its_lease(rig: Rig) -> None:
    """After the lease's end neither a hide nor a delete works, even before the message is received again."""
    rig.put(b"one")
    (message,) = (await received(rig)).messages
    await rig.pass_time(VISIBILITY_S + 1)
    with pytest.raises(CloudError) as raised:
        await rig.queue.hide(message.receipt.handle, 60)
    assert raised.value.fault is Fault.GONE
    (failure,) = await rig.queue.delete([message.receipt.handle])
    assert failure.gone
    assert len((await received(rig)).messages) == 1


async def test_a_delete_says_what_was_left(rig: Rig) -> None:
    """Of many handles the invalid ones are named, and the messages of the others are deleted."""
    rig.put(b"one")
    rig.put(b"two")
    one, two = (await received(rig)).messages
    assert list(await rig.queue.delete([one.receipt.handle])) == []
    failures = await rig.queue.delete([one.receipt.handle, two.receipt.handle])
    assert [failure.handle for failure in failures] == [one.receipt.handle]
    await rig.pass_time(VISIBILITY_S + 1)
    assert not (await received(rig)).messages


async def test_a_hide_of_a_second_is_a_retry(rig: Rig) -> None:
    """A message that is hidden for a second is there again after it."""
    rig.put(b"one")
    (message,) = (await received(rig)).messages
    await rig.queue.hide(message.receipt.handle, 1)
    assert not (await received(rig)).messages
    await rig.pass_time(1.1)
    assert [again.dequeue_count for again in (await received(rig)).messages] == [2]


async def test_a_long_poll_ends_with_the_first_message(rig: Rig) -> None:
    """A receive on an empty queue waits as long as asked, and no longer than until a message comes."""
    began_s = time.monotonic()
    assert not (await rig.queue.receive(16, 3)).messages
    assert 2.9 <= time.monotonic() - began_s < 4
    answers: list[Batch] = []

    async def poll() -> None:
        answers.append(await rig.queue.receive(16, 30, on_answer=lambda: answered.append(True)))

    answered: list[bool] = []
    began_s = time.monotonic()
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(poll)
            await anyio.sleep(0.5)
            assert answered == []
            rig.put(b"one")
    assert time.monotonic() - began_s < 4
    assert (len(answers[0].messages), answered) == (1, [True])
    assert 0.4 < answers[0].elapsed_s < 4


async def test_a_long_poll_sees_a_message_come_back(rig: Rig) -> None:
    """A message whose visibility timeout ends during a long poll is received by it."""
    rig.put(b"one")
    (message,) = (await received(rig)).messages
    await rig.queue.hide(message.receipt.handle, 2)
    began_s = time.monotonic()
    assert len((await rig.queue.receive(16, 30)).messages) == 1
    assert 1.9 <= time.monotonic() - began_s < 4


async def test_a_cancelled_poll_takes_nothing(rig: Rig) -> None:
    """A poll that is cancelled before a message came leaves it to the next one."""
    with anyio.move_on_after(0.5):
        await rig.queue.receive(16, 30)
    rig.put(b"one")
    assert len((await received(rig)).messages) == 1


async def test_attributes(rig: Rig) -> None:
    """A queue's attributes have its visibility timeout, its retention and its number of messages."""
    rig.put(b"one")
    rig.put(b"two")
    await received(rig, 1)
    found = await rig.queue.attributes()
    assert (found.name, found.visibility_timeout_s, found.retention_s) == (NAME, VISIBILITY_S, 345_600)
    assert (found.active_messages, found.inactive_messages) == (1, 1)


@pytest.mark.parametrize("verb", ["receive", "hide", "delete"])
async def test_a_call_that_fails_has_no_effect(rig: Rig, verb: Verb) -> None:
    """A request that never arrived is a network fault, and everything is as it was."""
    rig.put(b"one")
    (message,) = (await received(rig)).messages
    rig.fail(verb, False)  # noqa: FBT003 - said by its name
    with pytest.raises(CloudError) as raised:
        await call(rig, verb, message.receipt.handle)
    assert (raised.value.fault, raised.value.retryable) == (Fault.NETWORK, True)
    assert list(await rig.queue.delete([message.receipt.handle])) == []


async def test_a_lost_answer_has_its_effect(rig: Rig) -> None:
    """If only the answer is lost, the call had its effect: hidden, deleted, received."""
    for body in (b"one", b"two", b"three"):
        rig.put(body)
    one, two = (await received(rig, 2)).messages
    for verb, handle in (("hide", one.receipt.handle), ("delete", two.receipt.handle), ("receive", "")):
        rig.fail(verb, True)  # type: ignore[arg-type]  # noqa: FBT003 - said by its name
        with pytest.raises(CloudError) as raised:
            await call(rig, verb, handle)
        assert raised.value.fault is Fault.NETWORK
    assert not (await received(rig)).messages
    failures = await rig.queue.delete([one.receipt.handle, two.receipt.handle])
    assert [failure.gone for failure in failures] == [True, True]


async def call(rig: Rig, verb: str, handle: str) -> None:
    match verb:
        case "receive":
            await rig.queue.receive(16, 0)
        case "hide":
            await rig.queue.hide(handle, 20)
        case _:
            await rig.queue.delete([handle])
