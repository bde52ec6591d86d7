"""Late messages and small batches: the real service has them, the sandbox only if its settings ask for them."""

import random
from collections.abc import Awaitable, Callable

import pytest

from consumer.sandbox import Sandbox
from consumer.sandbox.protocol import MnsError
from consumer.sandbox.queue import Message, Queue, QueueAttributes

Texts = Callable[[bytes, str], list[str]]
BATCH = "/queues/q/messages?numOfMessages=16"


def hidden(late_ms: int, seed: int) -> tuple[Queue, str]:
    """A queue with one message that was received at 0 and hidden for 5 s, and the handle that came of it."""
    chance = random.Random(seed)  # noqa: S311 - lateness that a test can repeat
    queue = Queue("q", QueueAttributes(), created_ms=0, chance=chance, late_ms=late_ms)
    queue.send(Message("x"), 0)
    (message,) = queue.receive(1, 0)
    message = queue.change_visibility(message.handle or "", 5, 0)
    assert message.visible_ms == 5000
    return queue, message.handle or ""


def test_a_hidden_message_can_come_late() -> None:
    """A hidden message comes between half of the time and all of it late, while its handle ends when it should."""
    due = set()
    for seed in range(40):
        queue, handle = hidden(10_000, seed)
        with pytest.raises(MnsError, match="MessageNotExist"):
            queue.delete(handle, 5000)
        due_ms = queue.next_due_ms() or 0
        assert queue.receive(1, due_ms - 1) == []
        assert len(queue.receive(1, due_ms)) == 1
        due.add(due_ms)
    assert min(due) >= 10_000
    assert max(due) <= 15_000
    assert len(due) > 1


def test_without_slack_a_hidden_message_is_on_time() -> None:
    """Without slack a hidden message is there at its NextVisibleTime."""
    queue, _ = hidden(0, 1)
    assert queue.receive(1, 4999) == []
    assert len(queue.receive(1, 5000)) == 1


async def test_lateness_is_a_setting() -> None:
    """The setting reaches queues that are made later, and the answer still has the time that was asked for."""
    async with Sandbox.on_free_port(late_redelivery_s=60) as sandbox:
        sandbox.put("q", "x")
        queue = sandbox.account.get("q").queue
        (message,) = queue.receive(1, 0)
        now_ms = sandbox.clock.now_ms()
        assert queue.change_visibility(message.handle or "", 1, 0).visible_ms == 1000
        assert now_ms > (queue.next_due_ms() or 0) >= 31_000


@pytest.mark.parametrize("is_small", [True, False])
async def test_batches_can_be_small(
    exchanged: Callable[[Sandbox, str], Awaitable[bytes]],
    texts: Texts,
    is_small: bool,  # noqa: FBT001 - a parametrized case
) -> None:
    """A batch receive brings all sixteen messages that are there; with small batches fewer at a time, none is lost."""
    sizes = set()
    async with Sandbox.on_free_port(small_batches=is_small) as sandbox:
        for _ in range(6):
            for _ in range(16):
                sandbox.put("q", "x")
            come = 0
            while come < 16:
                size = len(texts(await exchanged(sandbox, BATCH), "MessageId"))
                assert 1 <= size <= 16
                sizes.add(size)
                come += size
            assert come == 16
    assert (len(sizes) > 1) == is_small
