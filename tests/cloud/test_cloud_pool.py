"""The way of a request over a real socket: what is sent, and every way in which no answer comes."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import struct
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from email.utils import formatdate
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from consumer.cloud import pool as pool_module
from consumer.cloud.credentials import Keys, StaticCredentials
from consumer.cloud.mns import MnsQueue
from consumer.cloud.mps import MpsSigner
from consumer.cloud.pool import Exchange, Pool, ServerClock, open_pool
from consumer.errors import CloudError, Fault, SettingsError

EMPTY = b"<Error><Code>MessageNotExist</Code><Message>m</Message><RequestId>r</RequestId><HostId>h</HostId></Error>"


@pytest.fixture
def log_lines() -> Iterator[list[Any]]:
    """What is logged meanwhile."""
    with capture_logs() as lines:
        yield lines


async def nothing(_: Any) -> bytes:
    """Close the connection without an answer, after the request was read: after the effect."""
    return b""


async def silence(_: Any) -> bytes:
    """Never answer."""
    await asyncio.Event().wait()
    return b""


@pytest.mark.parametrize(
    "ask",
    [
        pytest.param(lambda talk: talk.queue.receive(16, 0), id="GET receive"),
        pytest.param(lambda talk: talk.queue.hide("h", 5), id="PUT hide"),
        pytest.param(lambda talk: talk.queue.delete(["h"]), id="DELETE delete"),
        pytest.param(lambda talk: talk.queue.send("b"), id="POST send"),
        pytest.param(lambda talk: talk.mps.query("j"), id="POST query"),
    ],
)
async def test_a_dropped_connection_is_never_sent_again(
    start: Any, mns_reply: Any, ask: Callable[[Any], Awaitable[Any]]
) -> None:
    """On a kept connection that drops after the effect, the peer sees each request exactly once."""
    talk = await start(mns_reply(404, EMPTY), nothing)
    await talk.queue.receive(1, 0)
    with pytest.raises(CloudError, match="closed the connection without an answer") as caught:
        await ask(talk)
    await asyncio.sleep(0.05)
    assert len(talk.peer.asked) == 2
    assert talk.peer.connections == 1, "the second request must have used the kept connection"
    assert (caught.value.fault, caught.value.retryable) == (Fault.NETWORK, True)
    assert talk.observed[-1] == (caught.value.operation, "network")


async def test_connections_are_kept_and_recover(start: Any, mns_reply: Any) -> None:
    """Requests share a connection, and the one after a drop opens a new one and succeeds."""
    talk = await start(mns_reply(404, EMPTY), mns_reply(404, EMPTY), nothing, mns_reply(404, EMPTY))
    for _ in range(2):
        await talk.queue.receive(1, 0)
    assert talk.peer.connections == 1
    with pytest.raises(CloudError):
        await talk.queue.receive(1, 0)
    assert (await talk.queue.receive(1, 0)).messages == ()
    assert talk.peer.connections == 2


@pytest.mark.parametrize(
    ("answer", "fault", "code"),
    [
        pytest.param(nothing, Fault.NETWORK, "Disconnected", id="dropped"),
        pytest.param(silence, Fault.NETWORK, "ReadTimeout", id="hung"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", Fault.NETWORK, "ReadTimeout", id="body hangs"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 99\r\n\r\nabc",
            Fault.NETWORK,
            "AnswerCutShort",
            id="body breaks off",
        ),
        pytest.param(b"\x16\x03garbage\r\n\r\n", Fault.UNREADABLE, "NotHttp", id="no HTTP"),
        pytest.param(b"HTTP/1.1 200 OK\r\nA B: c\r\n\r\n", Fault.UNREADABLE, "NotHttp", id="garbage in the head"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n",
            Fault.UNREADABLE,
            "NotHttp",
            id="garbage for chunks",
        ),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nContent-Length: 999999999\r\n\r\nabc",
            Fault.UNREADABLE,
            "AnswerTooLong",
            id="huge by its own words",
        ),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"80000\r\n" + b"x" * 0x80000 + b"\r\n",
            Fault.UNREADABLE,
            "AnswerTooLong",
            id="huge and unannounced",
        ),
    ],
)
async def test_no_answer_is_an_error_in_one_line(start: Any, answer: Any, fault: Fault, code: str) -> None:
    """Each way in which no whole answer comes has its fault, its code, and one line."""
    talk = await start(answer, margin_s=0.3)
    with pytest.raises(CloudError) as caught:
        await talk.queue.attributes()
    assert (caught.value.fault, caught.value.code) == (fault, code)
    assert f"127.0.0.1:{talk.peer.port}" in str(caught.value) or code == "AnswerTooLong"
    assert "\n" not in str(caught.value)
    assert len(talk.peer.asked) == 1


async def test_a_chunked_answer_is_read(start: Any) -> None:
    """An answer without a length is read to its end."""
    chunked = b"HTTP/1.1 404 X\r\nx-mns-request-id: R\r\nTransfer-Encoding: chunked\r\n\r\n"
    talk = await start(chunked + b"%x\r\n%s\r\n0\r\n\r\n" % (len(EMPTY), EMPTY))
    assert (await talk.queue.receive(1, 0)).messages == ()


async def test_nothing_listens(unused_port: int) -> None:
    """A refused connection names host and port."""
    async with open_pool() as pool:
        queue = MnsQueue(
            endpoint=f"http://127.0.0.1:{unused_port}",
            queue="q",
            credentials=StaticCredentials(Keys("a", "b")),
            pool=pool,
        )
        with pytest.raises(CloudError, match=f"connect to 127.0.0.1:{unused_port} refused") as caught:
            await queue.receive(1, 0)
    assert caught.value.fault is Fault.NETWORK


async def test_an_unknown_name() -> None:
    """A host name that does not resolve is a network fault with that name."""
    async with open_pool() as pool:
        queue = MnsQueue(
            endpoint="http://nowhere.invalid", queue="q", credentials=StaticCredentials(Keys("a", "b")), pool=pool
        )
        with pytest.raises(CloudError, match=r"nowhere\.invalid:80 was not found") as caught:
            await queue.receive(1, 0)
    assert caught.value.code == "NameNotFound"


async def test_a_connection_that_takes_too_long(authority: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A TLS handshake that never ends is cut by the deadline for connecting, not by the long poll's."""
    monkeypatch.setattr(pool_module, "CONNECT_S", 0.2)
    deaf = socket.create_server(("127.0.0.1", 0))
    port = deaf.getsockname()[1]
    async with open_pool(ca_file=authority.ca_file) as pool:
        queue = MnsQueue(
            endpoint=f"https://127.0.0.1:{port}", queue="q", credentials=StaticCredentials(Keys("a", "b")), pool=pool
        )
        began = time.monotonic()
        with pytest.raises(CloudError) as caught:
            await queue.receive(1, 30)
    deaf.close()
    assert caught.value.code == "ConnectTimeout"
    assert time.monotonic() - began < 3


