"""The daemon as a real process: signals, exit codes, threads that never return, the service manager's socket."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from consumer.sandbox import Sandbox, SandboxSettings
from tests.engine.rig import QUEUE, body

HANDLERS = """
import time
from consumer import Job, handler

@handler("Cover")
async def cover(job: Job) -> None:
    pass

@handler("VideoClip")
def never_returns(job: Job) -> None:
    print("begun", flush=True)
    time.sleep(600)
"""


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(SandboxSettings(port=0)) as running:
        running.account.ensure(QUEUE)
        yield running


class Process:
    """A daemon of its own on one queue.

    Args:
        sandbox: Whose queue.
        folder: Where its handlers, its ledger and its log are.
        environ: Variables besides those that every test sets.
        flags: Settings as ``KEY=VALUE``.
    """

    def __init__(self, sandbox: Sandbox, folder: Path, *flags: str, **environ: str) -> None:
        (folder / "handlers").mkdir(exist_ok=True)
        (folder / "handlers" / "mine.py").write_text(HANDLERS)
        self.log = folder / "daemon.log"
        settings = [
            f"notify_url={sandbox.notify_url(QUEUE)}",
            f"endpoint={sandbox.url}",
            f"handlers_dir={folder / 'handlers'}",
            f"store={folder / 'ledger.db'}",
            "admin_port=0",
            *flags,
        ]
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "consumer", "run", *(part for text in settings for part in ("--set", text))],
                stdout=out,
                stderr=out,
                env={
                    **os.environ,
                    "HOME": str(folder),
                    "ALIBABA_CLOUD_ECS_METADATA_DISABLED": "true",
                    "MNS_CONSUMER_ACCESS_KEY_ID": "sandbox",
                    "MNS_CONSUMER_ACCESS_KEY_SECRET": "sandbox",
                    **environ,
                },
            )

    async def told(self, text: str, within_s: float = 10) -> None:
        """Wait until the log holds a text."""
        with anyio.fail_after(within_s):
            while text not in self.log.read_text():  # noqa: ASYNC110 - another process writes it
                await anyio.sleep(0.02)

    async def ended(self, within_s: float = 10) -> int:
        """Wait for the exit code."""
        return await anyio.to_thread.run_sync(lambda: self.process.wait(within_s))


@pytest.fixture
def started() -> Iterator[list[Process]]:
    processes: list[Process] = []
    yield processes
    for each in processes:
        if each.process.poll() is None:
            each.process.kill()
            each.process.wait()


async def test_sigterm_ends_an_idle_daemon_at_once(sandbox: Sandbox, tmp_path: Path, started: list[Process]) -> None:
    """After SIGTERM an idle daemon has ended within 1 s, with exit code 0."""
    daemon = Process(sandbox, tmp_path)
    started.append(daemon)
    await daemon.told('"event":"started"')
    await anyio.sleep(0.3)
    asked_at = time.monotonic()
    daemon.process.send_signal(signal.SIGTERM)
    assert await daemon.ended() == 0
    # Half a second for the poll under way, some for the interpreter to go.
    assert time.monotonic() - asked_at < 1.2


async def test_a_thread_that_never_returns_does_not_keep_the_process(
    sandbox: Sandbox, tmp_path: Path, started: list[Process]
) -> None:
    """With a plain function that never returns, the process still ends within its deadline; its message stays."""
    sandbox.put(QUEUE, body(function="VideoClip").decode())
    daemon = Process(sandbox, tmp_path, "stop_deadline_s=2")
    started.append(daemon)
    await daemon.told("begun")
    asked_at = time.monotonic()
    daemon.process.send_signal(signal.SIGTERM)
    assert await daemon.ended() == 0
    assert time.monotonic() - asked_at < 3
    assert len(sandbox.messages(QUEUE)) == 1


async def test_a_second_signal_ends_the_waiting(sandbox: Sandbox, tmp_path: Path, started: list[Process]) -> None:
    """A second signal ends the process within 2 s though its deadline is far."""
    sandbox.put(QUEUE, body(function="VideoClip").decode())
    daemon = Process(sandbox, tmp_path, "stop_deadline_s=60")
    started.append(daemon)
    await daemon.told("begun")
    daemon.process.send_signal(signal.SIGTERM)
    await daemon.told('"event":"stopping"')
    asked_at = time.monotonic()
    daemon.process.send_signal(signal.SIGINT)
    assert await daemon.ended() == 0
    assert time.monotonic() - asked_at < 2


async def test_a_second_daemon_on_one_file_refuses(sandbox: Sandbox, tmp_path: Path, started: list[Process]) -> None:
    """A second daemon on the same SQLite file ends with 75 and one line that names the file."""
    first = Process(sandbox, tmp_path)
    started.append(first)
    await first.told('"event":"started"')
    (tmp_path / "second").mkdir()
    second = Process(sandbox, tmp_path / "second", f"store={tmp_path / 'ledger.db'}")
    started.append(second)
    assert await second.ended() == 75
    lines = [line for line in second.log.read_text().splitlines() if line.startswith("error")]
    assert len(lines) == 1
    assert "ledger.db" in lines[0]


async def test_a_killed_daemon_loses_nothing(sandbox: Sandbox, tmp_path: Path, started: list[Process]) -> None:
    """What a killed daemon had not ended is handled by the next one on the same file."""
    sandbox.account.create("brief", {"VisibilityTimeout": "2"})
    for number in range(50):
        sandbox.put("brief", body(f"{number:032x}").decode())
    first = Process(sandbox, tmp_path, f"notify_url={sandbox.notify_url('brief')}")
    started.append(first)
    await first.told("job done")
    first.process.kill()
    first.process.wait()
    second = Process(sandbox, tmp_path, f"notify_url={sandbox.notify_url('brief')}")
    started.append(second)
    with anyio.fail_after(12):
        while sandbox.messages("brief"):  # noqa: ASYNC110 - another process empties it
            await anyio.sleep(0.05)


async def test_the_service_manager_is_told(sandbox: Sandbox, tmp_path: Path, started: list[Process]) -> None:
    """Under a notify socket the daemon says that it is ready, pings the watchdog, and says that it stops."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(5)
        daemon = Process(sandbox, tmp_path, NOTIFY_SOCKET=str(tmp_path / "notify"), WATCHDOG_USEC="400000")
        started.append(daemon)
        heard: list[str] = []

        def listen(for_what: str) -> None:
            while not any(for_what in text for text in heard):
                heard.append(manager.recv(4096).decode())

        await anyio.to_thread.run_sync(listen, "READY=1")
        await anyio.to_thread.run_sync(listen, "WATCHDOG=1")
        daemon.process.send_signal(signal.SIGTERM)
        await anyio.to_thread.run_sync(listen, "STOPPING=1")
        assert await daemon.ended() == 0
