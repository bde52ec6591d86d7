"""check: a green or red line for each look, what to do, and no message taken."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from consumer.cli.check import _queue, _store
from consumer.config import load
from consumer.store.open import make_ledger

Cli = Callable[..., Any]
QueueUrl = Callable[[str], str]


@pytest.fixture
def queue(keys: str, queue_url: QueueUrl, fetch: Callable[..., str], request: pytest.FixtureRequest) -> str:
    """The NotifyUrl of a queue of the test's own that exists and holds one message."""
    name = request.node.name.split("[")[0].replace("_", "-")
    fetch(f"{keys}/_sandbox/queues/{name}/messages", "POST", b"body")
    return queue_url(name)


def test_all_is_well(cli: Cli, queue: str, keys: str, fetch: Callable[[str], str]) -> None:
    """Where all is well every line is green, the exit code is 0, and the queue's message was not touched."""
    ran = cli("check", "--shipped", "--notify-url", queue)
    assert ran.code == 0, ran.out
    assert all(line.startswith("ok ") for line in ran.out.splitlines())
    for what in ("settings", "handlers", "store", "credentials", "retention", "visibility", "right to query jobs"):
        assert what in ran.out
    held = json.loads(fetch(f"{keys}/_sandbox/queues/{queue.rpartition('/')[2]}"))
    assert [message["dequeue_count"] for message in held["messages"]] == [0]


def test_bad_settings(cli: Cli) -> None:
    """Bad settings are red lines, and 78."""
    ran = cli("check", "--slots", "0", "--set", "nonsense=1", "--store", "mysql://u:hush@h/d")
    assert ran.code == 78
    assert [line[:4] for line in ran.out.splitlines()] == ["bad "] * 3
    assert "hush" not in ran.out


def test_no_queue_no_handler(cli: Cli) -> None:
    """A missing queue and missing handlers are two red lines; the store is looked at all the same."""
    ran = cli("check")
    assert ran.code == 78
    assert ran.out.count("bad ") == 2
    assert "ok  store" in ran.out


def test_a_missing_queue(cli: Cli, keys: str, queue_url: QueueUrl) -> None:
    """A queue that is not there is red, with what to do; MPS is asked all the same."""
    ran = cli("check", "--shipped", "--notify-url", queue_url("nowhere"))
    assert ran.code == 1
    assert "QueueNotExist" in ran.out
    assert "create the queue" in ran.out
    assert "ok  nowhere, right to query jobs" in ran.out


def test_wrong_keys(cli: Cli, queue: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrong keys are red for both services."""
    monkeypatch.setenv("MNS_CONSUMER_ACCESS_KEY_SECRET", "not-the-secret")
    ran = cli("check", "--shipped", "--notify-url", queue)
    assert ran.code == 1
    assert ran.out.count("bad ") == 3
    assert "give right keys" in ran.out
    assert "not-the-secret" not in ran.out + ran.err


def test_no_credentials(cli: Cli, queue: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any keys the line says where they were looked for."""
    monkeypatch.delenv("MNS_CONSUMER_ACCESS_KEY_ID")
    monkeypatch.delenv("MNS_CONSUMER_ACCESS_KEY_SECRET")
    ran = cli("check", "--shipped", "--notify-url", queue)
    assert ran.code == 1
    assert "credentials: GetCredentials" in ran.out


def test_nobody_there(cli: Cli, keys: str, queue_url: QueueUrl) -> None:
    """An address where nobody answers is red, with where to look."""
    ran = cli("check", "--shipped", "--endpoint", "http://127.0.0.1:9", "--notify-url", queue_url("q"))
    assert ran.code == 1
    assert "ConnectRefused" in ran.out
    assert "see that this machine reaches the address" in ran.out


def test_a_queue_that_forgets_too_soon(
    cli: Cli, queue: str, keys: str, fetch: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A retention that is short beside the retries is red, as is a visibility timeout too short to renew."""
    monkeypatch.setattr("consumer.cli.check._LEAST_VISIBILITY_S", 60)
    ran = cli("check", "--shipped", "--notify-url", queue, "--set", "retry_cap_s=300000")
    assert ran.code == 1
    assert "expected at least 600000 s (twice retry_cap_s)" in ran.out
    assert "visibility timeout: 30 s; expected at least 60 s" in ran.out


def test_an_unknown_job_refused_is_a_right(cli: Cli, queue: str, keys: str, fetch: Callable[..., str]) -> None:
    """When MPS refuses the made-up job itself, the right to ask was given."""
    fault = {"kind": "error", "operations": ["query"], "status": 404, "code": "InvalidParameter.JobId", "count": 1}
    fetch(f"{keys}/_sandbox/faults", "POST", json.dumps(fault).encode())
    ran = cli("check", "--shipped", "--notify-url", queue)
    assert ran.code == 0, ran.out


def test_a_broken_handler(cli: Cli, tmp_path: Path) -> None:
    """A broken handler file is a red line with its path and line, and 78, as for run."""
    folder = tmp_path / "broken"
    folder.mkdir()
    (folder / "one.py").write_text("1 / 0\n", encoding="utf-8")
    ran = cli("check", "--handlers", str(folder))
    assert ran.code == 78
    assert f"{folder / 'one.py'}:1" in ran.out


def test_a_place_without_handlers(cli: Cli, handlers_dir: Path) -> None:
    """A file that holds no handler is told."""
    (handlers_dir / "notes.py").write_text("x = 1\n", encoding="utf-8")
    assert "notes.py holds no function marked with @handler" in cli("check", "--handlers", str(handlers_dir)).out


async def test_a_store_that_is_there(tmp_path: Path) -> None:
    """A sound file is green."""
    target = str(tmp_path / "ledger.db")
    ledger = make_ledger(target)
    await ledger.open()
    try:
        in_use = await _store(load({"store": target}))
    finally:
        await ledger.close()
    assert in_use.good
    assert "0 dead letter(s)" in in_use.told
    assert (await _store(load({"store": f"sqlite:///{target}"}))).good


@pytest.mark.parametrize(
    ("store", "code"),
    [
        pytest.param("not-a-database", 1, id="another file"),
        pytest.param("file/below.db", 1, id="below a file"),
        pytest.param("postgresql://nobody@127.0.0.1:9/none?connect_timeout=1", 1, id="nobody there"),
    ],
)
def test_a_bad_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: str, code: int) -> None:
    """A store that can't be used is red."""
    monkeypatch.chdir(tmp_path)
    Path("not-a-database").write_text("text " * 2000, encoding="utf-8")
    Path("file").write_text("", encoding="utf-8")
    finding = anyio.run(_store, load({"store": store}))
    assert not finding.good
    assert finding.code == code


def test_a_file_that_may_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that this user may read and not write is red."""
    path = tmp_path / "ledger.db"

    async def make() -> None:
        ledger = make_ledger(str(path))
        await ledger.open()
        await ledger.close()

    anyio.run(make)
    sqlite3.connect(path).close()
    # Root may write everything, so the system's own answer is stood in for.
    monkeypatch.setattr("consumer.cli.check.os.access", lambda *_: False)
    finding = anyio.run(_store, load({"store": str(path)}))
    assert "can't be written by this user" in finding.told


async def test_certificates_that_are_none(keys: str, queue_url: QueueUrl, tmp_path: Path) -> None:
    """A certificates file that can't be read is a red line of the queue."""
    settings = load({"notify_url": queue_url("q"), "ca_file": str(tmp_path / "none.pem")})
    found = [finding async for finding in _queue(settings, settings.all_lanes()[0])]
    assert [(finding.good, finding.code) for finding in found] == [(False, 78)]
