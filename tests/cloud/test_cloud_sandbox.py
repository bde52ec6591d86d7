"""The clients against a server that knows nothing of them: every verb there and back, and its faults."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from consumer.cloud.credentials import Keys, StaticCredentials
from consumer.cloud.mns import MnsQueue
from consumer.cloud.pool import open_pool
from consumer.errors import CloudError, Fault
from consumer.functions.request import JobRequest
from consumer.sandbox import Fault as Broken
from consumer.sandbox import Sandbox, SandboxSettings


@pytest.mark.parametrize(
    "body",
    [
        pytest.param("plain", id="plain"),
        pytest.param('{"a": "<&>\\"\'"}', id="markup"),
        pytest.param("a\r\nb\rc\td\n", id="line ends"),
        pytest.param("中文 😀", id="beyond ASCII"),
        pytest.param("x" * 65_536, id="64 KB"),
    ],
)
async def test_a_body_comes_back_as_it_was_sent(local: Any, body: str) -> None:
    """What is sent is received byte for byte, peeked before, and deleted for good."""
    message_id = await local.queue.send(body, priority=3)
    (peeked,) = await local.queue.peek(16)
    assert (peeked.message_id, peeked.body, peeked.dequeue_count) == (message_id, body.encode(), 0)
    batch = await local.queue.receive(16, 1)
    (message,) = batch.messages
    assert (message.message_id, message.body) == (message_id, body.encode())
    assert (message.priority, message.dequeue_count, batch.problems) == (3, 1, [])
    assert abs(message.enqueued_at - time.time()) < 5
    assert 27 < message.receipt.expires_at - time.monotonic() <= 30
    assert await local.queue.delete([message.receipt.handle]) == ()
    assert local.sandbox.messages("q") == []


async def test_a_full_batch(local: Any) -> None:
    """Sixteen messages come in one receive and go in one delete."""
    for number in range(20):
        local.sandbox.put("q", f"m{number}")
    batch = await local.queue.receive(16, 0)
    assert len(batch.messages) == 16
    assert await local.queue.delete([message.receipt.handle for message in batch.messages]) == ()
    assert len(local.sandbox.messages("q")) == 4


async def test_an_empty_queue(local: Any) -> None:
    """An empty queue is an empty batch, after the wait that was asked for."""
    assert (await local.queue.receive(16, 0)).messages == ()
    batch = await local.queue.receive(16, 1)
    assert (batch.messages, batch.server_offset_s) == ((), 0.0)
    assert 0.9 < batch.elapsed_s < 3
    assert await local.queue.peek(16) == ()
    assert local.observed[-1] == ("BatchPeekMessage", "ok")


async def test_a_long_poll_wakes(local: Any) -> None:
    """A message that arrives during a long poll ends it."""
    poll = asyncio.create_task(local.queue.receive(16, 20))
    await asyncio.sleep(0.1)
    local.sandbox.put("q", "now")
    assert len((await poll).messages) == 1


async def test_a_cancelled_poll_takes_nothing(local: Any) -> None:
    """After a poll was cancelled, its message goes to the next one."""
    poll = asyncio.create_task(local.queue.receive(16, 20))
    await asyncio.sleep(0.1)
    poll.cancel()
    await asyncio.sleep(0.1)
    local.sandbox.put("q", "later")
    assert (await local.queue.receive(16, 5)).messages[0].dequeue_count == 1


async def test_hiding_gives_a_new_handle_and_kills_the_old(local: Any) -> None:
    """After hiding, the new receipt deletes; by the old one, hiding is gone and deleting a failure."""
    local.sandbox.put("q", "m")
    (message,) = (await local.queue.receive(1, 0)).messages
    receipt = await local.queue.hide(message.receipt.handle, 90)
    assert 87 < receipt.expires_at - time.monotonic() <= 90
    with pytest.raises(CloudError) as caught:
        await local.queue.hide(message.receipt.handle, 90)
    assert caught.value.fault is Fault.GONE
    (failure,) = await local.queue.delete([message.receipt.handle, receipt.handle])
    assert (failure.handle, failure.gone) == (message.receipt.handle, True)
    assert local.sandbox.messages("q") == []


async def test_a_delayed_message_waits(local: Any) -> None:
    """A delay hides a message from the start; attributes don't count it (facts/mns.md#get-queue-attributes)."""
    await local.queue.send("m", delay_s=60)
    assert (await local.queue.receive(1, 0)).messages == ()
    counts = await local.queue.attributes()
    assert (counts.active_messages, counts.delayed_messages) == (0, 0)


async def test_attributes(local: Any) -> None:
    """A queue's settings and counts are read."""
    local.sandbox.put("q", "m")
    found = await local.queue.attributes()
    assert (found.name, found.visibility_timeout_s, found.retention_s) == ("q", 30, 345_600)
    assert (found.max_message_bytes, found.active_messages) == (65_536, 1)


async def test_groups_of_a_fifo_queue() -> None:
    """A group id goes out and comes back."""
    settings = SandboxSettings(port=0, fifo_queues=frozenset({"f"}))
    async with Sandbox(settings) as sandbox, open_pool() as pool:
        sandbox.account.ensure("f")
        source = StaticCredentials(Keys("sandbox", "sandbox"))
        queue = MnsQueue(endpoint=sandbox.url, queue="f", credentials=source, pool=pool)
        await queue.send("m", group_id="g")
        assert (await queue.receive(1, 0)).messages[0].group_id == "g"


