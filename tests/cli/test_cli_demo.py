"""demo: the whole job in one command."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from consumer.cli.demo import _row, demo_jobs
from consumer.functions.catalogue import names
from consumer.store.ledger import JobRecord, StoredJob
from tests.patience import CROWD

Cli = Callable[..., Any]


@pytest.mark.measured
def test_the_demo(process: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It ends with 0 in under 15 s: 16 typed rows, the failed job, what was set aside.

    It uses no setting, and removes its files.
    """
    monkeypatch.setenv("MNS_CONSUMER_SLOTS", "nonsense")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    began = time.monotonic()
    ran = process("demo")
    took_s = time.monotonic() - began
    assert ran.code == 0, ran.out + ran.err
    assert took_s < 15 * CROWD
    rows = [line.split("│") for line in ran.out.splitlines() if line.startswith("│ ")]
    states = [(row[1].strip(), row[2].strip()) for row in rows if row[1].strip()]
    assert states == [*((name, "Success") for name in names()), ("Cover", "Fail")]
    assert '{"order": 1, "who": "demo"}' in ran.out
    assert "unrouted: " in ran.out
    assert "undecodable: " in ran.out
    assert "Delivered twice: 1 notification; its handler ran once." in ran.out
    assert "Lost: 1 notification; the end of its job was found by asking MPS." in ran.out
    assert "Refused before it was sent: JobParams.Model: expected what is made" in ran.out
    assert "16 of 16 results arrived typed" in ran.out
    assert ran.err == ""
    assert not list(tmp_path.glob("mns-consumer-demo-*"))


def test_on_a_terminal() -> None:
    """On a terminal there are live bars."""
    main_side, its_side = pty.openpty()
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "160"}
    demo = subprocess.Popen([sys.executable, "-m", "consumer", "demo"], stdout=its_side, stderr=its_side, env=env)
    os.close(its_side)
    parts: list[bytes] = []
    while True:
        try:
            part = os.read(main_side, 65536)
        except OSError:  # Linux says so when the other side has ended
            break
        if not part:
            break
        parts.append(part)
    os.close(main_side)
    assert demo.wait(5 * CROWD) == 0
    text = b"".join(parts).decode()
    assert "jobs handled, results typed" in text
    assert "17/17" in text


@pytest.mark.measured
def test_keep(start: Cli, fetch: Callable[[str], str]) -> None:
    """With --keep it keeps serving the metrics until a signal; its exit code is the demo's."""
    started = start("demo", "--keep")
    url = started.wait_for(r"curl (http://\S+/metrics)", 15)[1]
    assert 'outcome="done"' in fetch(url)
    started.wait_for("Ctrl-C ends it")
    assert started.end(signal.SIGINT) == 0


@pytest.mark.measured
def test_cut_short(start: Cli) -> None:
    """A signal before the end stops it in order, with the exit code of a failure."""
    started = start("demo")
    started.wait_for("submitted 17 jobs")
    assert started.end() == 1
    assert "Traceback" not in started.text()


@pytest.mark.parametrize(
    ("change", "good"),
    [
        pytest.param({}, True, id="as ordered"),
        pytest.param({"state": "Fail"}, False, id="failed though it should not"),
        pytest.param({"user_data": "other"}, False, id="UserData did not come back"),
        pytest.param({"result": '{"Data": "[1]", "Code": "Success"}'}, False, id="the result has another shape"),
    ],
)
def test_what_counts_as_good(*, change: dict[str, Any], good: bool) -> None:
    """A row is good only with the expected state, typed result and UserData."""
    order = next(job for job in demo_jobs() if job.function == "Cover")
    fields = {
        "state": "Success",
        "user_data": f'{{"order": {order.user_data["order"]}, "who": "demo"}}',
        "result": '{"Data": "[]", "Code": "Success"}',
        **change,
    }
    record = JobRecord(key="k", queue="q", kind="IProduction", function="Cover", message_id="m", **fields)
    assert _row(order, StoredJob(record, dead=False, stored_at=1.0), 0.5).good is good


def test_a_job_that_never_came() -> None:
    """A job without a record is a bad row that says so."""
    row = _row(demo_jobs()[0], None, 0.0)
    assert (row.good, row.state) == (False, "")
