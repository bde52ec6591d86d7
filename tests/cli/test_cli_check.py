"""check: a line for each finding, what to do, and no message taken."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from consumer.cli.check import Finding, Severity, queue_findings, store_finding
from consumer.config import load
from tests.stores import ledger_at

Cli = Callable[..., Any]
QueueUrl = Callable[[str], str]
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")


@pytest.fixture
def queue(keys: str, queue_url: QueueUrl, fetch: Callable[..., str], request: pytest.FixtureRequest) -> str:
    """The NotifyUrl of a queue of the test's own that exists and holds one message."""
    name = request.node.name.split("[")[0].replace("_", "-")
    fetch(f"{keys}/_sandbox/queues/{name}/messages", "POST", b"body")
    return queue_url(name)


def test_all_is_well(cli: Cli, queue: str, keys: str, fetch: Callable[[str], str]) -> None:
    """If nothing is wrong no line is bad, the exit code is 0, and the queue's message was not received."""
    ran = cli("check", "--shipped", "--notify-url", queue)
    assert ran.code == 0, ran.out
    (not_tried,) = [line for line in ran.out.splitlines() if not line.startswith("ok ")]
    assert not_tried.startswith(f"warn {queue.rpartition('/')[2]}, right to receive: not tried, since that would take")
    assert not_tried.endswith("it needs mns:BatchReceiveMessage and mns:ReceiveMessage")
    for what in ("settings", "handlers", "store", "credentials", "retention", "visibility", "right to query jobs"):
        assert what in ran.out
    held = json.loads(fetch(f"{keys}/_sandbox/queues/{queue.rpartition('/')[2]}"))
    assert [message["dequeue_count"] for message in held["messages"]] == [0]


def test_json_lines(cli: Cli, queue: str, keys: str) -> None:
    """With --json each finding is one object with its level, its queue and the exit code that it asks for."""
    ran = cli("check", "--shipped", "--notify-url", queue, "--set", "retry_cap_s=300000", "--json")
    found = [json.loads(line) for line in ran.out.splitlines()]
    assert ran.code == 1
    assert {tuple(finding) for finding in found} == {("level", "queue", "what", "text", "exit_code")}
    assert [(one["what"], one["queue"], one["exit_code"]) for one in found if one["level"] == "bad"] == [
        ("retention", f"1234567890123456/cn-hangzhou/{queue.rpartition('/')[2]}", 1)
    ]


def test_bad_settings(cli: Cli) -> None:
    """Bad settings are bad lines, and the exit code is 78."""
    ran = cli("check", "--slots", "0", "--set", "nonsense=1", "--store", "mysql://u@h/d")
    assert ran.code == 78
    assert [line[:4] for line in ran.out.splitlines()] == ["bad "] * 3


def test_no_queue_no_handler(cli: Cli) -> None:
    """A missing queue and missing handlers are two bad lines; the store is still checked."""
    ran = cli("check")
    assert ran.code == 78
    assert ran.out.count("bad ") == 2
    assert "ok   store" in ran.out


def test_a_missing_queue(cli: Cli, keys: str, queue_url: QueueUrl) -> None:
    """A missing queue is one bad line, with what to do; MPS is still checked."""
    ran = cli("check", "--shipped", "--notify-url", queue_url("nowhere"))
    assert ran.code == 1
    assert ran.out.count("bad ") == 1
    assert "QueueNotExist" in ran.out
    assert "create the queue" in ran.out
    assert "warn nowhere, right to delete: not tried, since the queue could not be asked; it needs mns:Batch" in ran.out
    assert "ok   nowhere, right to query jobs: given, by MPS at http" in ran.out


def test_wrong_keys(cli: Cli, queue: str, monkeypatch: pytest.MonkeyPatch, keys: str) -> None:
    """Wrong keys are bad for both services, and no right is reported."""
    monkeypatch.setenv("MNS_CONSUMER_ACCESS_KEY_SECRET", "not-the-secret")
    ran = cli("check", "--shipped", "--notify-url", queue)
    assert ran.code == 1
    assert ran.out.count("bad ") == 2
    assert ran.out.count("check the AccessKey secret") == 2
    assert "grant" not in ran.out
    assert "not-the-secret" not in ran.out + ran.err


