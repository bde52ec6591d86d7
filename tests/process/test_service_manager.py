"""What the daemon sends to a service manager: ready, status, reload, stop, watchdog. The test owns the socket."""

from __future__ import annotations

import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from consumer.sandbox import Sandbox
from tests.engine.rig import QUEUE, body
from tests.process.rig import HANDLERS as PLAIN_HANDLERS
from tests.process.rig import Process
from tests.store.next_revision import in_a_process, write_revision
from tests.stores import new_file

WATCHDOG_US = 400_000

HANDLERS = """
import asyncio
import time
from mns_consumer import Job, handler

@handler("Cover")
async def cover(job: Job) -> None:
    print("begun by the first", flush=True)
    await asyncio.sleep(1.5)
    print("ended by the first", flush=True)

@handler("VideoClip")
async def blocks_the_loop(job: Job) -> None:
    time.sleep(4)

@handler("CaptionExtraction")
async def waits(job: Job) -> None:
    await asyncio.sleep(60)
"""
SECOND = HANDLERS.replace("the first", "the second")


def sooner(name: str, seconds: float) -> str:
    """Handlers of a daemon that waits for a shorter time than usual: ``name`` is one of its constants."""
    return f"{PLAIN_HANDLERS}\nfrom consumer import daemon\ndaemon.{name} = {seconds}\n"


class Manager:
    """The service manager's end of the socket.

    Args:
        folder: Where the socket is made.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "notify"
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(self.path))
        self.heard: list[tuple[float, str]] = []

    @property
    def environ(self) -> dict[str, str]:
        """The environment of the service."""
        return {"NOTIFY_SOCKET": str(self.path), "WATCHDOG_USEC": str(WATCHDOG_US)}

    def listen(self, seconds: float, until: Callable[[str], bool] = lambda _: False) -> str | None:
        """Collect messages for some seconds, at most until the first one that ``until`` accepts; returns that one."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.socket.settimeout(left)
            try:
                text = self.socket.recv(4096).decode()
            except TimeoutError:
                return None
            self.heard.append((time.monotonic(), text))
            if until(text):
                return text
        return None

    async def hears(self, begins: str, within_s: float = 8.0) -> str:
        """Wait for a message; returns it."""
        found = await anyio.to_thread.run_sync(self.listen, within_s, lambda text: text.startswith(begins))
        assert found is not None, self.heard
        return found

    async def pings(self, seconds: float) -> int:
        """The number of pings within the next seconds."""
        before = len(self.heard)
        await anyio.to_thread.run_sync(self.listen, seconds)
        return sum(text == "WATCHDOG=1" for _, text in self.heard[before:])


@pytest.fixture
async def manager(tmp_path: Path) -> AsyncIterator[Manager]:
    played = Manager(tmp_path)
    yield played
    played.socket.close()


def one(field: str, message: str) -> str:
    """One assignment's value in a message."""
    return dict(line.split("=", 1) for line in message.splitlines())[field]


async def import_s() -> float:
    """Time in which Python starts and imports libraries of the daemon now: 0.4 s on a quiet machine."""
    begun_s = time.monotonic()
    await anyio.run_process([sys.executable, "-c", "import aiohttp, anyio, pydantic, structlog"])
    return time.monotonic() - begun_s


@pytest.mark.alone
async def test_ready_within_two_seconds(sandbox: Sandbox, tmp_path: Path, started: list[Process]) -> None:
    """On an idle queue one start of three is ready within 2 s, or within five times the imports' time."""
    took_s = []
    for number in range(3):
        folder = tmp_path / str(number)
        folder.mkdir()
        manager = Manager(folder)
        limit_s = max(2, 5 * await import_s())
        begun_s = time.monotonic()
        started.append(Process(sandbox, folder, **manager.environ))
        await manager.hears("READY=1")
        took_s.append((time.monotonic() - begun_s, limit_s))
        started[-1].kill()
        manager.socket.close()
        if took_s[-1][0] < limit_s:
            return
    raise AssertionError(took_s)


async def test_ready_once_a_poll_succeeded(
    sandbox: Sandbox, tmp_path: Path, started: list[Process], manager: Manager
) -> None:
    """It is not ready before its first poll has been answered; then it sends a status and pings."""
    started.append(Process(sandbox, tmp_path, handlers=sooner("_STATUS_EVERY_S", 1), **manager.environ))
    ready = await manager.hears("READY=1")
    assert sandbox.log.by_operation["BatchReceiveMessage"] >= 1
    assert one("STATUS", ready).startswith(f"{QUEUE}: 0 in flight, last poll ")
    assert await manager.pings(1.2) >= 3
    await manager.hears("STATUS=")


