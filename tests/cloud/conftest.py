"""A server with the answers of a test on a real socket, clients of it, and a certificate authority."""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path
from typing import Self

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from consumer.cloud.credentials import Keys, StaticCredentials
from consumer.cloud.mns import MnsQueue
from consumer.cloud.mps import Mps, RateLimiter
from consumer.cloud.pool import Pool, open_pool
from consumer.errors import Fault
from consumer.sandbox import Sandbox

SECRET = "hush-hush-secret"
TOKEN = "hush-hush-token"


@pytest.fixture(autouse=True)
def _no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No test finds credentials of this machine."""
    monkeypatch.setenv("ALIBABA_CLOUD_ECS_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))


@dataclass
class Asked:
    """One request as it was received."""

    line: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Peer:
    """Answers each request with ``answer``: bytes to write, or ``b""`` to close the connection instead.

    An answer that says ``Connection: close`` is written as it is, however short of its length, and closed.
    """

    answer: Callable[[Asked], Awaitable[bytes]]
    tls: ssl.SSLContext | None = None
    asked: list[Asked] = field(default_factory=list)
    connections: int = 0
    port: int = 0
    serving: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def url(self) -> str:
        """Its endpoint."""
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self.tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self.serving:
            task.cancel()
        await asyncio.gather(*self.serving, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self.serving.add(task)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                self.asked.append(Asked(head[0], headers, body))
                answer = await self.answer(self.asked[-1])
                if not answer:
                    return
                writer.write(answer)
                await writer.drain()
                if b"Connection: close" in answer:
                    return
        except (asyncio.IncompleteReadError, OSError):
            return
        finally:
            writer.close()


def reply(
    status: int, body: bytes = b"", *, request_id: str | None = "5F5E10000000000000000000", **headers: str
) -> bytes:
    """Write an answer as MNS does; ``request_id=None`` leaves that header out."""
    lines = {"Server": "AliyunMQS", "Content-Type": "text/xml;charset=utf-8", "Date": formatdate(usegmt=True)}
    if request_id is not None:
        lines["x-mns-request-id"] = request_id
    if status != 204:
        lines["Content-Length"] = str(len(body))
    lines |= {name.replace("_", "-"): value for name, value in headers.items()}
    text = "".join(f"{name}: {value}\r\n" for name, value in lines.items() if value)
    return f"HTTP/1.1 {status} X\r\n{text}\r\n".encode() + body


@dataclass
class Talk:
    """A queue and an MPS on one peer, with what they observed."""

    peer: Peer
    queue: MnsQueue
    mps: Mps
    limiter: RateLimiter
    observed: list[tuple[str, str]]


def _talk(peer: Peer, pool: Pool, margin_s: float) -> Talk:
    observed: list[tuple[str, str]] = []
    source = StaticCredentials(Keys("hush-hush-id", SECRET, TOKEN))
    limiter = RateLimiter()

    def observe(operation: str, fault: Fault | None, seconds: float) -> None:
        assert seconds >= 0
        observed.append((operation, fault or "ok"))

    queue = MnsQueue(
        endpoint=peer.url, queue="q", credentials=source, pool=pool, observe=observe, read_margin_s=margin_s
    )
    mps = Mps(
        endpoint=peer.url,
        credentials=source,
        pool=pool,
        limiter=limiter,
        observe=observe,
        read_margin_s=margin_s,
    )
    return Talk(peer, queue, mps, limiter, observed)


Start = Callable[..., Awaitable[Talk]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Start a peer that answers with given bytes, one after the other; the last one is repeated."""
    opened = AsyncExitStack()

    async def begin(
        *answers: bytes | Callable[[Asked], Awaitable[bytes]],
        margin_s: float = 10.0,
        tls: ssl.SSLContext | None = None,
        ca_file: Path | None = None,
    ) -> Talk:
        async def answer(asked: Asked) -> bytes:
            chosen = answers[min(len(peer.asked), len(answers)) - 1]
            return chosen if isinstance(chosen, bytes) else await chosen(asked)

        peer = Peer(answer, tls)
        await opened.enter_async_context(peer)
        pool = await opened.enter_async_context(open_pool(ca_file=ca_file))
        return _talk(peer, pool, margin_s)

    async with opened:
        yield begin


@pytest.fixture
def mns_reply() -> Callable[..., bytes]:
    """Give ``reply``."""
    return reply


@dataclass(frozen=True)
class Authority:
    """A certificate authority of one's own, and a server's context with its certificate."""

    ca_file: Path
    server: ssl.SSLContext


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """An authority that a client trusts only by its ca_file."""
    folder = tmp_path_factory.mktemp("tls")
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Own CA")])
    now = dt.datetime.now(dt.UTC)

    def issue(
        name: x509.Name, public: ec.EllipticCurvePublicKey, *extensions: tuple[x509.ExtensionType, bool]
    ) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(ca_name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=1))
            .not_valid_after(now + dt.timedelta(days=1))
        )
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        return builder.sign(ca_key, hashes.SHA256())

    ca = issue(ca_name, ca_key.public_key(), (x509.BasicConstraints(ca=True, path_length=None), True))
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    leaf = issue(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "peer")]), key.public_key(), (names, False))
    ca_file, chain = folder / "ca.pem", folder / "server.pem"
    ca_file.write_bytes(ca.public_bytes(serialization.Encoding.PEM))
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    chain.write_bytes(secret + leaf.public_bytes(serialization.Encoding.PEM))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(chain)
    return Authority(ca_file, context)


@dataclass
class Local:
    """The sandbox, a queue ``q`` in it, and MPS."""

    sandbox: Sandbox
    queue: MnsQueue
    mps: Mps
    observed: list[tuple[str, str]]


@pytest.fixture
async def local() -> AsyncIterator[Local]:
    """The clients on a sandbox whose queue ``q`` is empty."""
    observed: list[tuple[str, str]] = []
    source = StaticCredentials(Keys("sandbox", "sandbox"))
    async with Sandbox.on_free_port(job_s=0.05) as sandbox, open_pool() as pool:
        queue = MnsQueue(
            endpoint=sandbox.url,
            queue="q",
            credentials=source,
            pool=pool,
            observe=lambda operation, fault, _: observed.append((operation, fault or "ok")),
        )
        mps = Mps(endpoint=sandbox.url, credentials=source, pool=pool, limiter=RateLimiter())
        sandbox.account.ensure("q")
        yield Local(sandbox, queue, mps, observed)


@pytest.fixture
def unused_port() -> int:
    """A port on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