def test_no_credentials(cli: Cli, queue: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without keys the line names the places that were searched."""
    monkeypatch.delenv("MNS_CONSUMER_ACCESS_KEY_ID")
    monkeypatch.delenv("MNS_CONSUMER_ACCESS_KEY_SECRET")
    ran = cli("check", "--shipped", "--notify-url", queue)
    assert ran.code == 1
    assert "credentials: GetCredentials" in ran.out


def test_no_server_there(cli: Cli, keys: str, queue_url: QueueUrl) -> None:
    """An address that does not answer is bad, with what to check."""
    ran = cli("check", "--shipped", "--endpoint", "http://127.0.0.1:9", "--notify-url", queue_url("q"))
    assert ran.code == 1
    assert "ConnectRefused" in ran.out
    assert "see that this machine reaches the address" in ran.out


def test_a_queue_that_forgets_too_soon(
    cli: Cli, queue: str, keys: str, fetch: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A retention that is too short for the retries is bad, and so is a visibility timeout too short to renew."""
    monkeypatch.setattr("consumer.cli.check.LEAST_VISIBILITY_S", 60)
    ran = cli("check", "--shipped", "--notify-url", queue, "--set", "retry_cap_s=300000")
    assert ran.code == 1
    assert "expected at least 600000 s (twice retry_cap_s)" in ran.out
    assert "visibility timeout: 30 s; expected at least 60 s" in ran.out


def test_a_broken_handler(cli: Cli, tmp_path: Path) -> None:
    """A broken handler file is a bad line with its path and line, and the exit code is 78, as for run."""
    folder = tmp_path / "broken"
    folder.mkdir()
    (folder / "one.py").write_text("1 / 0\n", encoding="utf-8")
    ran = cli("check", "--handlers", str(folder))
    assert ran.code == 78
    assert f"{folder / 'one.py'}:1" in ran.out


def test_a_place_without_handlers(cli: Cli, handlers_dir: Path) -> None:
    """A file without a handler is a warning."""
    (handlers_dir / "notes.py").write_text("x = 1\n", encoding="utf-8")
    ran = cli("check", "--handlers", str(handlers_dir))
    assert "warn handlers: " in ran.out
    assert "notes.py holds no function marked with @handler" in ran.out


@pytest.mark.parametrize(
    ("name", "hint"),
    [("Covr", "did you mean 'Cover'?"), ("Xyzzy", "is it spelt"), ("Transcode", None), ("*", None), ("Cover", None)],
)
def test_a_function_name_that_does_not_exist(cli: Cli, tmp_path: Path, name: str, hint: str | None) -> None:
    """A handler for a name that neither MPS nor a kind of message has is a warning with the nearest name."""
    folder = tmp_path / "named"
    folder.mkdir()
    source = (
        f"from mns_consumer import Job, handler\n\n\n@handler({name!r})\nasync def one(job: Job) -> None:\n    pass\n"
    )
    (folder / "one.py").write_text(source, encoding="utf-8")
    ran = cli("check", "--handlers", str(folder))
    warned = [line for line in ran.out.splitlines() if line.startswith("warn handlers")]
    assert [hint in line and f"{name!r} is no documented" in line for line in warned if hint] == [True] * bool(hint)
    assert len(warned) == bool(hint)


def look_at_store(target: str) -> Finding:
    """The lines of check about a store."""
    return anyio.run(store_finding, load({"store": target}))


def make_store(path: Path) -> Path:
    """A sound store, closed."""

    async def make() -> None:
        ledger = ledger_at(str(path))
        await ledger.open()
        await ledger.close()

    anyio.run(make)
    return path


async def test_a_store_in_use(tmp_path: Path) -> None:
    """A file is good while a daemon has it open, in each spelling of its path."""
    target = str(tmp_path / "the ledger.db")
    ledger = ledger_at(target)
    await ledger.open()
    try:
        for text in (target, f"sqlite:///{target}", f"sqlite:///{target.replace(' ', '%20')}"):
            in_use = await store_finding(load({"store": text}))
            assert (in_use.severity, in_use.text) == (Severity.GOOD, f"{target} is sound, 0 dead letter(s)")
    finally:
        await ledger.close()


@pytest.mark.parametrize(
    ("store", "code", "printed"),
    [
        pytest.param("not-a-database", 1, "no SQLite database", id="another file"),
        pytest.param("file/below.db", 1, "is no folder", id="below a file"),
        pytest.param("folder", 1, "is a directory; name a file in it", id="a directory"),
        pytest.param("socket", 78, "not a regular file", id="a socket"),
        pytest.param("open", 78, "may be written by every user", id="others may write"),
        pytest.param("writable/below.db", 78, "may be written by every user", id="others may write to the folder"),
        pytest.param("newer", 78, "the tables of revision 9999", id="a newer schema"),
        pytest.param("x" * 5000, 1, "can't be looked at", id="too long a name"),
        pytest.param("postgresql://stranger@127.0.0.1:9/none?connect_timeout=1", 1, "store", id="no server"),
    ],
)
def test_a_store_that_run_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: str, code: int, printed: str
) -> None:
    """A store that can't be used is bad, with the reason and the exit code of run."""
    monkeypatch.chdir(tmp_path)
    Path("not-a-database").write_text("text " * 2000, encoding="utf-8")
    Path("not-a-database").chmod(0o600)
    Path("file").write_text("", encoding="utf-8")
    Path("folder").mkdir()
    make_store(Path("open")).chmod(0o666)
    Path("writable").mkdir()
    Path("writable").chmod(0o777)
    with sqlite3.connect(make_store(Path("newer"))) as connection:
        connection.execute("UPDATE revision SET version_num = '9999'")
    connection.close()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket")
        finding = look_at_store(store)
    assert (finding.severity, finding.code) == (Severity.BAD, code)
    assert printed in finding.text


