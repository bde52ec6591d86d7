"""run and jobs run, as processes against the sandbox."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Cli = Callable[..., Any]
QueueUrl = Callable[[str], str]

BUCKET = "oss://b.oss-cn-hangzhou.aliyuncs.com"


def test_the_whole_way(
    *,
    start: Cli,
    cli: Cli,
    keys: str,
    queue_url: QueueUrl,
    handlers_dir: Path,
    tmp_path: Path,
    fetch: Callable[..., str],
) -> None:
    """A job of submit reaches a drop-in handler of run, shows in /metrics, and SIGTERM ends the daemon with 0."""
    queue = queue_url("whole-way")
    fetch(f"{keys}/_sandbox/queues/whole-way", "PUT", b"{}")
    started = start(
        *("run", "--handlers", str(handlers_dir), "--notify-url", queue, "--store", str(tmp_path / "s.db")),
        *("--admin-port", "0", "--log-format", "json"),
    )
    port = started.wait_for(r'"admin_port":\s*(\d+)')[1]
    files = ("--input", f"{BUCKET}/a.mp4", "--output", f"{BUCKET}/{{source}}-{{sequenceId}}.jpg")
    submit = ("submit", "--function", "Cover", *files, "--notify-url", queue)
    assert cli(*submit, "--user-data", '{"order": 7}').code == 0
    line = started.wait_for('"my own cover".*')[0]
    assert re.search(r'"stills":\s*5', line)
    assert re.search(r'"order":\s*7', line)
    started.wait_for('"job done"')
    metrics = fetch(f"http://127.0.0.1:{port}/metrics")
    assert 'mns_consumer_jobs_total{function="Cover",outcome="done",queue="whole-way"} 1.0' in metrics
    assert started.end() == 0
    assert "Traceback" not in started.text()


def test_a_store_with_an_owner(
    *, start: Cli, process: Cli, keys: str, queue_url: QueueUrl, tmp_path: Path, fetch: Callable[..., str]
) -> None:
    """A second daemon on the same store ends with 75 and says why."""
    fetch(f"{keys}/_sandbox/queues/owned", "PUT", b"{}")
    argv = ("run", "--shipped", "--notify-url", queue_url("owned"), "--store", str(tmp_path / "s.db"))
    first = start(*argv, "--admin-port", "0")
    first.wait_for("started")
    second = process(*argv, "--admin-port", "0")
    assert second.code == 75
    assert "error: " in second.err
    assert "Traceback" not in second.err
    assert first.end() == 0


def test_a_port_that_is_taken(
    *, process: Cli, keys: str, queue_url: QueueUrl, tmp_path: Path, fetch: Callable[..., str]
) -> None:
    """A daemon whose admin port another program has ends with 75 and says what to do."""
    fetch(f"{keys}/_sandbox/queues/taken", "PUT", b"{}")
    argv = ("run", "--shipped", "--notify-url", queue_url("taken"), "--store", str(tmp_path / "s.db"))
    with socket.create_server(("127.0.0.1", 0)) as other:
        ran = process(*argv, "--admin-port", str(other.getsockname()[1]))
    assert ran.code == 75
    assert ran.err.splitlines()[-1].startswith("error: admin_host, admin_port: can't listen on '127.0.0.1' port")
    assert ran.err.endswith("another program listens there; end it, or set admin_port to a free port\n")


def test_jobs_run(cli: Cli, process: Cli, keys: str, queue_url: QueueUrl, tmp_path: Path) -> None:
    """A job without a message is handled by its id, once; an unknown id ends with an error."""
    files = ("--input", f"{BUCKET}/a.mp4", "--output", f"{BUCKET}/b.mp4")
    job_id = cli("submit", "--function", "VideoClip", *files).out.strip()
    argv = ("--shipped", "--notify-url", queue_url("by-hand"), "--store", str(tmp_path / "s.db"))
    time.sleep(0.3)
    first = process("jobs", "run", job_id, *argv)
    assert (first.code, first.out.strip()) == (0, "done"), first.err
    again = process("jobs", "run", job_id, *argv)
    assert (again.code, again.out.strip()) == (0, "duplicate")
    unknown = process("jobs", "run", "0" * 32, *argv)
    assert unknown.code in {1, 2}
    assert "is not an intelligent production job" in unknown.err