@pytest.mark.measured
async def test_a_degraded_start_is_declared(tmp_path: Path, started: list[Process], manager: Manager) -> None:
    """With no queue to poll it is ready, sends the reason as its status, and keeps pinging."""
    async with Sandbox.on_free_port() as gone:
        gone.account.ensure(QUEUE)
        url = gone.url
    daemon = Process(gone, tmp_path, f"endpoint={url}", **manager.environ)
    started.append(daemon)
    ready = await manager.hears("READY=1")
    assert "connect" in one("STATUS", ready)
    await daemon.logged("started, but a queue can't be polled yet")
    assert await manager.pings(1.2) >= 3


@pytest.mark.measured
async def test_a_hung_service_is_pinged_for(tmp_path: Path, started: list[Process], manager: Manager) -> None:
    """A service that accepts connections and never answers delays the start; the daemon pings meanwhile."""
    # Nothing calls accept(): the kernel takes the connections and buffers what is sent.
    with socket.create_server(("127.0.0.1", 0), backlog=64) as hung:
        url = f"http://127.0.0.1:{hung.getsockname()[1]}"
        async with Sandbox.on_free_port() as unused:
            handlers = sooner("_FIRST_POLLS_S", 4)
            daemon = Process(unused, tmp_path, f"endpoint={url}", handlers=handlers, **manager.environ)
        started.append(daemon)
        await manager.hears("WATCHDOG=1", 15)
        assert await manager.pings(2.0) >= 4
        ready = await manager.hears("READY=1", 12)
        assert one("STATUS", ready) == f"{QUEUE}: 0 in flight, no poll yet"
        await daemon.logged("no answer yet")
        assert await manager.pings(1.2) >= 3
        daemon.kill()


@pytest.mark.measured
async def test_reload_and_stop_come_in_order(
    sandbox: Sandbox, tmp_path: Path, started: list[Process], manager: Manager
) -> None:
    """A reload is reported at its begin, with the monotonic time, and at its end; a stop asks for its deadline."""
    daemon = Process(sandbox, tmp_path, "stop_deadline_s=7", **manager.environ)
    started.append(daemon)
    await manager.hears("READY=1")
    asked_us = time.monotonic_ns() // 1000
    daemon.process.send_signal(signal.SIGHUP)
    reloading = await manager.hears("RELOADING=1")
    assert asked_us <= int(one("MONOTONIC_USEC", reloading)) <= time.monotonic_ns() // 1000
    await manager.hears("READY=1")
    daemon.process.send_signal(signal.SIGTERM)
    await manager.hears("STOPPING=1")
    extension = await manager.hears("EXTEND_TIMEOUT_USEC=")
    assert int(one("EXTEND_TIMEOUT_USEC", extension)) == 12_000_000
    assert await daemon.ended() == 0
    words = [text.partition("=")[0] for _, text in manager.heard if not text.startswith(("WATCHDOG", "STATUS"))]
    assert words == ["READY", "RELOADING", "READY", "STOPPING", "EXTEND_TIMEOUT_USEC"]


async def test_a_migration_is_given_time(
    sandbox: Sandbox, tmp_path: Path, started: list[Process], manager: Manager
) -> None:
    """While the store is migrated the manager is asked for more time, before the daemon is ready."""
    new_file(tmp_path / "ledger.db").close()
    takes_long = f"{PLAIN_HANDLERS}{in_a_process(write_revision(tmp_path / 'migrations'))}"
    takes_long += "import time\nmigration = schema.migration\n"
    takes_long += "schema.migration = lambda *of: time.sleep(1.5) or migration(*of)\n"
    started.append(Process(sandbox, tmp_path, handlers=takes_long, **manager.environ))
    assert await manager.hears("STATUS=migrating the store")
    await manager.hears("READY=1")
    extended = [one("EXTEND_TIMEOUT_USEC", text) for _, text in manager.heard if text.startswith("EXTEND")]
    assert set(extended) == {"60000000"}


async def test_a_blocked_loop_is_not_pinged_for(
    sandbox: Sandbox, tmp_path: Path, started: list[Process], manager: Manager
) -> None:
    """While a handler blocks the event loop no ping is sent; afterwards pings are sent again."""
    started.append(Process(sandbox, tmp_path, handlers=HANDLERS, **manager.environ))
    await manager.hears("READY=1")
    sandbox.put(QUEUE, body(function="VideoClip").decode())
    await anyio.sleep(0.5)
    await manager.pings(0.3)
    assert await manager.pings(2.0) == 0
    await manager.hears("WATCHDOG=1")


