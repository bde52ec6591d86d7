"""The control API over HTTP, the Python API, and what the sandbox may import."""

import ast
import asyncio
import ssl
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from anyio.to_thread import run_sync
from pydantic import ValidationError

import consumer.sandbox
from consumer.sandbox import DlqPolicy, Sandbox, SandboxSettings

Reply = tuple[int, dict[str, str], bytes]
Ask = Callable[..., Awaitable[Reply]]
Control = Callable[..., Awaitable[tuple[int, Any]]]


async def test_faults_over_http(sandbox: Sandbox, ask: Ask, control: Control) -> None:
    """Faults are set, added, read with their counts and taken away while the sandbox runs."""
    rule = {"kind": "error", "status": 503, "count": 2}
    assert (await control("PUT", "/faults", [rule]))[0] == 200
    assert (await control("POST", "/faults", {"kind": "drop", "queues": ["other"]}))[0] == 200
    assert (await ask("GET", "/queues/q"))[0] == 503
    _, shown = await control("GET", "/faults")
    assert [one["kind"] for one in shown["faults"]] == ["error", "drop"]
    assert (shown["faults"][0]["count"], shown["applied"]) == (1, {"error": 1})
    assert (await control("DELETE", "/faults"))[1]["faults"] == []
    assert (await ask("GET", "/queues/q"))[0] == 404


async def test_raw_bodies_and_inspection(sandbox: Sandbox, control: Control) -> None:
    """Any text can be put into a queue byte for byte, and every message is shown with its state."""
    poison = '\t{"half": \u526f\r\n<&>'
    status, sent = await control("POST", "/queues/q/messages?priority=2&group_id=g&delay_s=9", poison.encode())
    assert status == 201
    await control("POST", "/queues/q/messages", b"second")
    _, shown = await control("GET", "/queues/q?limit=1")
    (message,) = shown["messages"]
    assert message["message_id"] == sent["message_id"]
    names = ("body", "priority", "group_id", "state", "dequeue_count")
    assert [message[name] for name in names] == [poison, 2, "g", "delayed", 0]
    assert [shown[name] for name in ("active", "inactive", "delayed")] == [1, 0, 1]
    assert sandbox.messages("q")[0].body == poison


async def test_leases_revoked_and_messages_duplicated(sandbox: Sandbox, control: Control) -> None:
    """Leases end and messages are doubled on demand, one by its id or all, and counted as faults."""
    queue = sandbox.account.ensure("q").queue
    for body in "abc":
        sandbox.put("q", body)
    taken = queue.receive(2, sandbox.clock.now_ms())
    assert (await control("POST", f"/queues/q/revoke?message_id={taken[0].message_id}"))[1] == {"messages": 1}
    assert (await control("POST", "/queues/q/revoke"))[1] == {"messages": 1}
    assert (await control("POST", f"/queues/q/duplicate?message_id={taken[0].message_id}"))[1] == {"messages": 1}
    assert [message.body for message in queue.receive(16, sandbox.clock.now_ms())] == ["a", "b", "c", "a"]
    assert sandbox.faults.applied == {"revoke": 2, "duplicate": 1}


async def test_queues_over_http(sandbox: Sandbox, control: Control) -> None:
    """A queue is created with a dead-letter policy or as FIFO, and deleted."""
    policy = {"dead_letter_target_queue": "dead", "max_receive_count": 3}
    _, shown = await control("PUT", "/queues/q", {"dlq": policy})
    assert shown["dlq"] == {"enabled": True, **policy}
    assert sandbox.account.get("q").queue.dlq == DlqPolicy.model_validate(policy)
    assert (await control("PUT", "/queues/q"))[1]["dlq"] is None
    assert (await control("PUT", "/queues/f", {"fifo": True}))[1]["fifo"] is True
    assert (await control("PUT", "/queues/q", {"fifo": True}))[0] == 400
    assert (await control("DELETE", "/queues/f"))[0] == 200
    assert (await control("GET", "/queues/f"))[0] == 404


async def test_the_clock_over_http(sandbox: Sandbox, control: Control, ask: Ask) -> None:
    """The messages' clock moves on, retention and the Date header with it, while signatures stay valid."""
    sandbox.put("q", "x")
    assert (await control("POST", "/clock", {"advance_s": 345_601}))[1] == {"clock_offset_ms": 345_601_000}
    assert sandbox.messages("q") == []
    assert (await ask("GET", "/queues/q"))[0] == 200


async def test_state_and_requests(sandbox: Sandbox, control: Control, ask: Ask) -> None:
    """The state counts queues, jobs, requests and answers; the log shows the latest requests."""
    sandbox.put("q", "x")
    await ask("GET", "/queues/q/messages")
    await ask("GET", "/queues/none")
    _, state = await control("GET", "/state")
    assert state["queues"]["q"]["inactive"] == 1
    assert state["requests"] == {"ReceiveMessage": 1, "GetQueueAttributes": 1}
    assert state["answers"] == {"ReceiveMessage 200": 1, "GetQueueAttributes 404": 1}
    assert state["jobs"] == {"Queuing": 0, "Analysing": 0, "Success": 0, "Fail": 0}
    _, latest = await control("GET", "/requests")
    assert [(one["operation"], one["queue"], one["status"]) for one in latest] == [
        ("ReceiveMessage", "q", 200),
        ("GetQueueAttributes", "none", 404),
    ]
    assert (await control("GET", "/jobs")) == (200, [])


