"""A daemon whose disk hangs, whose store's files are moved away, or whose store's thread dies."""

from __future__ import annotations

import shutil
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from consumer.sandbox import Sandbox
from tests.engine.rig import QUEUE, body
from tests.process.rig import HANDLERS, Process

HANGING = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <unistd.h>
static void hang(void) { while (access(getenv("HANG_WHILE"), F_OK) == 0) usleep(20000); }
int fsync(int fd) { hang(); return ((int (*)(int)) dlsym(RTLD_NEXT, "fsync"))(fd); }
int fdatasync(int fd) { hang(); return ((int (*)(int)) dlsym(RTLD_NEXT, "fdatasync"))(fd); }
"""
SOON = """
from consumer.engine import store_access
store_access.STALL_S, store_access._LOOK_S = 0.5, 0.1
"""
DYING = """
from consumer.store.sqlite import ledger as sqlite_ledger

@handler("Image")
async def dies(job: Job) -> None:
    def fault(calls):
        raise MemoryError("no memory left")
    sqlite_ledger.take = fault
"""


def ask(daemon: Process, path: str) -> tuple[int, str]:
    """What the daemon's admin server answers."""
    port = next(line.split('"admin_port":')[1] for line in daemon.log.read_text().splitlines() if "admin_port" in line)
    address = f"http://127.0.0.1:{port.split(',')[0].split('}')[0]}{path}"
    try:
        with urllib.request.urlopen(address, timeout=5) as answer:
            return int(answer.status), answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


async def asked(daemon: Process, path: str) -> tuple[int, str]:
    return await anyio.to_thread.run_sync(ask, daemon, path)


def figure(metrics: str, name: str) -> float:
    return next(float(line.split()[1]) for line in metrics.splitlines() if line.startswith(f"{name} "))


@pytest.fixture
def hanging(tmp_path: Path) -> Path:
    """A library that blocks every write to the disk while a certain file exists."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler")
    (tmp_path / "hanging.c").write_text(HANGING)
    library = tmp_path / "hanging.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, tmp_path / "hanging.c", "-ldl"], check=True)
    return library


async def test_a_disk_that_hangs_shows(sandbox: Sandbox, tmp_path: Path, hanging: Path, started: list[Process]) -> None:
    """While a write doesn't return the daemon is alive and not ready, the metric grows; two lines are logged."""
    hangs = tmp_path / "hangs"
    environ = {"LD_PRELOAD": str(hanging), "HANG_WHILE": str(hangs)}
    daemon = Process(sandbox, tmp_path, "wait_s=1", handlers=HANDLERS + SOON, **environ)
    started.append(daemon)
    await daemon.logged('"event":"started"')
    hangs.touch()
    sandbox.put(QUEUE, body("0" * 32).decode())
    await daemon.logged("the disk hangs under the store")
    await anyio.sleep(0.7)
    status, report = await asked(daemon, "/readyz")
    assert status == 503
    assert "a write takes 1 s; see the disk" in report
    assert (await asked(daemon, "/livez"))[0] == 200
    _, metrics = await asked(daemon, "/metrics")
    assert figure(metrics, "mns_consumer_store_busy_seconds") > 1
    assert figure(metrics, "mns_consumer_store_up") == 0
    hangs.unlink()
    await daemon.logged("the disk answers the store again")
    await daemon.logged('"event":"job done"')
    assert (await asked(daemon, "/readyz"))[0] == 200
    _, metrics = await asked(daemon, "/metrics")
    assert figure(metrics, "mns_consumer_store_busy_seconds") < 0.5
    assert figure(metrics, "mns_consumer_store_up") == 1
    assert await daemon.stop() == 0
    log = daemon.log.read_text()
    assert log.count("the disk hangs under the store") == log.count("the disk answers the store again") == 1


async def test_a_log_that_is_removed_pauses_the_daemon(
    sandbox: Sandbox, tmp_path: Path, started: list[Process]
) -> None:
    """One line, no polls and no readiness while the write-ahead log is away; with it back each job is handled once."""
    daemon = Process(sandbox, tmp_path, "wait_s=1")
    started.append(daemon)
    await daemon.logged('"event":"started"')
    sandbox.put(QUEUE, body("0" * 32).decode())
    await daemon.logged('"event":"job done"')
    wal, away = tmp_path / "ledger.db-wal", tmp_path / "away"
    wal.rename(away)
    sandbox.put(QUEUE, body("1" * 32).decode())
    await daemon.logged("store failed; polling pauses until it works")
    assert "ledger.db-wal was removed while the daemon used it" in daemon.log.read_text()
    assert (await asked(daemon, "/readyz"))[0] == 503
    assert (await asked(daemon, "/livez"))[0] == 200
    await anyio.sleep(0.3)
    polls = sandbox.log.by_operation["BatchReceiveMessage"]
    await anyio.sleep(1.2)
    assert sandbox.log.by_operation["BatchReceiveMessage"] == polls
    assert not wal.exists()
    away.rename(wal)
    await daemon.logged("store works again")
    with anyio.fail_after(10):
        while sandbox.messages(QUEUE):  # noqa: ASYNC110 - another process empties it
            await anyio.sleep(0.05)
    assert await daemon.stop() == 0
    log = daemon.log.read_text()
    assert log.count("store failed; polling pauses until it works") == log.count("store works again") == 1
    assert log.count('"event":"job done"') == 2


@pytest.mark.measured
async def test_a_store_whose_thread_dies_ends_the_daemon(
    sandbox: Sandbox, tmp_path: Path, started: list[Process]
) -> None:
    """It ends soon, with the reason in the log and exit code 1, also while a plain function never returns."""
    daemon = Process(sandbox, tmp_path, "wait_s=1", handlers=HANDLERS + DYING)
    started.append(daemon)
    await daemon.logged('"event":"started"')
    sandbox.put(QUEUE, body("0" * 32, FunctionName="VideoClip").decode())
    await daemon.logged("begun")
    sandbox.put(QUEUE, body("1" * 32, FunctionName="Image").decode())
    assert await daemon.ended() == 1
    log = daemon.log.read_text()
    assert "the store has died; the daemon ends" in log
    assert "its writer thread ended by MemoryError('no memory left'); restart the daemon" in log
