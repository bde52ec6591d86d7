"""Texts that steer terminals and forge lines, through every command that shows what other people wrote."""

from __future__ import annotations

import base64
import json
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

from consumer.store.ledger import JobRecord
from tests.cli.letters_rig import fill, letter, record
from tests.cli.test_cli_health import http

Cli = Callable[..., Any]

FORGED: Final = "FORGED"
NASTY: Final = (
    "[red]x[/red]\x1b[2J\x9b31m\x7f\u202egpj.\u2066\u200f\u061c\u200b"
    f"\n{FORGED} 1\r{FORGED} 2\r\n{FORGED} 3\x85{FORGED} 4\u2028{FORGED} 5\u2029{FORGED} 6\x0b{FORGED} 7"
)
BODY: Final = json.dumps({"FunctionName": f"F{NASTY}", "JobId": f"J{NASTY}", "State": NASTY}, ensure_ascii=False)


def nasty(name: str) -> JobRecord:
    """A record all of whose texts are of a stranger's making."""
    texts: dict[str, Any] = dict.fromkeys(("function", "state", "code", "message", "user_data", "result"), NASTY)
    return replace(record(name), **texts, job_id=f"J-{name}{NASTY}", message_id=f"M-{name}{NASTY}")


@pytest.fixture
def store(tmp_path: Path) -> str:
    """A store with one dead letter and two jobs that are done, one of them with a JobId that can be asked for."""
    target = str(tmp_path / "store.db")
    dead = replace(letter("dead", f"raw {NASTY}".encode()), error=NASTY, traceback=f"Traceback: {NASTY}")
    fill(
        target,
        [replace(dead, job=replace(nasty("dead"), key=dead.job.key))],
        [nasty("done"), replace(nasty("plain"), job_id="J-plain")],
    )
    return target


def honest(text: str) -> None:
    """Nothing in it steers a terminal or is hidden, and no line of it is forged, whatever counts as a line's end."""
    hidden = {char for char in text if unicodedata.category(char) in {"Cc", "Cf", "Cs", "Zl", "Zp"}}
    assert hidden <= {"\n"}
    assert not [line for line in text.splitlines() if line.startswith(FORGED)]


@pytest.mark.parametrize(
    "argv",
    [
        pytest.param(["dead-letters", "list"], id="dead-letters list"),
        pytest.param(["dead-letters", "show", "1"], id="dead-letters show"),
        pytest.param(["dead-letters", "replay", "1", "--dry-run"], id="dead-letters replay"),
        pytest.param(["jobs", "list"], id="jobs list"),
        pytest.param(["jobs", "show", "J-plain"], id="jobs show"),
    ],
)
def test_what_people_read_is_honest(
    cli: Cli, store: str, queue_url: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, argv: list[str]
) -> None:
    """Tables and lines show escapes and markup as characters, and every line at the margin is the program's own."""
    monkeypatch.setenv("MNS_CONSUMER_NOTIFY_URL", queue_url("jobs"))
    ran = cli(*argv, "--store", store)
    assert ran.code == 0, ran.err
    assert "[red]x[/red]" in ran.out
    assert r"\x1b[2J\x9b31m\x7f\u202egpj.\u2066" in ran.out
    honest(ran.out)
    honest(ran.err)


@pytest.mark.parametrize(
    "argv",
    [
        pytest.param(["dead-letters", "list", "--json"], id="dead-letters list"),
        pytest.param(["dead-letters", "show", "1", "--json"], id="dead-letters show"),
        pytest.param(["dead-letters", "export"], id="dead-letters export"),
        pytest.param(["jobs", "list", "--json"], id="jobs list"),
        pytest.param(["jobs", "show", "J-plain", "--json"], id="jobs show"),
    ],
)
def test_what_programs_read_loses_nothing(cli: Cli, store: str, argv: list[str]) -> None:
    """JSON lines hold no such character, and give the very texts when they are parsed."""
    ran = cli(*argv, "--store", store)
    assert ran.code == 0, ran.err
    honest(ran.out)
    for line in ran.out.splitlines():
        found = json.loads(line)
        names = ("function", "job_state", "code", "message", "user_data", "result")
        assert {found[name] for name in names} == {NASTY}
        # A job that is done has none.
        assert (found.get("error") or NASTY) == NASTY
        assert found.get("body", f"raw {NASTY}") == f"raw {NASTY}"