async def test_sts_over_tls(authority: Any) -> None:
    """Keys with a token work over https with an own authority; wrong keys are a fault of the credentials."""
    settings = SandboxSettings(port=0, security_token="token", tls=authority.server)
    async with Sandbox(settings) as sandbox, open_pool(ca_file=authority.ca_file) as pool:
        sandbox.account.ensure("q")
        good, bad = (
            MnsQueue(endpoint=sandbox.url, queue="q", credentials=StaticCredentials(keys), pool=pool)
            for keys in (Keys("sandbox", "sandbox", "token"), Keys("sandbox", "wrong", "token"))
        )
        await good.send("m")
        assert len((await good.receive(1, 0)).messages) == 1
        with pytest.raises(CloudError) as caught:
            await bad.receive(1, 0)
        assert caught.value.fault is Fault.CREDENTIALS


async def test_a_missing_queue(local: Any) -> None:
    """A queue that does not exist is a fault of its own."""
    async with open_pool() as pool:
        source = StaticCredentials(Keys("sandbox", "sandbox"))
        queue = MnsQueue(endpoint=local.sandbox.url, queue="nowhere", credentials=source, pool=pool)
        with pytest.raises(CloudError) as caught:
            await queue.attributes()
    assert caught.value.fault is Fault.MISSING


@pytest.mark.parametrize(
    ("broken", "fault"),
    [
        pytest.param(Broken(kind="drop"), Fault.NETWORK, id="dropped before"),
        pytest.param(Broken(kind="drop_after"), Fault.NETWORK, id="dropped after"),
        pytest.param(Broken(kind="truncate"), Fault.NETWORK, id="cut short"),
        pytest.param(Broken(kind="html", status=200), Fault.UNREADABLE, id="200 HTML"),
        pytest.param(Broken(kind="html", status=502), Fault.SERVER, id="502 HTML"),
        pytest.param(Broken(kind="redirect"), Fault.UNREADABLE, id="redirect"),
        pytest.param(Broken(kind="error", status=503, xml=False), Fault.SERVER, id="503 without a body"),
        pytest.param(Broken(kind="error", status=429), Fault.THROTTLED, id="429"),
    ],
)
async def test_each_fault_is_raised_and_passes(local: Any, broken: Broken, fault: Fault) -> None:
    """A fault of the server becomes ours, the server saw the request once, and the next one works."""
    local.sandbox.put("q", "m")
    local.sandbox.faults.add(broken.model_copy(update={"count": 1}))
    with pytest.raises(CloudError) as caught:
        await local.queue.receive(16, 0)
    assert caught.value.fault is fault
    assert caught.value.retryable
    assert sum(local.sandbox.faults.applied.values()) == 1
    assert (await local.queue.attributes()).name == "q"


async def test_an_answer_without_a_request_id_is_known_by_its_body(local: Any) -> None:
    """A message and an empty queue are read all the same, since both answers name MNS's namespace."""
    local.sandbox.faults.add(Broken(kind="no_request_id", count=2))
    local.sandbox.put("q", "m")
    assert [message.body for message in (await local.queue.receive(16, 0)).messages] == [b"m"]
    assert (await local.queue.receive(16, 0)).messages == ()
    assert sum(local.sandbox.faults.applied.values()) == 2


async def test_failing_entries_of_a_delete(local: Any) -> None:
    """Of a batch delete in which one entry fails, only that one is named and still there."""
    for number in range(3):
        local.sandbox.put("q", f"m{number}")
    messages = (await local.queue.receive(16, 0)).messages
    local.sandbox.faults.add(Broken(kind="entry_error", operations=("BatchDeleteMessage",), count=1))
    (failure,) = await local.queue.delete([message.receipt.handle for message in messages])
    assert (failure.gone, failure.retryable) == (False, True)
    assert len(local.sandbox.messages("q")) == 1


async def test_a_job_from_submission_to_its_result(local: Any) -> None:
    """A submitted job notifies its queue, and a query brings its result and UserData as they were given."""
    user_data = '{"order": "é /+&=%"}'
    request = JobRequest(
        function="Cover",
        input="oss://b.oss-cn-hangzhou.aliyuncs.com/a.mp4",
        output="oss://b.oss-cn-hangzhou.aliyuncs.com/{source}-{sequenceId}.jpg",
        user_data=user_data,
        notify_url=local.sandbox.notify_url("q"),
    )
    submitted = await local.mps.submit(request.parameters())
    assert len((await local.queue.receive(1, 10)).messages) == 1
    answer = await local.mps.query(submitted.job_id)
    assert (answer.function, answer.state, answer.user_data, answer.found) == ("Cover", "Success", user_data, True)
    assert answer.result is not None


async def test_an_unknown_job_is_not_found(local: Any) -> None:
    """A job that MPS does not know as one of these is answered, and not found."""
    assert not (await local.mps.query("0" * 32)).found


@pytest.mark.alone
async def test_a_hundred_a_second_are_never_throttled(local: Any) -> None:
    """Concurrent queries keep at least 95 a second, and MPS's limit of 100 never strikes."""
    await local.mps.warm_up()
    times: list[float] = []

    async def ask() -> None:
        await local.mps.query("0" * 32)
        times.append(time.monotonic())

    await asyncio.gather(*(ask() for _ in range(250)))
    # The best second: a machine that pauses loses turns, and the limiter does not make them good.
    assert max(sum(1 for t in times if start <= t < start + 1) for start in times) >= 95
