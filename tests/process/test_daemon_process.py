"""The daemon as a real process: signals, exit codes, threads that never return."""

from __future__ import annotations

import json
import signal
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from consumer.sandbox import Sandbox
from tests.engine.rig import QUEUE, body
from tests.process.rig import Process


async def test_sigterm_ends_an_idle_daemon_at_once(sandbox: Sandbox, tmp_path: Path, started: list[Process]) -> None:
    """After SIGTERM an idle daemon ends with exit code 0, one of three within about a second."""
    took_s: list[float] = []
    # Half a second for the poll under way, some for the interpreter to go.
    while not took_s or (min(took_s) > 1.2 and len(took_s) < 3):
        daemon = Process(sandbox, tmp_path)
        started.append(daemon)
        await daemon.logged('"event":"started"')
        await anyio.sleep(0.3)
        asked_at = time.monotonic()
        daemon.process.send_signal(signal.SIGTERM)
        assert await daemon.ended() == 0
        took_s.append(time.monotonic() - asked_at)
    assert min(took_s) <= 1.2


@pytest.mark.measured
async def test_a_thread_that_never_returns_does_not_keep_the_process(
    sandbox: Sandbox, tmp_path: Path, started: list[Process]
) -> None:
    """With a plain function that never returns, the process still ends within its deadline; its message stays."""
    sandbox.put(QUEUE, body(function="VideoClip").decode())
    daemon = Process(sandbox, tmp_path, "stop_deadline_s=2")
    started.append(daemon)
    await daemon.logged("begun")
    asked_at = time.monotonic()
    daemon.process.send_signal(signal.SIGTERM)
    assert await daemon.ended() == 0
    assert time.monotonic() - asked_at < 6
    assert len(sandbox.messages(QUEUE)) == 1


@pytest.mark.measured
async def test_a_second_signal_ends_the_waiting(sandbox: Sandbox, tmp_path: Path, started: list[Process]) -> None:
    """A second signal ends the process at once though its deadline is far."""
    sandbox.put(QUEUE, body(function="VideoClip").decode())
    daemon = Process(sandbox, tmp_path, "stop_deadline_s=60")
    started.append(daemon)
    await daemon.logged("begun")
    daemon.process.send_signal(signal.SIGTERM)
    await daemon.logged('"event":"stopping"')
    asked_at = time.monotonic()
    daemon.process.send_signal(signal.SIGINT)
    assert await daemon.ended() == 0
    assert time.monotonic() - asked_at < 8


async def test_a_second_daemon_on_one_file_refuses(sandbox: Sandbox, tmp_path: Path, started: list[Process]) -> None:
    """A second daemon on the same SQLite file ends with 75 and one line that names the file."""
    first = Process(sandbox, tmp_path)
    started.append(first)
    await first.logged('"event":"started"')
    (tmp_path / "second").mkdir()
    second = Process(sandbox, tmp_path / "second", f"store={tmp_path / 'ledger.db'}")
    started.append(second)
    assert await second.ended() == 75
    lines = [line for line in second.log.read_text().splitlines() if line.startswith("error")]
    assert len(lines) == 1
    assert "ledger.db" in lines[0]


async def test_a_killed_daemon_loses_nothing(sandbox: Sandbox, tmp_path: Path, started: list[Process]) -> None:
    """Jobs that a killed daemon had not ended are handled by the next one on the same file."""
    sandbox.account.create("brief", {"VisibilityTimeout": "2"})
    for number in range(50):
        sandbox.put("brief", body(f"{number:032x}").decode())
    first = Process(sandbox, tmp_path, f"notify_url={sandbox.notify_url('brief')}")
    started.append(first)
    await first.logged("job done")
    first.kill()
    second = Process(sandbox, tmp_path, f"notify_url={sandbox.notify_url('brief')}")
    started.append(second)
    with anyio.fail_after(12):
        while sandbox.messages("brief"):  # noqa: ASYNC110 - another process empties it
            await anyio.sleep(0.05)


SHIELDED = """
import anyio
from mns_consumer import Job, handler

@handler("Cover")
async def cover(job: Job) -> None:
    print("begun", flush=True)
    with anyio.CancelScope(shield=True):
        await anyio.sleep(600)
"""


async def test_a_handler_that_shields_itself_does_not_keep_the_process(
    sandbox: Sandbox, tmp_path: Path, started: list[Process]
) -> None:
    """A handler that can't be cancelled is left behind at the deadline; its message stays."""
    sandbox.put(QUEUE, body().decode())
    daemon = Process(sandbox, tmp_path, "stop_deadline_s=2", handlers=SHIELDED)
    started.append(daemon)
    await daemon.logged("begun")
    asked_at = time.monotonic()
    assert await daemon.stop() == 0
    assert time.monotonic() - asked_at < 6
    assert len(sandbox.messages(QUEUE)) == 1


async def test_a_store_that_hangs_does_not_keep_the_process(
    sandbox: Sandbox, tmp_path: Path, started: list[Process]
) -> None:
    """With its store locked by another process, a stop still ends within its deadline, and nothing is deleted."""
    daemon = Process(sandbox, tmp_path, "stop_deadline_s=2")
    started.append(daemon)
    await daemon.logged('"event":"started"')
    with closing(sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        sandbox.put(QUEUE, body().decode())
        await anyio.sleep(0.5)
        asked_at = time.monotonic()
        await daemon.stop()
        assert time.monotonic() - asked_at < 6
    assert len(sandbox.messages(QUEUE)) == 1


LOGGING_HANDLERS = """
import logging
import structlog
from mns_consumer import Job, handler

log = structlog.get_logger()

@handler("Cover")
async def cover(job: Job) -> None:
    log.info("seen", film=7)

@handler("VideoClip")
def clip(job: Job) -> None:
    logging.getLogger(__name__).warning("seen by %s", "logging")
"""


async def test_lines_of_a_handler_name_its_job(sandbox: Sandbox, tmp_path: Path, started: list[Process]) -> None:
    """What a handler logs, by structlog or by the standard library, in a task or a thread, has its job's fields."""
    sandbox.put(QUEUE, body(f"{1:032x}").decode())
    sandbox.put(QUEUE, body(f"{2:032x}", "VideoClip").decode())
    daemon = Process(sandbox, tmp_path, handlers=LOGGING_HANDLERS)
    started.append(daemon)
    await daemon.logged('"event":"seen"')
    await daemon.logged('"event":"seen by logging"')
    await daemon.logged("job done")
    assert await daemon.stop() == 0
    lines = [json.loads(line) for line in daemon.log.read_text().splitlines()]
    done = {line["job_id"]: line for line in lines if line["event"] == "job done"}
    for event, function in (("seen", "Cover"), ("seen by logging", "VideoClip")):
        (line,) = (line for line in lines if line["event"] == event)
        assert (line["function"], line["attempt"], line["queue"]) == (function, 1, QUEUE)
        assert line["message_id"] == done[line["job_id"]]["message_id"]
    assert not [line for line in done.values() if "film" in line]
