"""Each fault as a client receives it, and how faults are selected and counted."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consumer.sandbox import Fault, Faults, Sandbox
from consumer.sandbox.protocol import JOB_OPERATIONS, QUEUE_OPERATIONS
from consumer.sandbox.queue import State

Reply = tuple[int, dict[str, str], bytes]
Ask = Callable[..., Awaitable[Reply]]
Texts = Callable[[bytes, str], list[str]]
WriteSigned = Callable[..., bytes]
SendBytes = Callable[[bytes], Awaitable[bytes]]

BATCH = "/queues/q/messages?numOfMessages=16"


def fault(kind: str, **values: Any) -> Fault:
    return Fault.model_validate({"kind": kind, **values})


@pytest.mark.parametrize(
    ("values", "status", "code"),
    [
        pytest.param({"status": 500}, 500, "InternalError", id="500"),
        pytest.param({"status": 503}, 503, "InternalError", id="503 with XML"),
        pytest.param({"status": 503, "xml": False}, 503, None, id="503 without XML"),
        pytest.param({"status": 429, "seconds": 0}, 429, "TooManyRequests", id="429"),
        pytest.param({"status": 403, "code": "InvalidAccessKeyId"}, 403, "InvalidAccessKeyId", id="wrong keys"),
        pytest.param({"status": 404}, 404, "QueueNotExist", id="missing queue"),
    ],
)
async def test_errors(  # noqa: PLR0917 - a table
    sandbox: Sandbox, ask: Ask, texts: Texts, values: dict[str, Any], status: int, code: str | None
) -> None:
    """An error fault answers its status and code in the service's own form, and has no effect."""
    sandbox.put("q", "x")
    sandbox.faults.add(fault("error", **values))
    got, _, body = await ask("GET", BATCH)
    assert (got, texts(body, "Code")) == (status, [] if code is None else [code])
    assert sandbox.messages("q")[0].state == State.ACTIVE
    assert sandbox.faults.applied == {"error": 1}


async def test_429_is_held_as_the_service_does(sandbox: Sandbox, ask: Ask) -> None:
    """Without a time of its own a 429 is answered after half a second."""
    sandbox.faults.add(fault("error", status=429))
    began_s = time.monotonic()
    await ask("GET", BATCH)
    assert 0.5 <= time.monotonic() - began_s < 3


async def test_latency_adds_up_and_lets_the_request_go_on(sandbox: Sandbox, ask: Ask) -> None:
    """Two latencies delay a request by their sum, and it still has its effect."""
    sandbox.put("q", "x")
    for _ in range(2):
        sandbox.faults.add(fault("latency", seconds=0.03, jitter_s=0.01))
    began_s = time.monotonic()
    assert (await ask("GET", BATCH))[0] == 200
    assert 0.06 <= time.monotonic() - began_s < 3


@pytest.mark.parametrize(("status", "kind"), [(502, "html"), (200, "html"), (302, "redirect")])
async def test_pages_of_front_ends(sandbox: Sandbox, ask: Ask, status: int, kind: str) -> None:
    """A 502 page, a 200 page and a redirect come as HTML, and nothing is dequeued."""
    sandbox.put("q", "x")
    sandbox.faults.add(fault(kind, **({"status": status} if kind == "html" else {})))
    got, headers, body = await ask("GET", BATCH)
    assert (got, headers["content-type"]) == (status, "text/html")
    assert body.startswith(b"<html>")
    assert ("location" in headers) == (kind == "redirect")
    assert sandbox.messages("q")[0].state == State.ACTIVE


@pytest.mark.parametrize("has_effect", [False, True], ids=["before the effect", "after the effect"])
@pytest.mark.parametrize("way", ["drop", "hang"])
async def test_dropped_and_hung_connections(
    sandbox: Sandbox,
    send_bytes: SendBytes,
    write_signed: WriteSigned,
    way: str,
    has_effect: bool,  # noqa: FBT001 - a parametrized case
) -> None:
    """A connection is closed without a byte, at once or after hanging, before or after the message is taken."""
    sandbox.put("q", "x")
    sandbox.faults.add(fault(f"{way}_after" if has_effect else way, seconds=0.05 if way == "hang" else 30))
    began_s = time.monotonic()
    # Either end of the stream: a reset instead of an end is the kernel's choice.
    try:
        answer = await send_bytes(write_signed("GET", BATCH))
    except ConnectionResetError:
        answer = b""
    assert answer == b""
    took_s = time.monotonic() - began_s
    assert took_s >= 0.05 if way == "hang" else took_s < 10
    assert sandbox.messages("q")[0].state == (State.INACTIVE if has_effect else State.ACTIVE)


async def test_a_hung_socket_hangs_until_the_client_leaves(sandbox: Sandbox, write_signed: WriteSigned) -> None:
    """Without a time a request hangs; when the client leaves, it is noted as unanswered."""
    sandbox.faults.add(fault("hang", operations=["receive"]))
    reader, writer = await asyncio.open_connection("127.0.0.1", sandbox.port)
    writer.write(write_signed("GET", BATCH))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await reader.read()
    writer.close()
    while not sandbox.log.by_status:  # noqa: ASYNC110 - no event to wait on
        await asyncio.sleep(0.005)
    assert sandbox.log.by_status == {("BatchReceiveMessage", 0): 1}


