"""A disk that fills up while a daemon runs, and one that is read-only from the start: real ones, in memory."""

from __future__ import annotations

import contextlib
import os
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from consumer.sandbox import Sandbox
from tests.engine.rig import QUEUE, body
from tests.missing import missing
from tests.process.rig import Process

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts a disk")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 4 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m,mode=0700", "tmpfs", folder],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        missing(f"no disk can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def fill(disk: Path) -> None:
    with (disk / "ballast").open("wb", buffering=0) as ballast, contextlib.suppress(OSError):
        while True:
            ballast.write(bytes(4096))


def status(daemon: Process, path: str) -> int:
    """What the daemon's admin server answers."""
    port = next(line.split('"admin_port":')[1] for line in daemon.log.read_text().splitlines() if "admin_port" in line)
    address = f"http://127.0.0.1:{port.split(',')[0].split('}')[0]}{path}"
    try:
        with urllib.request.urlopen(address, timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.timeout(60)
async def test_a_disk_that_fills_up_pauses_the_daemon(
    sandbox: Sandbox, tmp_path: Path, disk: Path, started: list[Process]
) -> None:
    """While the disk is full messages stay, polls pause, readiness fails; afterwards each job is handled once."""
    daemon = Process(sandbox, tmp_path, f"store={disk / 'ledger.db'}", "wait_s=1")
    started.append(daemon)
    await daemon.logged('"event":"started"')
    sandbox.put(QUEUE, body("0" * 32).decode())
    await daemon.logged("job done")
    await anyio.to_thread.run_sync(fill, disk)
    for number in range(1, 200):
        sandbox.put(QUEUE, body(f"{number:032x}", UserData="x" * 1000).decode())
    await daemon.logged("store failed; polling pauses until it works")
    assert "full" in daemon.log.read_text()
    await anyio.sleep(1.2)
    before = sandbox.log.by_operation["BatchReceiveMessage"]
    await anyio.sleep(1.2)
    assert sandbox.log.by_operation["BatchReceiveMessage"] == before
    assert await anyio.to_thread.run_sync(status, daemon, "/readyz") == 503
    assert await anyio.to_thread.run_sync(status, daemon, "/livez") == 200
    assert sandbox.messages(QUEUE)
    (disk / "ballast").unlink()
    with anyio.fail_after(15):
        while sandbox.messages(QUEUE):  # noqa: ASYNC110 - another process empties it
            await anyio.sleep(0.05)
    assert await anyio.to_thread.run_sync(status, daemon, "/readyz") == 200
    assert await daemon.stop() == 0
    log = daemon.log.read_text()
    assert log.count("store failed; polling pauses until it works") == log.count("store works again") == 1
    assert log.count('"event":"job done"') == 200


async def test_a_disk_that_can_not_be_written_stops_the_start(
    sandbox: Sandbox, tmp_path: Path, disk: Path, started: list[Process]
) -> None:
    """On a disk that is mounted read-only the daemon does not start, takes nothing and names file and cause."""
    await anyio.run_process(["mount", "-o", "remount,ro", disk])
    sandbox.put(QUEUE, body().decode())
    daemon = Process(sandbox, tmp_path, f"store={disk / 'ledger.db'}")
    started.append(daemon)
    assert await daemon.ended() == 1
    (line,) = [line for line in daemon.log.read_text().splitlines() if line.startswith("error")]
    assert "ledger.db" in line
    assert "Read-only file system" in line
    assert [message.dequeue_count for message in sandbox.messages(QUEUE)] == [0]
