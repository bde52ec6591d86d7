"""A sandbox over a real socket, and a client for it that shares no code with it or with any SDK."""

import base64
import hashlib
import hmac
import json
import re
from asyncio import open_connection
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from email.utils import formatdate
from typing import Any

import pytest

from consumer.sandbox import Sandbox

Reply = tuple[int, dict[str, str], bytes]


@pytest.fixture(autouse=True)
def _no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No test finds credentials of this machine."""
    monkeypatch.setenv("ALIBABA_CLOUD_ECS_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox.on_free_port(job_s=0.01, create_queues=True) as running:
        yield running


async def exchange(port: int, request: bytes) -> bytes:
    """Send bytes on a new connection; return every byte until it is closed."""
    reader, writer = await open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        return await reader.read()
    finally:
        writer.close()


def signed(
    method: str,
    target: str,
    body: bytes = b"",
    *,
    headers: Mapping[str, str] | None = None,
    key: tuple[str, str] = ("sandbox", "sandbox"),
    leave_out: tuple[str, ...] = (),
) -> bytes:
    """Write a request with the classic signature, calculated here anew."""
    sent = {"Date": formatdate(usegmt=True), "x-mns-version": "2015-06-06", **(headers or {})}
    if body:
        sent.setdefault("Content-Type", "text/xml")
        sent.setdefault("Content-MD5", base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode())
    low = {name.lower(): value for name, value in sent.items()}
    own = "".join(f"{name}:{low[name]}\n" for name in sorted(low) if name.startswith("x-mns-"))
    text = "\n".join(
        (method, low.get("content-md5", ""), low.get("content-type", ""), low.get("date", ""), own + target)
    )
    digest = base64.b64encode(hmac.digest(key[1].encode(), text.encode(), "sha1")).decode()
    sent = {"Host": "127.0.0.1", "Authorization": f"MNS {key[0]}:{digest}", "Connection": "close", **sent}
    if body:
        sent["Content-Length"] = str(len(body))
    lines = [f"{name}: {value}" for name, value in sent.items() if name not in leave_out]
    return f"{method} {target} HTTP/1.1\r\n".encode() + "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def parsed(answer: bytes) -> Reply:
    """Take an answer apart: status, headers by lower-case name, body."""
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines[1:])
    return int(lines[0].split()[1]), headers, body


@pytest.fixture
def ask(sandbox: Sandbox) -> Callable[..., Awaitable[Reply]]:
    """Send one signed request; return status, headers and body."""

    async def send(method: str, target: str, body: bytes = b"", **how: Any) -> Reply:
        return parsed(await exchange(sandbox.port, signed(method, target, body, **how)))

    return send


@pytest.fixture
def exchanged() -> Callable[[Sandbox, str], Awaitable[bytes]]:
    """Send one signed GET to any sandbox; return every byte of the answer."""

    async def send(sandbox: Sandbox, target: str) -> bytes:
        return await exchange(sandbox.port, signed("GET", target))

    return send


@pytest.fixture
def write_signed() -> Callable[..., bytes]:
    """Return ``signed``, for tests that open their own connections."""
    return signed


@pytest.fixture
def send_bytes(sandbox: Sandbox) -> Callable[[bytes], Awaitable[bytes]]:
    """Send any bytes; return every byte of the answer."""

    async def send(request: bytes) -> bytes:
        return await exchange(sandbox.port, request)

    return send


@pytest.fixture
def control(sandbox: Sandbox) -> Callable[..., Awaitable[tuple[int, Any]]]:
    """Call the control API; return status and decoded JSON."""

    async def call(method: str, path: str, body: Any = None) -> tuple[int, Any]:
        content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        head = f"{method} /_sandbox{path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        head += f"Content-Length: {len(content)}\r\n\r\n"
        status, _, answer = parsed(await exchange(sandbox.port, head.encode() + content))
        return status, json.loads(answer)

    return call


@pytest.fixture
def texts() -> Callable[[bytes, str], list[str]]:
    """Return all texts of one element of an XML answer, in order."""

    def of(body: bytes, name: str) -> list[str]:
        return re.findall(f"<{name}>(.*?)</{name}>", body.decode(), re.DOTALL)

    return of
