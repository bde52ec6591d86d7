"""The admin server over real sockets: its answers, its limits, and that no client can block it."""

from __future__ import annotations

import asyncio
import errno
import json
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from structlog.testing import capture_logs

from consumer.errors import ExitCode, PortTakenError, SettingsError
from consumer.ops import admin, sanitize
from consumer.ops.admin import AdminServer, Check
from consumer.ops.metrics import Metrics, SettledAs


@dataclass
class Answers:
    """Checks whose answers the test sets."""

    live_checks: Sequence[Check] = (Check("polling jobs", ok=True, detail="the last poll succeeded"),)
    ready_checks: Sequence[Check] = ()
    started_checks: Sequence[Check] = ()
    broken: list[Exception] = field(default_factory=list)

    def live(self) -> Sequence[Check]:
        """What the test set."""
        return self.live_checks

    def ready(self) -> Sequence[Check]:
        """What the test set, or the error that it set."""
        if self.broken:
            raise self.broken.pop()
        return self.ready_checks

    def started(self) -> Sequence[Check]:
        """What the test set."""
        return self.started_checks


@pytest.fixture
def checks() -> Answers:
    return Answers()


@pytest.fixture
def metrics() -> Metrics:
    metrics = Metrics(["Cover"], version="1.2.3")
    metrics.queue("jobs").function("Cover").jobs[SettledAs.DONE].inc()
    return metrics


@pytest.fixture
async def server(checks: Answers, metrics: Metrics) -> AsyncIterator[AdminServer]:
    async with AdminServer("127.0.0.1", 0, metrics=metrics, checks=checks, connection_s=0.5) as server:
        yield server


@dataclass
class Answer:
    """One HTTP answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def found(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


def served_by(server: AdminServer) -> admin._Server:
    """The server's connections."""
    assert server._runner is not None
    assert isinstance(server._runner.server, admin._Server)
    return server._runner.server


async def send(port: int, raw: bytes, host: str = "127.0.0.1") -> bytes:
    """Send bytes; return all bytes until the server closes."""
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(raw)
    try:
        return await asyncio.wait_for(reader.read(), 5)
    except ConnectionError:
        return b""
    finally:
        writer.close()