async def test_early_empty(sandbox: Sandbox, ask: Ask, texts: Texts) -> None:
    """A shed long poll is answered at once as empty although there is a message; other calls are not touched."""
    sandbox.put("q", "x")
    sandbox.faults.add(fault("early_empty"))
    began_s = time.monotonic()
    status, _, body = await ask("GET", f"{BATCH}&waitseconds=30")
    assert (status, texts(body, "Code")) == (404, ["MessageNotExist"])
    assert time.monotonic() - began_s < 10
    assert (await ask("GET", "/queues/q"))[0] == 200
    assert sandbox.faults.applied["early_empty"] == 1


async def test_a_truncated_answer(sandbox: Sandbox, send_bytes: SendBytes, write_signed: WriteSigned) -> None:
    """Half of the body comes, then the end, though Content-Length promised the whole."""
    sandbox.put("q", "x")
    sandbox.faults.add(fault("truncate"))
    head, _, body = (await send_bytes(write_signed("GET", BATCH))).partition(b"\r\n\r\n")
    promised = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
    assert len(body) == promised // 2


async def test_truncating_a_204_is_dropping_it(
    sandbox: Sandbox, send_bytes: SendBytes, write_signed: WriteSigned
) -> None:
    """An answer without a body can't be cut in half: its connection is closed instead."""
    sandbox.faults.add(fault("truncate"))
    assert await send_bytes(write_signed("DELETE", "/queues/q")) == b""


async def test_no_request_id(sandbox: Sandbox, ask: Ask) -> None:
    """The answer comes without its request id header, and is otherwise whole."""
    sandbox.put("q", "x")
    sandbox.faults.add(fault("no_request_id"))
    status, headers, _ = await ask("GET", BATCH)
    assert status == 200
    assert "x-mns-request-id" not in headers
    assert headers["x-mns-version"] == "2015-06-06"


async def test_entries_of_a_batch_delete_fail(sandbox: Sandbox, ask: Ask, texts: Texts) -> None:
    """Chosen entries of a batch delete fail with their code and stay; the others are deleted."""
    for number in range(4):
        sandbox.put("q", str(number))
    handles = texts((await ask("GET", BATCH))[2], "ReceiptHandle")
    sandbox.faults.add(fault("entry_error", operations=["delete"], count=2, code="InternalError"))
    body = "".join(f"<ReceiptHandle>{handle}</ReceiptHandle>" for handle in handles)
    status, _, answer = await ask("DELETE", "/queues/q/messages", f"<ReceiptHandles>{body}</ReceiptHandles>".encode())
    assert (status, texts(answer, "ErrorCode")) == (404, ["InternalError"] * 2)
    assert texts(answer, "ReceiptHandle") == handles[:2]
    assert [message.body for message in sandbox.messages("q")] == ["0", "1"]


@pytest.mark.parametrize(("values", "expected"), [({}, 500), ({"status": 201}, 201)])
async def test_entries_of_a_batch_send_fail(
    sandbox: Sandbox, ask: Ask, texts: Texts, values: dict[str, Any], expected: int
) -> None:
    """A failed entry of a batch send contains its error, the answer has the fault's status, and the others are sent."""
    sandbox.account.ensure("q")
    sandbox.faults.add(fault("entry_error", operations=["send"], count=1, **values))
    entries = b"".join(b"<Message><MessageBody>%d</MessageBody></Message>" % number for number in range(3))
    status, _, answer = await ask("POST", "/queues/q/messages", b"<Messages>" + entries + b"</Messages>")
    assert (status, len(texts(answer, "ErrorCode")), len(texts(answer, "MessageId"))) == (expected, 1, 2)
    assert [message.body for message in sandbox.messages("q")] == ["1", "2"]


async def test_every_message_delivered_twice(sandbox: Sandbox, ask: Ask, texts: Texts) -> None:
    """With duplicates always on, every message is delivered exactly twice under two handles."""
    for number in range(5):
        sandbox.put("q", str(number))
    sandbox.faults.add(fault("duplicate"))
    ids: list[str] = []
    handles: set[str] = set()
    for _ in range(3):
        _, _, body = await ask("GET", BATCH)
        ids += texts(body, "MessageId")
        handles |= set(texts(body, "ReceiptHandle"))
    assert sorted(ids) == sorted([*set(ids)] * 2)
    assert (len(ids), len(handles)) == (10, 10)
    assert sandbox.faults.applied["duplicate"] == 5