def test_a_store_that_may_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file, or its folder, that this user may read and not write is bad."""
    path = make_store(tmp_path / "ledger.db")
    # Root may write everything, so the system's own answer is replaced.
    allowed = {path: False, tmp_path: True}
    monkeypatch.setattr("consumer.cli.check.os.access", lambda asked, _: allowed[asked])
    finding = look_at_store(str(path))
    assert "can't be written by this user" in finding.text
    allowed |= {path: True, tmp_path: False}
    finding = look_at_store(str(path))
    assert "the store's lock lies beside it" in finding.text
    finding = look_at_store(str(tmp_path / "new" / "ledger.db"))
    assert finding.severity is Severity.BAD


def test_a_store_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    """A missing file is good, and still missing afterwards: its owner must be the daemon's user."""
    finding = look_at_store(str(tmp_path / "new" / "ledger.db"))
    assert (finding.severity, (tmp_path / "new").exists()) == (Severity.GOOD, False)


async def test_certificates_that_are_none(keys: str, queue_url: QueueUrl, tmp_path: Path) -> None:
    """A certificates file that can't be read is a bad line of the queue."""
    settings = load({"notify_url": queue_url("q"), "ca_file": str(tmp_path / "none.pem")})
    found = [finding async for finding in queue_findings(settings, settings.queues()[0])]
    assert [(finding.severity, finding.code) for finding in found] == [(Severity.BAD, 78)]


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The store of a daemon that systemd runs here as a user of its own; its state folder is a link, as there."""
    for name, folder in (("SETTINGS_FOLDER", "etc"), ("STATE_FOLDER", "lib"), ("RUNTIME_FOLDER", "run")):
        monkeypatch.setattr(f"consumer.instance.{name}", tmp_path / folder)
    monkeypatch.delenv("STATE_DIRECTORY")
    private = tmp_path / "lib" / "private" / "mns-consumer"
    private.mkdir(parents=True, mode=0o700)
    (tmp_path / "lib" / "mns-consumer").symlink_to(private)
    (tmp_path / "etc" / "credentials").mkdir(parents=True, mode=0o700)
    (tmp_path / "etc" / "mns-consumer.toml").write_text("", encoding="utf-8")
    store = make_store(private / "mns-consumer.db")
    for place in (private, *private.iterdir()):
        os.chown(place, 61_371, 61_371)
    return store


def line_of_store(ran: Any) -> str:
    """What check prints about the store."""
    (line,) = (line for line in ran.out.splitlines() if line[5:].startswith("store"))
    return str(line)


@as_root
@pytest.mark.parametrize("named", [[], ["--instance", "mns-consumer"]], ids=["found", "named"])
def test_the_store_of_an_installed_daemon(cli: Cli, installed: Path, named: list[str]) -> None:
    """Root's check of an installed daemon judges the store as the daemon's user, and says so."""
    assert line_of_store(cli("check", *named)) == (
        f"ok   store: {installed} is sound for the daemon's user 61371, 0 dead letter(s)"
    )
    installed.unlink()
    installed.with_name(f"{installed.name}.lock").unlink()
    assert line_of_store(cli("check", *named)).endswith(f"{installed} will be made at the first start")


@as_root
@pytest.mark.parametrize(
    ("place", "owner", "mode", "printed"),
    [
        ("mns-consumer.db", 0, 0o600, "can't be written by the daemon's user 61371 (owner 0, mode 0600)"),
        ("mns-consumer.db.lock", 0, 0o600, "can't be written by the daemon's user 61371"),
        ("mns-consumer.db", 61_371, 0o400, "can't be written by the daemon's user 61371"),
        ("mns-consumer.db", 65_534, 0o600, "belongs to the user 65534, who may change it, and the daemon runs as 6137"),
        ("mns-consumer.db", 61_371, 0o666, "may be written by every user"),
        (".", 61_371, 0o777, "may be written by every user"),
        (".", 61_371, 0o500, "can't be written by the daemon's user 61371"),
    ],
)
def test_a_store_that_the_installed_daemon_can_not_use(
    cli: Cli, installed: Path, *, place: str, owner: int, mode: int, printed: str
) -> None:
    """Files that the daemon's user can't write, or another user can, are bad with 78, whatever root may do."""
    wrong = installed.parent / place
    os.chown(wrong, owner, owner)
    wrong.chmod(mode)
    ran = cli("check")
    assert (line_of_store(ran)[:4], ran.code) == ("bad ", 78)
    assert printed in line_of_store(ran)


@as_root
def test_an_installed_daemons_store_outside_its_state_folder(cli: Cli, installed: Path, tmp_path: Path) -> None:
    """Whether the unit lets its daemon write elsewhere is not known, so such a store is never called fine."""
    other = tmp_path / "elsewhere" / "ledger.db"
    (tmp_path / "etc" / "mns-consumer.toml").write_text(f'store = "{other}"\n', encoding="utf-8")
    line = line_of_store(cli("check"))
    assert line.startswith("warn ")
    assert "is outside the state folder of the daemon mns-consumer: whether its user 61371 may write" in line
    assert str(installed.name) in line