async def ask(port: int, path: str, *, method: str = "GET", host: str = "127.0.0.1", headers: str = "") -> Answer:
    raw = await send(port, f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n".encode(), host)
    head, _, body = raw.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    pairs = (line.split(": ", 1) for line in lines)
    return Answer(int(status.split()[1]), {name.lower(): value for name, value in pairs}, body)


async def test_metrics(server: AdminServer) -> None:
    """A scrape gets every metric, in the format that it asks for."""
    classic = await ask(server.port, "/metrics")
    assert classic.status == 200
    assert classic.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert b'mns_consumer_jobs_total{function="Cover",outcome="done",queue="jobs"} 1.0' in classic.body
    modern = await ask(server.port, "/metrics", headers="Accept: application/openmetrics-text; version=1.0.0\r\n")
    assert modern.headers["content-type"].startswith("application/openmetrics-text")
    assert modern.body.endswith(b"# EOF\n")


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/startupz"])
@pytest.mark.parametrize("ok", [True, False])
async def test_health(server: AdminServer, checks: Answers, path: str, ok: bool) -> None:  # noqa: FBT001  # parameter
    """Each path has its own checks; one that fails makes it 503, and all are listed."""
    said = (Check("store", ok=ok, detail="seen"), Check("handlers", ok=True, detail="3 registered"))
    match path:
        case "/livez":
            checks.live_checks = said
        case "/readyz":
            checks.ready_checks = said
        case _:
            checks.started_checks = said
    answer = await ask(server.port, path)
    assert answer.status == (200 if ok else 503)
    assert answer.headers["content-type"] == "application/json"
    found = answer.found
    if path == "/livez":
        lag = found["checks"].pop()
        assert (lag["name"], lag["ok"]) == ("event loop", True)
    assert found == {
        "status": "ok" if ok else "failing",
        "checks": [
            {"name": "store", "ok": ok, "detail": "seen"},
            {"name": "handlers", "ok": True, "detail": "3 registered"},
        ],
    }


async def test_head(server: AdminServer) -> None:
    """HEAD gives the same without a body."""
    answer = await ask(server.port, "/livez", method="HEAD")
    assert answer.status == 200
    assert int(answer.headers["content-length"]) > 0
    assert answer.body == b""


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
async def test_reading_only(server: AdminServer, method: str) -> None:
    """Methods that change something are refused."""
    answer = await ask(server.port, "/metrics", method=method, headers="Content-Length: 0\r\n")
    assert answer.status == 405
    assert answer.headers["allow"] == "GET, HEAD"


async def test_unknown_path(server: AdminServer) -> None:
    """Another path is answered with the known ones; a query string changes nothing."""
    answer = await ask(server.port, "/../etc/passwd")
    assert answer.status == 404
    assert "/metrics, /livez, /readyz, /startupz" in answer.found["error"]
    assert (await ask(server.port, "/livez?verbose")).status == 200


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", id="TLS"),
        pytest.param(b"nonsense\r\n\r\n", id="no HTTP"),
        pytest.param(b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\n\r\n", id="endless path"),
        pytest.param(b"GET / HTTP/1.1\r\nA: " + b"x" * 20_000 + b"\r\n\r\n", id="endless header"),
        pytest.param(b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 500 + b"\r\n", id="endless headers"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n", id="wrong length"),
    ],
)
async def test_bad_requests(server: AdminServer, caplog: pytest.LogCaptureFixture, raw: bytes) -> None:
    """A malformed request is refused without a version in the answer, and without a log line."""
    answer = await send(server.port, raw)
    assert answer.startswith(b"HTTP/1.0 400 ")
    assert b"expected an HTTP/1.1 GET request" in answer
    assert b"aiohttp" not in answer
    assert b"Python" not in answer
    assert caplog.records == []
    assert (await ask(server.port, "/livez")).status == 200


async def test_headers(server: AdminServer) -> None:
    """No answer shows versions, may be cached, or leaves its connection open."""
    for path in ("/metrics", "/livez", "/nowhere"):
        answer = await ask(server.port, path)
        assert answer.headers["server"] == "mns-consumer"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["connection"] == "close"


async def test_a_broken_check(server: AdminServer, checks: Answers) -> None:
    """A check that raises is a failing answer and a line in the log; the next request is answered as usual."""
    checks.broken = [RuntimeError("bug")]
    with capture_logs() as lines:
        answer = await ask(server.port, "/readyz")
    assert (answer.status, answer.found["status"]) == (500, "failing")
    assert b"bug" not in answer.body
    assert [(line["event"], line["path"]) for line in lines] == [("an admin answer failed", "/readyz")]
    assert (await ask(server.port, "/readyz")).status == 200


async def test_no_secret_in_a_check(server: AdminServer, checks: Answers) -> None:
    """A detail that quotes a secret is masked."""
    sanitize.SECRETS.protect("a-very-secret-key")
    checks.ready_checks = (Check("store", ok=False, detail="can't log in with a-very-secret-key"),)
    assert (await ask(server.port, "/readyz")).found["checks"][0]["detail"] == "can't log in with ***"


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"", id="silent"),
        pytest.param(b"GET /metrics HT", id="half a line"),
        pytest.param(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n", id="half a head"),
    ],
)
async def test_slow_clients(server: AdminServer, raw: bytes) -> None:
    """A client that doesn't end its request is cut off in time, and others are answered meanwhile."""
    began = time.monotonic()
    slow = asyncio.create_task(send(server.port, raw))
    await asyncio.sleep(0)
    assert (await ask(server.port, "/livez")).status == 200
    assert await slow == b""
    assert 0.4 < time.monotonic() - began < 3