def test_an_exported_file_loses_nothing(process: Cli, store: str, tmp_path: Path) -> None:
    """A file that a process exports has one line for each letter, with the texts as they were."""
    out = tmp_path / "letters.jsonl"
    assert process("dead-letters", "export", "--out", str(out), "--store", store).code == 0
    text = out.read_text(encoding="utf-8")
    honest(text)
    assert json.loads(text)["traceback"] == f"Traceback: {NASTY}"


def test_queue_peek(cli: Cli, keys: str, fetch: Cli, queue_url: Callable[[str], str]) -> None:
    """A message's body and what is decoded of it are shown escaped, and are whole as JSON."""
    fetch(f"{keys}/_sandbox/queues/nasty", "PUT", b"{}")
    sent = base64.b64encode(BODY.encode()).decode()
    flags = ("--notify-url", queue_url("nasty"))
    assert cli("queue", "send", sent, *flags).code == 0
    ran = cli("queue", "peek", *flags)
    assert "[red]x[/red]" in ran.out
    honest(ran.out)
    printed = cli("queue", "peek", "--json", *flags).out
    honest(printed)
    assert json.loads(printed)["body"] == BODY


def test_functions(cli: Cli, tmp_path: Path) -> None:
    """Markup in a handler's name or path is no markup, and their line breaks make no row."""
    folder = tmp_path / f"[red]\u202e\x1b[2J\n{FORGED}"
    folder.mkdir()
    code = 'from mns_consumer import Job, handler\n\n\n@handler("[b]Own[/b]")\ndef own(job: Job) -> None: ...\n'
    (folder / "own.py").write_text(code, encoding="utf-8")
    ran = cli("functions", "--handlers", str(folder))
    assert ran.code == 0, ran.err
    assert "[b]Own[/b]" in ran.out
    honest(ran.out)
    assert r"\x1b[2J" in ran.out
    printed = cli("functions", "--handlers", str(folder), "--json").out
    honest(printed)
    last = json.loads(printed.splitlines()[-1])
    assert (last["function"], last["origin"].startswith(str(folder))) == ("[b]Own[/b]", True)


@pytest.mark.parametrize("status", ["200 OK", "503 No"])
def test_health(cli: Cli, answering: Callable[[bytes], str], status: str) -> None:
    """What answers at the port can't steer the terminal of who asks."""
    checks = [{"name": f"n{NASTY}", "ok": status == "200 OK", "detail": NASTY}]
    ran = cli("health", "--url", answering(http(status, json.dumps({"checks": checks}))))
    assert (ran.out + ran.err).count("\n") == 1
    assert r"\x1b[2J\x9b31m" in ran.out + ran.err
    honest(ran.out + ran.err)


@pytest.mark.parametrize(
    "argv",
    [
        pytest.param(["dead-letters", "list", "--config", f"/nowhere/{NASTY}"], id="a path"),
        pytest.param(["dead-letters", "list", "--store", f"/nowhere/{NASTY}/store.db"], id="a store"),
        pytest.param(["jobs", "show", NASTY, "--store", "STORE"], id="a job"),
        pytest.param(["queue", "peek", "--notify-url", NASTY], id="a NotifyUrl"),
        pytest.param(["queue", "stats", "--set", f"slots={NASTY}"], id="a setting"),
    ],
)
def test_errors(process: Cli, store: str, argv: list[str]) -> None:
    """An error that quotes such a text stands on lines that begin with the program's own word or are indented."""
    ran = process(*(store if word == "STORE" else word for word in argv))
    assert ran.code in {1, 2, 78}
    honest(ran.err)
    assert all(line.startswith(("error: ", "  ")) for line in ran.err.splitlines())
    assert ran.out == ""
