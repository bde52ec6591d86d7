"""The fields that ``--json`` prints: one name for one thing, and the table in the documentation has each."""

from __future__ import annotations

import json
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest

from consumer.policy import Reason
from tests.cli.letters_rig import ACCOUNT, fill, letter, record

Cli = Callable[..., Any]
Printed = dict[str, list[dict[str, Any]]]
PAGE: Final = Path(__file__).parents[2] / "consumer" / "docs" / "operations.md"
OPAQUE: Final = frozenset({"user_data", "result", "settings", "parameters", "request"})
"""Fields whose inner names are not this program's, or are those of the settings."""
NOT_SEEN: Final = {"event": {"status"}, "error": {"status"}}
"""Only an outage has them."""
TOGETHER: Final = {
    "jobs": {"jobs list", "jobs show"},
    "letters": {"dead-letters list", "dead-letters show", "dead-letters export"},
    "counts": {"dead-letters groups", "dead-letters stats"},
}
"""Words of the table for commands that print the same records."""
TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
NOTIFICATION: Final = {"Type": "IProduction", "FunctionName": "VideoClip", "JobId": "8" * 32, "State": "Success"}


@pytest.fixture
def queues(keys: str, fetch: Cli) -> list[str]:
    """The NotifyUrls of two queues."""
    for name in ("fields", "other"):
        fetch(f"{keys}/_sandbox/queues/{name}", "PUT", b"{}")
    return [f"mns://{ACCOUNT.replace('/', '.mns.')}.aliyuncs.com/queues/{name}" for name in ("fields", "other")]


@pytest.fixture
def daemon(queues: list[str], start: Callable[..., Any], cli: Cli, tmp_path: Path) -> tuple[str, ...]:
    """A daemon that runs one job; gives the flags of commands that ask it."""
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "clip.py").write_text(
        "import anyio\nfrom mns_consumer import Job, handler\n\n\n"
        '@handler("VideoClip")\nasync def clip(job: Job) -> None:\n    await anyio.sleep(60)\n',
        encoding="utf-8",
    )
    flags: tuple[str, ...] = (
        "--store",
        str(tmp_path / "ledger.db"),
        "--notify-url",
        queues[0],
        "--handlers",
        str(folder),
    )
    flags += ("--set", f"control_socket={tmp_path / 'c'}", "--admin-port", "0", "--log-format", "json")
    address = start("run", *flags).wait_for(r'"admin_port":(\d+)|"port":(\d+)')
    assert cli("queue", "send", json.dumps(NOTIFICATION), "--base64", *flags).code == 0
    until = time.monotonic() + 15
    while not json.loads(cli("status", "--socket", str(tmp_path / "c"), "--json").out)["queues"][0]["in_flight"]:
        assert time.monotonic() < until
        time.sleep(0.05)
    return (*flags, address[1] or address[2])


@pytest.fixture
def printed(daemon: tuple[str, ...], queues: list[str], cli: Cli, tmp_path: Path) -> Printed:
    """What each command prints as JSON, on samples of everything."""
    *flags, port = daemon
    other = str(tmp_path / "other.db")
    letters = [letter("a", queue="other"), letter("b", b"\xff", reason=Reason.UNDECODABLE, error_fingerprint="")]
    fill(other, letters, [record("done")])
    records, socket = ("--store", other), ("--socket", str(tmp_path / "c"))
    settings = tuple(flags)
    queue = ("--notify-url", queues[1])
    bucket = "oss://b.oss-cn-hangzhou.aliyuncs.com"
    unheard = ("--function", "Cover", "--input", f"{bucket}/a.mp4", "--output", f"{bucket}/{{sequenceId}}.jpg")
    cover = (*unheard, "--user-data", '{"film": 7}', *queue, *records)
    calls: dict[str, tuple[str, ...]] = {
        "check": settings,
        "health": ("--url", f"http://127.0.0.1:{port}"),
        "status": socket,
        "reload": socket,
        "submit": cover,
        "submit --wait": cover,
        "submit --dry-run": unheard,
        "functions": ("--shipped", *settings),
        "jobs list": records,
        "jobs list --state": ("running", *settings),
        "jobs list --open": records,
        "jobs track": ("9" * 32, *queue, *records),
        "jobs show": ("J-done", *records),
        "dead-letters list": records,
        "dead-letters groups": records,
        "dead-letters stats": records,
        "dead-letters show": ("1", *records),
        "dead-letters replay": ("1", "--dry-run", *queue, *records),
        "dead-letters export": records,
        "dead-letters purge": ("--all", "--dry-run", *records),
        "queue stats": queue,
        "queue send": ('{"a": 1}', *queue),
        "queue peek": queue,
        "store check": records,
        "store info": records,
    }
    found: Printed = {}
    for name, flags_of in calls.items():
        as_json = () if name == "dead-letters export" else ("--json",)
        ran = cli(*name.split(), *flags_of, *as_json)
        assert ran.code == 0, (name, ran)
        found[name] = [json.loads(line) for line in ran.out.splitlines()]
        assert found[name], name
    return found


def fields_of(value: Any) -> Iterator[str]:
    """The names in a value, those inside it too."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield name
            if name not in OPAQUE:
                yield from fields_of(inner)
    elif isinstance(value, list):
        for each in value:
            yield from fields_of(each)


@pytest.mark.timeout(60)
def test_what_is_printed(printed: Printed) -> None:
    """The documentation's table has each field with the commands that print it, and each field has one form."""
    check_forms(printed)
    seen: dict[str, set[str]] = defaultdict(set)
    for command, lines in printed.items():
        for name in fields_of(lines):
            seen[name].add(command)
    seen |= {name: seen[name] | commands for name, commands in NOT_SEEN.items()}
    chapter = PAGE.read_text(encoding="utf-8").partition("\n## What --json prints\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| .+ \|$", chapter, re.MULTILINE)
    listed: dict[str, set[str]] = {}
    for name, words in rows:
        assert name not in listed, f"{name} has two rows"
        listed[name] = set().union(*(TOGETHER.get(word, {word.strip("`")}) for word in words.split(", ")))
    assert listed == seen


def check_forms(printed: Printed) -> None:
    """Queues are ACCOUNT/REGION/NAME, times are ISO in UTC with milliseconds, UserData and results are decoded."""
    for lines in printed.values():
        for name, value in leaves(lines):
            if name == "queue" and value is not None:
                assert value.count("/") == 2
            if (name in {"at", "since", "held_until"} or name.endswith("_at")) and value is not None:
                assert TIME.fullmatch(value), (name, value)
    for command in ("jobs list", "jobs show", "dead-letters show", "dead-letters export", "submit --wait"):
        assert printed[command][-1]["user_data"] == {"film": 7}
    assert printed["jobs show"][0]["result"] == {"stills": 5}


def leaves(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if not isinstance(inner, Mapping | list):
                yield name, inner
            elif name not in OPAQUE:
                yield from leaves(inner)
    elif isinstance(value, list):
        for each in value:
            yield from leaves(each)