async def test_tls_with_an_authority_of_ones_own(start: Any, mns_reply: Any, authority: Any) -> None:
    """With its file in ca_file an own authority is trusted, and the request arrives."""
    talk = await start(mns_reply(404, EMPTY), tls=authority.server, ca_file=authority.ca_file)
    assert (await talk.queue.receive(1, 0)).messages == ()


async def test_an_untrusted_certificate_names_the_setting(start: Any, mns_reply: Any, authority: Any) -> None:
    """Without it nothing is sent, and the error names the setting."""
    talk = await start(mns_reply(404, EMPTY), tls=authority.server)
    with pytest.raises(CloudError, match="ca_file") as caught:
        await talk.queue.receive(1, 0)
    assert (caught.value.fault, caught.value.code) == (Fault.NETWORK, "CertificateNotTrusted")
    assert talk.peer.asked == []


async def test_tls_against_a_plain_port(
    start: Any, mns_reply: Any, authority: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TLS to a port that speaks plain http is a network fault."""
    monkeypatch.setattr(pool_module, "CONNECT_S", 0.3)
    talk = await start(mns_reply(404, EMPTY))
    async with open_pool(ca_file=authority.ca_file) as pool:
        queue = MnsQueue(
            endpoint=talk.peer.url.replace("http", "https"),
            queue="q",
            credentials=StaticCredentials(Keys("a", "b")),
            pool=pool,
        )
        with pytest.raises(CloudError) as caught:
            await queue.receive(1, 0)
    assert caught.value.fault is Fault.NETWORK


@pytest.mark.parametrize("content", [None, b"no certificate"], ids=["missing", "no PEM"])
async def test_a_bad_ca_file_stops_the_start(tmp_path: Path, content: bytes | None) -> None:
    """A ca_file that can't be used is a settings error with its name."""
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SettingsError, match=r"ca_file: expected a PEM file .*ca\.pem"):
        async with open_pool(ca_file=path):
            pass