async def test_long_polls_are_limited_over_http(sandbox: Sandbox, control: Control) -> None:
    """The number of held long polls is limited and freed again while it runs."""
    assert (await control("PUT", "/long-polls", {"max": 2}))[1] == {"max": 2}
    assert sandbox.account.max_long_polls == 2
    assert (await control("PUT", "/long-polls", {"max": None}))[1] == {"max": None}


async def test_refusing_over_http(sandbox: Sandbox, control: Control) -> None:
    """The answer that announces refused connections still arrives."""
    assert (await control("POST", "/refuse", {"seconds": 0.1})) == (200, {"seconds": 0.1})
    with pytest.raises(ConnectionRefusedError):
        await control("GET", "/state")
    await sandbox.listening()
    assert (await control("GET", "/state"))[0] == 200


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/nothing", None, 404),
        ("GET", "", None, 404),
        ("PATCH", "/queues/q", None, 404),
        ("POST", "/queues/none/revoke", None, 404),
        ("PUT", "/faults", [{"kind": "fire"}], 400),
        ("POST", "/faults", b"{", 400),
        ("POST", "/clock", {"advance": 1}, 400),
        ("PUT", "/long-polls", {"max": -1}, 400),
        ("PUT", "/queues/a_b", {}, 400),
        ("PUT", "/queues/q", {"dlq": {"dead_letter_target_queue": "q"}}, 400),
        ("POST", "/queues/q/messages", b"\xff", 400),
        ("POST", "/queues/q/messages", b"a\x00b", 400),
        ("POST", "/queues/q/messages?priority=99", b"a", 400),
    ],
)
async def test_wrong_control_calls(control: Control, method: str, path: str, body: Any, status: int) -> None:
    """The answer to a wrong control call names the mistake, in JSON."""
    got, answer = await control(method, path, body)
    assert (got, "error" in answer) == (status, True)


async def test_the_python_api() -> None:
    """A sandbox has a URL and NotifyUrls, refuses a port in use, and frees its own."""
    async with Sandbox.on_free_port() as sandbox:
        assert sandbox.url == f"http://127.0.0.1:{sandbox.port}"
        assert sandbox.notify_url("q") == "mns://1234567890123456.mns.cn-hangzhou.aliyuncs.com/queues/q"
        with pytest.raises(OSError, match="address already in use"):
            await Sandbox(SandboxSettings(port=sandbox.port)).__aenter__()
    async with Sandbox(SandboxSettings(port=sandbox.port)) as again:
        assert again.port == sandbox.port


def test_settings_are_checked_and_keep_their_secrets() -> None:
    """Wrong settings are refused by name, and no secret shows in a repr."""
    with pytest.raises(ValidationError, match="job_s"):
        SandboxSettings.model_validate({"job_s": -1})
    shown = repr(SandboxSettings(access_key_secret="very-secret", security_token="token-secret"))
    assert "very-secret" not in shown
    assert "token-secret" not in shown


async def test_ids_differ_from_start_to_start() -> None:
    """Two sandboxes with one seed make different ids: a ledger outlives the sandbox that it was filled from."""
    ids = set()
    for _ in range(2):
        async with Sandbox.on_free_port(seed=1) as sandbox:
            ids.add(sandbox.put("q", "x").message_id)
    assert len(ids) == 2


async def test_https(tmp_path: Path, write_signed: Callable[..., bytes]) -> None:
    """With a TLS context it serves https, long polls included, and its locations are https."""
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    command += ["-out", str(certificate), "-keyout", str(key)]
    await run_sync(lambda: subprocess.run(command, check=True, capture_output=True, timeout=15))
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(certificate, key)
    async with Sandbox.on_free_port(tls=server) as sandbox:
        assert sandbox.url.startswith("https://")
        client = ssl.create_default_context(cafile=str(certificate))

        async def ask(method: str, target: str) -> bytes:
            reader, writer = await asyncio.open_connection("127.0.0.1", sandbox.port, ssl=client)
            writer.write(write_signed(method, target))
            answer = await reader.read()
            writer.close()
            await writer.wait_closed()
            return answer

        assert b"Location: https://" in await ask("PUT", "/queues/q")
        poll = asyncio.create_task(ask("GET", "/queues/q/messages?waitseconds=10"))
        while not sandbox.account.held_long_polls:  # noqa: ASYNC110 - no event to wait on
            await asyncio.sleep(0.001)
        sandbox.put("q", "over tls")
        assert b"over tls" in await poll


def test_it_imports_nothing_of_the_daemon() -> None:
    """No file of the sandbox imports anything of consumer but itself, the functions and the job states, nor any SDK."""
    folder = Path(consumer.sandbox.__file__).parent
    allowed = {"aiohttp", "pydantic", "pydantic_core"}
    for path in folder.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                top = name.partition(".")[0]
                is_own = name.startswith(("consumer.sandbox", "consumer.functions", "consumer.job_state"))
                is_right = is_own or top in allowed or top in sys.stdlib_module_names
                assert is_right, f"{path.name} imports {name}"