async def test_full_slots_are_pinged_for(
    sandbox: Sandbox, tmp_path: Path, started: list[Process], manager: Manager
) -> None:
    """Slots that are full of handlers at work are progress, though no poll is made."""
    for number in range(3):
        sandbox.put(QUEUE, body(f"{number:032x}", "CaptionExtraction").decode())
    flags = ("slots=2", "stop_deadline_s=1")
    daemon = Process(sandbox, tmp_path, *flags, handlers=HANDLERS, **manager.environ)
    started.append(daemon)
    await manager.hears("READY=1")
    await anyio.sleep(1)
    polls = sandbox.log.by_operation["BatchReceiveMessage"]
    assert await manager.pings(2.0) >= 5
    assert sandbox.log.by_operation["BatchReceiveMessage"] == polls


@pytest.mark.measured
async def test_stuck_threads_ask_for_a_restart(
    sandbox: Sandbox, tmp_path: Path, started: list[Process], manager: Manager
) -> None:
    """Stuck threads are replaced, so jobs are handled, up to the limit; then the watchdog is no longer pinged."""
    daemon = Process(
        sandbox,
        tmp_path,
        *("stuck_limit=2", "slots=1", "max_hold_s=10", "lease_step_s=10", "handler_timeout_s=1"),
        handlers=PLAIN_HANDLERS.replace('@handler("VideoClip")', '@handler("VideoClip", max_hold_s=1)'),
        **manager.environ,
    )
    started.append(daemon)
    await daemon.logged('"event":"started"')
    sandbox.put(QUEUE, body("1" * 32, "VideoClip").decode())
    await daemon.logged("stuck")
    sandbox.put(QUEUE, body("2" * 32).decode())
    await daemon.logged("job done")
    assert await manager.pings(1.2) >= 3
    sandbox.put(QUEUE, body("3" * 32, "VideoClip").decode())
    with anyio.fail_after(8):
        while await manager.pings(1.0):
            pass
    assert await manager.pings(1.0) == 0


async def test_a_reload_takes_new_handlers_for_what_comes(
    sandbox: Sandbox, tmp_path: Path, started: list[Process]
) -> None:
    """Running handlers end by the old file; messages received after the reload are handled by the new one."""
    daemon = Process(sandbox, tmp_path, handlers=HANDLERS)
    started.append(daemon)
    sandbox.put(QUEUE, body("1" * 32).decode())
    await daemon.logged("begun by the first")
    (tmp_path / "handlers" / "mine.py").write_text(SECOND)
    daemon.process.send_signal(signal.SIGHUP)
    await daemon.logged('"event":"reloaded"')
    sandbox.put(QUEUE, body("2" * 32).decode())
    await daemon.logged("begun by the second")
    await daemon.logged("ended by the first")
    await daemon.logged("ended by the second")
    assert "begun by the first" not in daemon.log.read_text().partition('"event":"reloaded"')[2]


@pytest.mark.measured
async def test_a_wrong_reload_keeps_what_is_there(sandbox: Sandbox, tmp_path: Path, started: list[Process]) -> None:
    """A broken file, a wrong setting and one that takes a restart are each logged; the old handlers stay."""
    settings = tmp_path / "settings.toml"
    settings.write_text("max_failures = 3\n")
    daemon = Process(sandbox, tmp_path, handlers=HANDLERS, MNS_CONSUMER_CONFIG=str(settings))
    started.append(daemon)
    await daemon.logged('"event":"started"')
    for wrong, line in (
        ("max_failures = 0\n", "max_failures"),
        ("slotz = 4\n", "did you mean slots?"),
        ("slots = 4\n", "slots: it has changed, and that takes a restart"),
    ):
        settings.write_text(wrong)
        daemon.process.send_signal(signal.SIGHUP)
        await daemon.logged(line)
    settings.write_text("max_failures = 3\n")
    mine = tmp_path / "handlers" / "mine.py"
    mine.write_text("def broken(:\n")
    daemon.process.send_signal(signal.SIGHUP)
    await daemon.logged("SyntaxError")
    sandbox.put(QUEUE, body("1" * 32).decode())
    await daemon.logged("ended by the first")
    assert daemon.process.poll() is None
    lines = [line for line in daemon.log.read_text().splitlines() if "reload refused" in line]
    assert len(lines) == 4
    mine.write_text(SECOND)
    daemon.process.send_signal(signal.SIGHUP)
    await daemon.logged('"event":"reloaded"')
    sandbox.put(QUEUE, body("2" * 32).decode())
    await daemon.logged("ended by the second")
