"""The hook of dead letters in a daemon of its own that is killed between a letter and the end of its hook."""

from __future__ import annotations

import json
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import anyio
import pytest

from consumer.sandbox import Sandbox
from tests.engine.rig import QUEUE, body
from tests.patience import CROWD
from tests.process.rig import Process

HANDLERS = """
import os, signal
from pathlib import Path
from mns_consumer import Job, Letter, Reject, handler, on_dead_letter

TRIES = Path(__file__).with_name("tries")

@handler("Cover")
async def cover(job: Job) -> None:
    raise Reject("not this one")

@on_dead_letter
async def notify(letter: Letter) -> None:
    with TRIES.open("a") as tries:
        tries.write(f"{letter.id} {letter.reason}\\n")
    count = len(TRIES.read_text().splitlines())
    if count == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if count == 2:
        raise ConnectionError("no route to the chat")
"""


def time_passes(ledger: Path) -> float | None:
    """Let what is put off be due now; returns when the one letter's hook was due, ``None`` for never."""
    with closing(sqlite3.connect(ledger)) as connection, connection:
        ((due_at, stored_at),) = connection.execute("SELECT hook_at, stored_at FROM letter WHERE id = 1").fetchall()
        connection.execute("UPDATE letter SET hook_at = 1 WHERE hook_at IS NOT NULL")
    return None if due_at is None else due_at - stored_at


@pytest.mark.measured
async def test_a_hook_survives_the_kill_of_its_daemon(sandbox: Sandbox, tmp_path: Path) -> None:
    """A hook whose daemon was killed in it is called by the next daemon, and again after it has failed."""
    tries, ledger = tmp_path / "handlers" / "tries", tmp_path / "ledger.db"
    first = Process(sandbox, tmp_path, handlers=HANDLERS)
    try:
        sandbox.put(QUEUE, body().decode())
        assert await first.ended() == -signal.SIGKILL
    finally:
        first.kill()
    due_s = time_passes(ledger)
    assert due_s is not None
    assert 59 < due_s < 70
    second = Process(sandbox, tmp_path, handlers=HANDLERS)
    try:
        await second.logged("dead-letter hook failed")
        lines = [json.loads(line) for line in second.log.read_text().splitlines()]
        (line,) = [line for line in lines if line["event"] == "dead-letter hook failed"]
        assert (line["letter"], line["reason"], line["queue"]) == (1, "rejected", QUEUE)
        assert line["error"] == "ConnectionError: no route to the chat"
        assert line["exception"][0]["frames"][-1]["name"] == "notify"
        assert time_passes(ledger) is not None
        # Another letter wakes the daemon before its minute is over.
        sandbox.put(QUEUE, body("b" * 32).decode())
        with anyio.fail_after(CROWD * 10):
            while len(tries.read_text().splitlines()) < 4:  # noqa: ASYNC110 - another process writes it
                await anyio.sleep(0.02)
        assert await second.stop() == 0
    finally:
        second.kill()
    assert sorted(tries.read_text().splitlines()) == ["1 rejected"] * 3 + ["2 rejected"]
    assert time_passes(ledger) is None
