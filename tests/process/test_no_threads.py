"""A daemon whose process can start no further thread sets no message aside for it, and reloads and stops."""

from __future__ import annotations

import resource
import signal
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import anyio
import pytest

from consumer.sandbox import Sandbox
from tests.engine.rig import QUEUE, body
from tests.process.rig import Process

HANDLERS = """
import threading
import time
from mns_consumer import Job, handler

@handler("Cover")
async def cover(job: Job) -> None:
    # More than is left of the address space once it is limited: so the system itself refuses every new thread. The
    # threads that are there have smaller stacks: one that ends leaves no room for a new one.
    threading.stack_size(256 * 1024 * 1024)

@handler("VideoClip")
def plain(job: Job) -> None:
    print("begun", flush=True)
    if job.job_id[0] == "f":
        time.sleep(600)
"""
ROOM = 128 * 1024 * 1024


def memory_of(process: int) -> int:
    """The size of its address space in bytes."""
    status = Path(f"/proc/{process}/status").read_text()
    (size,) = [int(line.split()[1]) for line in status.splitlines() if line.startswith("VmSize:")]
    return size * 1024


async def refuse_threads(sandbox: Sandbox, daemon: Process) -> None:
    """Leave a daemon memory to work with, but none for one more stack."""
    sandbox.put(QUEUE, body("b" * 32).decode())
    await daemon.logged("job done")
    process = daemon.process.pid
    size = memory_of(process)
    _, most = resource.prlimit(process, resource.RLIMIT_AS)
    resource.prlimit(process, resource.RLIMIT_AS, (size + ROOM, most))


@pytest.mark.timeout(30)
@pytest.mark.measured
async def test_without_threads_jobs_are_given_back_and_the_daemon_stops(
    sandbox: Sandbox, tmp_path: Path, started: list[Process]
) -> None:
    """Jobs of plain functions wait, none keeps a start on record, async ones are handled, a stop keeps its deadline."""
    daemon = Process(sandbox, tmp_path, "stop_deadline_s=2", handlers=HANDLERS)
    started.append(daemon)
    await daemon.logged('"event":"started"')
    sandbox.put(QUEUE, body("f" * 32, "VideoClip").decode())
    await daemon.logged("begun")
    await refuse_threads(sandbox, daemon)
    plain = sandbox.put(QUEUE, body("a" * 32, "VideoClip").decode())
    # Handed out often before: so its start is written down.
    plain.dequeue_count = 1
    queue = sandbox.account.get(QUEUE).queue
    for times in range(1, 7):
        with anyio.fail_after(5):
            while daemon.log.read_text().count("no thread could be started for the handler") < times:  # noqa: ASYNC110 - another process writes it
                await anyio.sleep(0.02)
        await anyio.sleep(0.1)
        queue.revoke(plain)
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as connection:
        assert connection.execute("SELECT * FROM attempt WHERE starts > 0").fetchall() == []
        assert connection.execute("SELECT * FROM letter").fetchall() == []
    sandbox.put(QUEUE, body("c" * 32).decode())
    await daemon.logged("c" * 32)
    daemon.process.send_signal(signal.SIGHUP)
    await daemon.logged("no thread could be started to read them")
    asked_at = time.monotonic()
    assert await daemon.stop() == 0
    assert time.monotonic() - asked_at < 6
    assert "Traceback" not in daemon.log.read_text()


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
async def test_an_idle_daemon_without_threads_stops_in_order(
    sandbox: Sandbox, tmp_path: Path, started: list[Process], loop: str
) -> None:
    """A stop that needs no thread ends with exit code 0 and logs its last line."""
    text = HANDLERS if loop == "uvloop" else f"import sys; sys.modules['uvloop'] = None{HANDLERS}"
    daemon = Process(sandbox, tmp_path, handlers=text)
    started.append(daemon)
    await daemon.logged('"event":"started"')
    await refuse_threads(sandbox, daemon)
    assert await daemon.stop() == 0
    assert '"event":"stopped"' in daemon.log.read_text()
    assert "Traceback" not in daemon.log.read_text()