async def test_a_client_that_does_not_read(server: AdminServer, checks: Answers) -> None:
    """An answer that its client does not read is dropped in time."""
    checks.live_checks = (Check("x", ok=True, detail="y" * 30_000_000),)
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    client.settimeout(0)
    with client:
        await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", server.port))
        client.send(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        open_connections = served_by(server).open
        began = time.monotonic()
        while not open_connections:  # noqa: ASYNC110  # an accept raises no event here
            await asyncio.sleep(0)
        while open_connections:
            await asyncio.sleep(0.02)
            assert time.monotonic() - began < 5


SILENT = """
import select, socket, sys, time
port, count = int(sys.argv[1]), int(sys.argv[2])
crowd, poll = {}, select.epoll()
def connect():
    client = socket.create_connection(("127.0.0.1", port))
    crowd[client.fileno()] = client
    poll.register(client, select.EPOLLIN)
for _ in range(count):
    connect()
    # Slower than it accepts: a connection that its backlog has no room for is tried again after a second.
    time.sleep(0.0005)
print("all are there", flush=True)
while True:
    for number, _ in poll.poll():
        crowd.pop(number).close()
        connect()
"""


@pytest.fixture
def crowd() -> Iterator[Callable[[int, int], None]]:
    """Starts a process of many clients that send nothing, and connect again as soon as they are closed."""
    started: list[subprocess.Popen[bytes]] = []

    def begin(port: int, count: int) -> None:
        argv = [sys.executable, "-c", SILENT, str(port), str(count)]
        process = subprocess.Popen(argv, stdout=subprocess.PIPE)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == b"all are there\n"

    yield begin
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("count", [100, 250], ids=["that fit", "that do not fit"])
async def test_a_silent_crowd_blocks_no_other_client(
    checks: Answers, metrics: Metrics, crowd: Callable[[int, int], None], count: int
) -> None:
    """With more silent clients than connections, which connect again when closed, each request is answered soon."""
    async with AdminServer("127.0.0.1", 0, metrics=metrics, checks=checks, connection_s=15) as server:
        await asyncio.to_thread(crowd, server.port, count)
        slowest_s = 0.0
        for _ in range(40):
            began = time.monotonic()
            assert (await ask(server.port, "/livez")).status == 200
            slowest_s = max(slowest_s, time.monotonic() - began)
        assert len(served_by(server).open) <= 128
        # A whole request takes a millisecond; three seconds are what a probe of Kubernetes waits.
        assert slowest_s < 3


async def test_the_oldest_silent_one_makes_room(checks: Answers, metrics: Metrics) -> None:
    """One connection too many closes the oldest whose request has not arrived, never one that is being answered."""
    checks.live_checks = (Check("x", ok=True, detail="y" * 30_000_000),)
    async with AdminServer("127.0.0.1", 0, metrics=metrics, checks=checks, connection_s=15) as server:
        reading = socket.create_connection(("127.0.0.1", server.port))
        # The head in two pieces, torn within its end.
        reading.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r")
        await asyncio.sleep(0.05)
        reading.sendall(b"\n\r\n")
        await asyncio.sleep(0.2)
        crowd = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(130)]
        for _, writer in crowd[:100]:
            writer.write(b"\r\n\r\n")
        ended = [asyncio.ensure_future(reader.read()) for reader, _ in crowd]
        await asyncio.wait(ended, timeout=0.3)
        assert [task.done() for task in ended] == [True] * 3 + [False] * 127
        with reading:
            begun = await asyncio.to_thread(reading.recv, 15)
            assert begun == b"HTTP/1.1 200 OK"
        for _, writer in crowd:
            writer.close()
        await asyncio.gather(*ended, return_exceptions=True)