async def test_cancelling_passes_through(start: Any) -> None:
    """A call that is cancelled from outside ends at once, as cancelled, and is not observed as an error."""
    talk = await start(silence)
    with anyio.move_on_after(0.2) as scope:
        await talk.queue.receive(16, 30)
    assert scope.cancelled_caught
    task = asyncio.create_task(talk.queue.receive(16, 30))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert talk.observed == []


async def test_on_answer_is_called_before_the_body_arrives(start: Any) -> None:
    """``on_answer`` is called when the head has come, while the body is still on its way."""
    heads: list[float] = []

    async def slow(_: Any) -> bytes:
        return b"HTTP/1.1 404 X\r\nx-mns-request-id: R\r\nContent-Length: %d\r\n\r\n" % len(EMPTY)

    talk = await start(slow, margin_s=0.5)
    with pytest.raises(CloudError, match=r"within 0\.5 s"):
        await talk.queue.receive(1, 0, on_answer=lambda: heads.append(time.monotonic()))
    assert len(heads) == 1


async def test_no_proxy_no_cookie_no_compression(start: Any, mns_reply: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Proxies of the environment are not used, cookies not kept, compression never asked for."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    talk = await start(mns_reply(404, EMPTY, Set_Cookie="a=b"))
    for _ in range(2):
        await talk.queue.receive(1, 0)
    headers = talk.peer.asked[1].headers
    assert "cookie" not in headers
    assert headers["accept-encoding"] == "identity"


@pytest.mark.parametrize(
    ("date", "offset_s"),
    [
        pytest.param("", 0.0, id="no Date"),
        pytest.param("soon", 0.0, id="no date in Date"),
        pytest.param("Thu, 09 Jul 2015 03:01:34 GMT", 0.0, id="long ago"),
        pytest.param("Mon, 01 Jan 2035 00:00:00 GMT", 0.0, id="far ahead"),
        pytest.param("Mon, 01 Jan 99999 00:00:00 GMT", 0.0, id="no year"),
        pytest.param(880, 880.0, id="within 15 minutes"),
        pytest.param(-880, -880.0, id="behind, within 15 minutes"),
        pytest.param(920, 0.0, id="beyond 15 minutes"),
        pytest.param(-920, 0.0, id="behind, beyond 15 minutes"),
    ],
)
async def test_the_servers_clock(start: Any, mns_reply: Any, date: str | int, offset_s: float) -> None:
    """The server's clock is taken from Date; without one that can be believed it is taken to be ours."""
    text = formatdate(time.time() + date, usegmt=True) if isinstance(date, int) else date
    talk = await start(mns_reply(404, EMPTY, Date=text))
    batch = await talk.queue.receive(1, 0)
    assert batch.server_offset_s == pytest.approx(offset_s, abs=3 if offset_s else 0)
    assert 0 <= batch.elapsed_s < 5


def test_a_clock_that_is_not_believed_is_logged_once(log_lines: list[dict[str, Any]]) -> None:
    """A Date that is years off makes one line, however many answers carry it or alternate with good ones."""
    wall_s, now = time.time(), 50.0
    clock = ServerClock(wall_s, now)
    for _ in range(3):
        assert clock.read("Mon, 01 Jan 2035 00:00:00 GMT", wall_s, now, "q") == (wall_s, 0.0)
        assert clock.read(formatdate(wall_s, usegmt=True), wall_s, now, "q") == (int(wall_s), 0.0)
    assert [line["event"] for line in log_lines] == [
        "the Date of answers is too far from this computer's clock; the computer's is used"
    ]


def test_a_clock_that_is_believed_again_is_logged_once(
    log_lines: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After ten minutes of good dates the change back is logged."""
    wall_s, now = time.time(), 50.0
    clock = ServerClock(wall_s, now)
    clock.read("Mon, 01 Jan 2035 00:00:00 GMT", wall_s, now, "q")
    later = time.monotonic() + 601
    monkeypatch.setattr(time, "monotonic", lambda: later)
    for _ in range(3):
        clock.read(formatdate(wall_s, usegmt=True), wall_s, now, "q")
    assert [line["log_level"] for line in log_lines] == ["warning", "info"]


STEP_S = 91 * 86_400.0


@pytest.mark.parametrize("step_s", [STEP_S, -STEP_S, 3600.0])
def test_a_step_of_our_clock_changes_no_time_of_the_server(log_lines: list[dict[str, Any]], step_s: float) -> None:
    """When this computer's clock jumps, the server's Date is believed as before, and runs on where it is missing."""
    clock = ServerClock(1_700_000_000.0, 50.0)
    wall_s, now = 1_700_000_060.0 + step_s, 110.0
    assert clock.read(formatdate(1_700_000_060.0, usegmt=True), wall_s, now, "q") == (1_700_000_060.0, 0.5 - step_s)
    assert clock.read("", wall_s + 10, now + 10, "q")[0] == 1_700_000_070.0
    assert log_lines == []


def test_a_clock_that_is_set_right_is_followed() -> None:
    """A start with a wrong clock lasts until the clock is set right and the server says so too."""
    clock = ServerClock(1_700_000_000.0 - STEP_S, 50.0)
    assert clock.read("", 1_700_000_010.0, 60.0, "q")[0] == 1_700_000_010.0 - STEP_S
    assert clock.read(formatdate(1_700_000_020.0, usegmt=True), 1_700_000_020.0, 70.0, "q") == (1_700_000_020.0, 0.0)
    assert clock.read("", 1_700_000_030.0, 80.0, "q") == (1_700_000_030.0, 0.0)


@pytest.mark.parametrize("zone", ["", " -0000"])
def test_a_date_without_a_zone_is_gmt(monkeypatch: pytest.MonkeyPatch, zone: str) -> None:
    """Whatever the zone of this computer, as HTTP says."""
    monkeypatch.setenv("TZ", "Asia/Shanghai")
    time.tzset()
    try:
        server_s, _ = ServerClock(1_436_410_894.0, 0.0).read(
            f"Thu, 09 Jul 2015 03:01:34{zone}", 1_436_410_894.0, 0.0, "q"
        )
    finally:
        monkeypatch.undo()
        time.tzset()
    assert server_s == 1_436_410_894.0


@given(st.text() | st.from_regex(r"\w{3}, [0-9\u0660]{1,12} \w{3} -?\d{1,40} \d+:\d+:\d+ [-+\w]{0,9}"))
def test_any_date_is_read_or_left(text: str) -> None:
    """Whatever stands in Date, a time within 15 minutes of ours comes out."""
    server_s, offset_s = ServerClock(1_700_000_000.0, 0.0).read(text, 1_700_000_000.0, 0.0, "q")
    assert abs(server_s - 1_700_000_000.0) <= 900
    assert abs(offset_s) <= 901


async def test_a_clock_that_agrees_has_no_offset(start: Any, mns_reply: Any) -> None:
    """Date's whole seconds are not taken for an offset."""
    talk = await start(mns_reply(404, EMPTY))
    assert (await talk.queue.receive(1, 0)).server_offset_s == 0.0


@pytest.mark.parametrize(
    ("scheme", "farewell", "code"),
    [
        pytest.param("https", b"220 ready\r\n", "TlsFailed", id="no TLS there"),
        pytest.param("http", None, "ConnectionLost", id="reset"),
    ],
)
async def test_a_peer_that_speaks_something_else(
    authority: Any, scheme: str, farewell: bytes | None, code: str
) -> None:
    """What is no TLS, and a connection that is reset, are network faults with one line each."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        if farewell is None:
            # Closing at once, with nothing lingering, sends a reset in place of an end.
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        else:
            writer.write(farewell)
        writer.close()

    async with (
        await asyncio.start_server(serve, "127.0.0.1", 0) as server,
        open_pool(ca_file=authority.ca_file) as pool,
    ):
        port = server.sockets[0].getsockname()[1]
        queue = MnsQueue(
            endpoint=f"{scheme}://127.0.0.1:{port}", queue="q", credentials=StaticCredentials(Keys("a", "b")), pool=pool
        )
        with pytest.raises(CloudError) as caught:
            await queue.receive(1, 0)
    assert (caught.value.fault, caught.value.code) == (Fault.NETWORK, code)


def _answer(body: bytes) -> bytes:
    return b"HTTP/1.1 200 X\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


async def body_of(pool: Pool, url: str) -> bytes:
    """Ask for a URL, and give the answer's body."""
    exchange = Exchange("op", "q", StaticCredentials(Keys("a", "b")), None)
    return (await pool.ask(exchange, "GET", url, {}, deadline_s=3, limit_bytes=1000)).body


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
@pytest.mark.parametrize(
    ("at_once", "later"),
    [
        pytest.param(_answer(b"forged"), b"", id="an answer at once"),
        pytest.param(b"", _answer(b"forged"), id="an answer later"),
        pytest.param(b"HTTP/1.1 200 X\r\nA: ", b"", id="a part at once"),
        pytest.param(b"H", b"", id="one byte at once"),
        pytest.param(b"", b"HTTP/1.1 200 X\r\nA: ", id="a part later"),
        pytest.param(b"HTTP/1.1 200 X\r\nContent-", b"Length: 6\r\n\r\nforged", id="two parts"),
        pytest.param(b"", b"", id="nothing"),
    ],
)
async def test_what_comes_unasked_closes_its_connection(
    authority: Any,
    at_once: bytes,
    later: bytes,
    tls: bool,  # noqa: FBT001 - a row of the table
) -> None:
    """Unrequested bytes are no answer to the next request: that one goes over another connection."""
    connections = 0
    closed = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        number = connections
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            for asked in itertools.count():
                await reader.readuntil(b"\r\n\r\n")
                first = number == 1 and asked == 0
                writer.write(_answer(b"true") + (at_once if first else b""))
                if first and later:
                    await asyncio.sleep(0.02)
                    writer.write(later)
        closed.set()
        writer.close()

    context = authority.server if tls else None
    async with (
        await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context) as server,
        open_pool(ca_file=authority.ca_file) as pool,
    ):
        port = server.sockets[0].getsockname()[1]
        url = f"http{'s' * tls}://127.0.0.1:{port}/"
        bodies = [await body_of(pool, url)]
        if later:
            # At once, not only when the next request looks at it.
            async with asyncio.timeout(2):
                await closed.wait()
        bodies += [await body_of(pool, url) for _ in range(2)]
    assert bodies == [b"true"] * 3
    assert connections == (2 if at_once or later else 1)


async def test_what_the_loop_has_not_read_yet_is_unasked_too() -> None:
    """Bytes that arrived while the event loop was busy are found in the kernel before the next request."""
    accepted: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.append(writer)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(_answer(b"true"))
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server, open_pool() as pool:
        port = server.sockets[0].getsockname()[1]
        url = f"http://127.0.0.1:{port}/"
        await body_of(pool, url)
        # Written to the kernel in this very step, so that the client's side has had no turn to read it.
        accepted[0].write(_answer(b"forged"))
        assert await body_of(pool, url) == b"true"
    assert len(accepted) == 2


@pytest.fixture
def no_threads(monkeypatch: pytest.MonkeyPatch) -> Callable[[], AbstractContextManager[None]]:
    """While its block is entered no thread can be started, as where the machine has none left."""

    @contextmanager
    def refused() -> Iterator[None]:
        def start(thread: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", start)
            yield

    return refused


NoThreads = Callable[[], AbstractContextManager[None]]


async def test_a_name_that_no_thread_can_look_up_is_a_network_fault(no_threads: NoThreads) -> None:
    """Where no thread can be started to look a host name up, the call fails like one that finds no network."""
    async with open_pool() as pool:
        queue = MnsQueue(
            endpoint="http://name.invalid:1", queue="q", credentials=StaticCredentials(Keys("a", "b")), pool=pool
        )
        with no_threads(), pytest.raises(CloudError, match="NoThread: no thread could be started") as caught:
            await queue.receive(1, 0)
    assert caught.value.fault is Fault.NETWORK


async def test_a_signer_that_no_thread_can_load_is_loaded_all_the_same(no_threads: NoThreads) -> None:
    """Where no thread can be started, the vendor's signer is imported on the event loop."""
    signer = MpsSigner("mts.cn-hangzhou.aliyuncs.com")
    with no_threads():
        await signer.load()
    assert signer.signed(Keys("a", "b"), "QueryIProductionJob", {})[0] == "/?"