async def test_a_revoked_lease(sandbox: Sandbox, ask: Ask, texts: Texts) -> None:
    """A revoked lease ends early: its handle is dead, its message visible again; a renewed one is left alone."""
    sandbox.put("q", "x")
    sandbox.faults.add(fault("revoke", seconds=0.1, count=2))
    (first,) = texts((await ask("GET", BATCH))[2], "ReceiptHandle")
    assert (await ask("GET", f"{BATCH}&waitseconds=2"))[0] == 200
    (message,) = sandbox.messages("q")
    sandbox.account.get("q").queue.change_visibility(message.handle or "", 60, sandbox.clock.now_ms())
    _, _, body = await ask("DELETE", f"/queues/q/messages?ReceiptHandle={first}")
    assert texts(body, "Code") == ["MessageNotExist"]
    await asyncio.sleep(0.15)
    assert message.state == State.INACTIVE


async def test_faults_on_mps(sandbox: Sandbox, ask: Ask) -> None:
    """MPS's calls fail in MPS's own form, and MNS's are not touched."""
    sandbox.account.ensure("q")
    sandbox.faults.set([fault("error", operations=["query"], status=400), fault("error", operations=["submit"])])
    for action, status, code in (
        ("QueryIProductionJob", 400, b'"Throttling.User"'),
        ("SubmitIProductionJob", 500, b'"InternalError"'),
    ):
        got, headers, body = await ask("POST", "/", headers={"x-acs-action": action})
        assert (got, headers["content-type"]) == (status, "application/json;charset=utf-8")
        assert code in body
    assert (await ask("GET", "/queues/q"))[0] == 200


async def test_refused_connections(sandbox: Sandbox, ask: Ask) -> None:
    """For the time asked every connection is refused and held ones are dropped; then the same port serves again."""
    reader, writer = await asyncio.open_connection("127.0.0.1", sandbox.port)
    await sandbox.refuse_connections(0.1)
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", sandbox.port)
    assert await reader.read() == b""
    writer.close()
    await sandbox.listening()
    assert (await ask("GET", "/queues"))[0] == 200


async def test_stopping_while_connections_are_refused() -> None:
    """A sandbox that refuses connections still stops at once."""
    async with Sandbox.on_free_port() as sandbox:
        await sandbox.refuse_connections(60)
        await sandbox.refuse_connections(60)


def test_rules_in_order_with_counts_and_selections() -> None:
    """A rule hits only its operations and queues, at most as often as its count; then the next rule applies."""
    faults = Faults(
        [
            fault("error", operations=["delete"], queues=["a*"], count=2),
            fault("drop", operations=["mns"], queues=["ab"]),
        ]
    )
    before = [
        faults.plan("DeleteMessage", "ab").before,
        faults.plan("ReceiveMessage", "ab").before,
        faults.plan("DeleteMessage", "b").before,
        faults.plan("QueryIProductionJob", None).before,
        faults.plan("BatchDeleteMessage", "ab").before,
        faults.plan("DeleteMessage", "ab").before,
    ]
    assert [None if one is None else one.kind for one in before] == ["error", "drop", None, None, "error", "drop"]
    assert faults.applied == {"error": 2, "drop": 2}
    assert [one.kind for one in faults.current()] == ["drop"]


@settings(max_examples=25)
@given(probability=st.floats(0.1, 0.9), seed=st.integers(0, 1000))
def test_chance_is_seeded(probability: float, seed: int) -> None:
    """The same seed draws the same requests, about as often as the probability says."""

    def drawn() -> list[bool]:
        faults = Faults([fault("drop", probability=probability)], seed=seed)
        return [faults.plan("ReceiveMessage", "q").before is not None for _ in range(400)]

    assert drawn() == drawn()
    assert abs(sum(drawn()) / 400 - probability) < 0.15


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("drop", {"kind": "drop"}),
        (
            "error:status=503,operations=receive+delete,probability=0.1,count=5,xml=false",
            {
                "kind": "error",
                "status": 503,
                "operations": ["receive", "delete"],
                "probability": 0.1,
                "count": 5,
                "xml": False,
            },
        ),
        ('{"kind": "latency", "seconds": 0.5}', {"kind": "latency", "seconds": 0.5}),
    ],
)
def test_faults_as_text(text: str, expected: dict[str, Any]) -> None:
    """A fault is read from a word, from key=value pairs, or from JSON."""
    assert Fault.parse(text) == Fault.model_validate(expected)


@pytest.mark.parametrize("text", ["", "nonsense", "error:status", "error:status=99", "drop:operations=fly", "drop:x=1"])
def test_bad_faults_are_refused(text: str) -> None:
    """A text that is no fault raises a ValueError that says what was expected."""
    with pytest.raises(ValueError, match=r"fault|expected|should|permitted|not key=value|known"):
        Fault.parse(text)


def test_every_operation_can_be_named() -> None:
    """Each operation can be selected alone."""
    for operation in (*QUEUE_OPERATIONS, *JOB_OPERATIONS, "Unknown"):
        faults = Faults([fault("drop", operations=[operation])])
        hit = [name for name in (*QUEUE_OPERATIONS, *JOB_OPERATIONS) if faults.plan(name, "q").before is not None]
        assert hit == [name for name in [operation] if name != "Unknown"]