async def test_those_that_do_not_read_make_room(
    checks: Answers, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where all connections are being answered, the oldest one, which does not read its answer, is closed."""
    monkeypatch.setattr(admin, "_CONNECTIONS_LIMIT", 2)
    checks.live_checks = (Check("x", ok=True, detail="y" * 30_000_000),)
    async with AdminServer("127.0.0.1", 0, metrics=metrics, checks=checks, connection_s=15) as server:
        crowd = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(2)]
        for client in crowd:
            client.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await asyncio.sleep(0.3)
        checks.live_checks = ()
        assert (await ask(server.port, "/livez")).status == 200
        assert len(served_by(server).open) == 1
        for client in crowd:
            client.close()


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        pytest.param("127.0.0.1", True, id="loopback"),
        pytest.param("127.0.0.1:9464", True, id="with a port"),
        pytest.param("10.4.0.17:9464", True, id="a pod's address, as Kubernetes and Prometheus ask"),
        pytest.param("[::1]:9464", True, id="IPv6"),
        pytest.param("[fe80::1%eth0]:9464", True, id="IPv6 of one link"),
        pytest.param("[evil.example]", False, id="a name in brackets"),
        pytest.param("LocalHost:9464", True, id="localhost"),
        pytest.param("localhost.", True, id="localhost from the root"),
        pytest.param("", True, id="an empty one"),
        pytest.param("films", True, id="a listed name"),
        pytest.param("FILMS:9464", True, id="a listed name, with a port"),
        pytest.param("films-0.films.svc.cluster.local", True, id="below a listed domain"),
        pytest.param("svc.cluster.local", False, id="the domain itself"),
        pytest.param("evil.example", False, id="a foreign name"),
        pytest.param("evil.example:9464", False, id="a foreign name, with a port"),
        pytest.param("localhost.evil.example", False, id="a name that begins well"),
        pytest.param("127.0.0.1.evil.example", False, id="a name that begins as an address"),
        pytest.param("evilfilms", False, id="a name that ends well"),
        pytest.param("127.0.0.1@evil.example", False, id="with a user"),
        pytest.param("2130706433", False, id="an address as one number"),
        pytest.param("127.0.0.1\r\nHost: evil.example", False, id="two of them"),
    ],
)
async def test_host(checks: Answers, metrics: Metrics, host: str, allowed: bool) -> None:  # noqa: FBT001  # parameter
    """Addresses, localhost and listed names are answered; another name, as of DNS rebinding, gets nothing."""
    names = ("Films", ".svc.cluster.local")
    async with AdminServer("127.0.0.1", 0, metrics=metrics, checks=checks, allowed_hosts=names) as server:
        for path in ("/metrics", "/livez"):
            raw = await send(server.port, f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            status = int(raw.split()[1])
            assert status == 200 if allowed else status in {400, 403}
            assert (b"mns_consumer_" in raw or b"polling" in raw) == allowed
            assert allowed or b"evil" not in raw


async def test_no_host(server: AdminServer) -> None:
    """A request of HTTP/1.0 without a Host, as a simple probe sends it, is answered: no browser sends one."""
    assert (await send(server.port, b"GET /livez HTTP/1.0\r\n\r\n")).startswith(b"HTTP/1.0 200 OK")


async def test_port_in_use(server: AdminServer, checks: Answers, metrics: Metrics) -> None:
    """A port in use is a temporary error that names the settings and what to do."""
    with pytest.raises(PortTakenError, match=r"admin_host, admin_port: can't listen on '127\.0\.0\.1' port") as caught:
        async with AdminServer("127.0.0.1", server.port, metrics=metrics, checks=checks):
            pass
    assert "another program listens there; end it, or set admin_port to a free port" in str(caught.value)
    assert caught.value.exit_code is ExitCode.TEMPORARY


async def test_a_port_that_the_unit_forbids(checks: Answers, metrics: Metrics, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bind that systemd's SocketBindDeny= refuses names what to add to the unit."""

    async def refuse(*_: object, **__: object) -> None:  # the kernel's filter needs a unit's own cgroup
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(asyncio.get_running_loop(), "create_server", refuse)
    with pytest.raises(SettingsError, match=r"port 9600: .* add the port to SocketBindAllow= of the unit"):
        async with AdminServer("127.0.0.1", 9600, metrics=metrics, checks=checks):
            pass


@pytest.mark.parametrize(
    ("host", "port", "found"),
    [
        pytest.param("192.0.2.1", 0, "set admin_host to one of its own", id="an address that is not ours"),
        pytest.param("no such host", 0, "check admin_host and admin_port", id="no address"),
        pytest.param("x" * 300, 0, "check admin_host and admin_port", id="no name"),
        pytest.param("127.0.0.1", 70_000, "check admin_host and admin_port", id="no port"),
    ],
)
async def test_no_listening_there(checks: Answers, metrics: Metrics, host: str, port: int, found: str) -> None:
    """Each wrong address is a settings error with what to do."""
    with pytest.raises(SettingsError, match="admin_host, admin_port") as caught:
        async with AdminServer(host, port, metrics=metrics, checks=checks):
            pass
    assert found in str(caught.value)


async def test_ipv6(checks: Answers, metrics: Metrics) -> None:
    """It listens on IPv6 where that is asked for."""
    try:
        async with AdminServer("::1", 0, metrics=metrics, checks=checks) as server:
            assert (await ask(server.port, "/livez", host="::1")).status == 200
    except SettingsError as error:
        cause = error.__cause__
        if isinstance(cause, OSError) and cause.errno in {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}:
            pytest.skip("this machine has no IPv6")
        raise


async def test_stops(checks: Answers, metrics: Metrics) -> None:
    """After its end nothing listens, no silent client has delayed it, and it can start again."""
    server = AdminServer("127.0.0.1", 0, metrics=metrics, checks=checks)
    assert server.port == 0
    took_s = []
    for _ in range(3):
        async with server:
            port = server.port
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            await asyncio.sleep(0.05)
            began = time.monotonic()
        took_s.append(time.monotonic() - began)
        assert await reader.read() == b""
        writer.close()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)
    # A client that delays it costs half a second each time; a pause of the machine comes once.
    assert min(took_s) < 0.5
    await server.__aexit__(None, None, None)


def test_on_uvloop(checks: Answers, metrics: Metrics) -> None:
    """On uvloop a slow client is cut off too."""
    uvloop = pytest.importorskip("uvloop")

    async def slow() -> bytes:
        async with AdminServer("127.0.0.1", 0, metrics=metrics, checks=checks, connection_s=0.3) as server:
            assert (await ask(server.port, "/livez")).status == 200
            return await send(server.port, b"GET /")

    assert uvloop.run(slow()) == b""


async def test_a_scrape_is_short(server: AdminServer, metrics: Metrics) -> None:
    """Rendering the metrics of one queue with sixteen handlers holds the loop for milliseconds (bound: 200)."""
    names = [f"Function{number}" for number in range(16)]
    metrics.register(names)
    for name in names:
        metrics.queue("jobs").function(name).jobs[SettledAs.DONE].inc()
    best_s, body = 1.0, b""
    for _ in range(5):
        began = time.perf_counter()
        body, _ = metrics.render()
        best_s = min(best_s, time.perf_counter() - began)
    lines = body.count(b"\n")
    print(f"{best_s * 1e3:.1f} ms, {lines} lines")  # noqa: T201  # the figure is wanted in the output
    assert best_s < 0.2
