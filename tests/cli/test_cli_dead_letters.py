"""dead-letters list, show, export, purge: which letters are chosen, printed and kept, on both engines."""

from __future__ import annotations

import base64
import json
import os
import resource
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from consumer.cli.options import parse_time
from consumer.cli.output import body_json, one_line, readable_body, time_text
from consumer.errors import UsageError
from consumer.policy import Reason
from consumer.store.ledger import Ended, Filter
from consumer.store.open import open_operators
from consumer.store_address import parse_store_address
from tests.cli.letters_rig import ACCOUNT, claim, fill, letter, states, stored
from tests.postgres import postgres_store

Cli = Callable[..., Any]
QueueUrl = Callable[[str], str]

BODY = b'{"Type": "IProduction", "FunctionName": "Cover", "JobId": "J-a"}'
FIVE = [
    letter("a", base64.b64encode(BODY)),
    letter("b", reason=Reason.UNROUTED, function="VideoH2V"),
    letter("c", reason=Reason.UNROUTED, queue="other"),
    letter("d", b"\xff\x00raw", reason=Reason.UNDECODABLE),
    letter("e", reason=Reason.EXHAUSTED, error="[bold]not \x1b[31m red", error_fingerprint="e" * 16),
]


@pytest.fixture(params=["sqlite", "postgres"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A store with five dead letters, numbered from 1."""
    if request.param == "sqlite":
        fill(str(tmp_path / "store.db"), FIVE)
        yield str(tmp_path / "store.db")
    else:
        with postgres_store() as target:
            fill(target, FIVE)
            yield target


@pytest.fixture
def store(tmp_path: Path) -> str:
    """The same on SQLite alone, for what does not hang on the engine."""
    fill(str(tmp_path / "one.db"), FIVE)
    return str(tmp_path / "one.db")


def ids(text: str) -> list[int]:
    return [json.loads(line)["id"] for line in text.splitlines()]


@pytest.mark.parametrize(
    ("flags", "found"),
    [
        pytest.param([], [1, 2, 3, 4, 5], id="all"),
        pytest.param(["--reason", "unrouted"], [2, 3], id="reason"),
        pytest.param(["--function", "VideoH2V"], [2], id="function"),
        pytest.param(["--queue", f"{ACCOUNT}/other"], [3], id="queue"),
        pytest.param(["--queue", "mns://1234567890123456.mns.cn-hangzhou-internal.aliyuncs.com/queues/other"], [3]),
        pytest.param(["--queue", "other"], [3], id="queue of the settings"),
        pytest.param(["--job-id", "J-d"], [4], id="job"),
        pytest.param(["--state", "replayed"], [], id="state"),
        pytest.param(["--since", "2h", "--state", "set_aside"], [1, 2, 3, 4, 5], id="since"),
        pytest.param(["--since", "2999-01-01"], [], id="since then"),
        pytest.param(["--until", "2999-01-01", "--since", "1h"], [1, 2, 3, 4, 5], id="until then"),
        pytest.param(["--until", "1h"], [], id="until"),
        pytest.param(["--error", "EXPECTED"], [1, 2, 3, 4], id="text in the error"),
        pytest.param(["--error", "th%s"], [], id="a percent sign stands for itself"),
        pytest.param(["--fingerprint", "e" * 16], [5], id="fingerprint"),
        pytest.param(["--limit", "2"], [4, 5], id="the latest two"),
        pytest.param(["--limit", "0"], [1, 2, 3, 4, 5], id="no limit"),
    ],
)
def test_list(
    cli: Cli, store: str, flags: list[str], found: list[int], *, monkeypatch: pytest.MonkeyPatch, queue_url: QueueUrl
) -> None:
    """Each flag selects its letters, as JSON lines and as a table."""
    monkeypatch.setenv("MNS_CONSUMER_NOTIFY_URL", queue_url("other"))
    ran = cli("dead-letters", "list", "--store", store, "--json", *flags)
    assert (ran.code, ids(ran.out)) == (0, found)
    table = cli("dead-letters", "list", "--store", store, *flags)
    assert [line.split()[0] for line in table.out.splitlines()[1:]] == [str(number) for number in found]
    assert ("no dead letter matches" in table.err) == (not found)
    assert ("the latest 2 of 5 are shown" in table.err) == ("2" in flags)


def test_list_on_each_engine(cli: Cli, target: str) -> None:
    """All flags together select the letters that fit each of them; ``--limit`` lists the newest."""
    flags = ("--reason", "unrouted", "--function", "Cover", "--queue", f"{ACCOUNT}/other", "--job-id", "J-c")
    more = ("--since", "1h", "--until", "2999-01-01", "--state", "set_aside", "--error", "CAME that")
    hexes = ("--fingerprint", "0123456789abcdef")
    ran = cli("dead-letters", "list", "--store", target, "--json", *flags, *more, *hexes)
    assert ids(ran.out) == [3]
    assert ids(cli("dead-letters", "list", "--store", target, "--json", "--limit", "2").out) == [4, 5]


def test_groups(cli: Cli, target: str) -> None:
    """The groups are printed, the largest first, as a table that is safe to print and as JSON; flags choose letters."""
    ran = cli("dead-letters", "groups", "--store", target)
    large, small = ran.out.splitlines()[1:]
    assert large.split()[:4] == ["4", "undecodable", "Cover", "0123456789abcdef"]
    assert small.split()[:4] == ["1", "exhausted", "Cover", "e" * 16]
    assert "[bold]not \\x1b[31m red" in small
    found = json.loads(cli("dead-letters", "groups", "--store", target, "--json", "--reason", "unrouted").out)
    assert (found["count"], found["latest_id"], found["error"]) == (2, 3, "expected this, came that")
    assert found["oldest_at"] <= found["latest_at"]
    assert "the largest 1 are shown" in cli("dead-letters", "groups", "--store", target, "--limit", "1").err
    assert "no dead letter matches" in cli("dead-letters", "groups", "--store", target, "--error", "none").err


def test_show(cli: Cli, target: str) -> None:
    """One letter is shown with its error, its traceback and its body decoded."""
    ran = cli("dead-letters", "show", "1", "--store", target)
    assert (ran.code, ran.err) == (0, "")
    for text in ("rejected", "expected this, came that", "Traceback: here", BODY.decode(), "job_id"):
        assert text in ran.out
    found = json.loads(cli("dead-letters", "show", "1", "--store", target, "--json").out)
    assert (found["body"].encode(), found["body_base64"]) == (BODY, None)
    assert (found["traceback"], found["attempt"]) == ("Traceback: here", 3)
    assert found["fingerprint"] == "0123456789abcdef"
    assert r"\xff\x00raw" in cli("dead-letters", "show", "4", "--store", target).out


def test_stats(cli: Cli, target: str) -> None:
    """Letters are counted by function and reason; flags choose letters."""
    head, *rows = cli("dead-letters", "stats", "--store", target).out.splitlines()
    assert head.split() == ["function", "reason", "count", "errors", "oldest_at", "latest_at", "latest_id"]
    assert sum(int(row.split()[2]) for row in rows) == 5
    ran = cli("dead-letters", "stats", "--store", target, "--json", "--reason", "unrouted")
    found = [json.loads(line) for line in ran.out.splitlines()]
    assert {(one["reason"], one["count"], one["latest_id"]) for one in found} == {
        ("unrouted", 1, 2),
        ("unrouted", 1, 3),
    }
    assert "the largest 1 are shown" in cli("dead-letters", "stats", "--store", target, "--limit", "1").err
    assert "no dead letter matches" in cli("dead-letters", "stats", "--store", target, "--error", "none").err


@pytest.mark.parametrize("verb", ["show", "replay", "export", "purge"])
def test_unknown_number(cli: Cli, target: str, verb: str) -> None:
    """An unknown number ends with 2, and the other named letters stay as they are."""
    number = 2**63 - 1
    argv = ["1", str(number)] if verb != "show" else [str(number)]
    ran = cli("dead-letters", verb, *argv, "--store", target, *(["--yes"] if verb == "purge" else []))
    assert ran.code == 2
    assert f"no dead letter has the number {number}; see 'mns-consumer dead-letters list'" in ran.err
    assert states(target) == ["set_aside"] * 5


def test_terminals_obey_nothing(cli: Cli, store: str) -> None:
    """Escape codes and markup in an error are shown as text."""
    for argv in (["list"], ["show", "5"]):
        ran = cli("dead-letters", *argv, "--store", store)
        assert "[bold]not \\x1b[31m red" in ran.out
        assert "\x1b" not in ran.out


@pytest.mark.parametrize("umask", [0, 0o777], ids=oct)
def test_export(cli: Cli, target: str, tmp_path: Path, umask: int) -> None:
    """Each letter is a line with its body's exact bytes, in a new file of its owner's alone, whatever the umask."""
    out = tmp_path / "letters.jsonl"
    before_it = os.umask(umask)
    try:
        ran = cli("dead-letters", "export", "--store", target, "--out", str(out))
    finally:
        os.umask(before_it)
    assert (ran.code, ran.out) == (0, "")
    assert "5 exported to" in ran.err
    assert out.stat().st_mode & 0o777 == 0o600
    lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [base64.b64decode(line["body_base64"]) for line in lines] == [one.body for one in FIVE]
    assert not any("body" in line for line in lines)
    before = out.read_bytes()
    again = cli("dead-letters", "export", "--store", target, "--out", str(out))
    assert again.code == 2
    assert "expected a new file, this one is there already" in again.err
    assert out.read_bytes() == before


def test_export_to_stdout(cli: Cli, store: str) -> None:
    """Without a file the lines go to stdout, for numbers and for flags."""
    assert ids(cli("dead-letters", "export", "3", "1", "3", "--store", store).out) == [3, 1]
    assert ids(cli("dead-letters", "export", "--reason", "unrouted", "--store", store).out) == [2, 3]


def test_export_to_a_place_that_is_not(cli: Cli, store: str, tmp_path: Path) -> None:
    """A file that can't be made ends with a plain error."""
    ran = cli("dead-letters", "export", "--store", store, "--out", str(tmp_path / "none" / "x"))
    assert ran.code == 2
    assert "it can't be made: No such file or directory" in ran.err


def test_export_to_a_full_disk(cli: Cli, store: str, tmp_path: Path) -> None:
    """If a file can't be finished the command ends with 1 and removes it, so that it does not look complete."""
    fill(store, [letter(f"large-{number}", b"x" * 60_000) for number in range(4)])
    out = tmp_path / "letters.jsonl"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (70_000, before[1]))
    try:
        ran = cli("dead-letters", "export", "--store", store, "--out", str(out), "--job-id", "J-large-1")
        whole = cli("dead-letters", "export", "--store", store, "--out", str(tmp_path / "all.jsonl"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (ran.code, whole.code) == (1, 1)
    assert "it can't be written: File too large; nothing is kept of it" in whole.err
    assert not out.exists()
    assert not (tmp_path / "all.jsonl").exists()


@pytest.mark.parametrize(
    ("argv", "left"),
    [
        pytest.param(["--all"], [], id="all"),
        pytest.param(["2", "4"], [1, 3, 5], id="numbers"),
        pytest.param(["--reason", "unrouted"], [1, 4, 5], id="reason"),
        pytest.param(["--since", "2999-01-01"], [1, 2, 3, 4, 5], id="none"),
    ],
)
def test_purge(cli: Cli, target: str, argv: Sequence[str], left: list[int]) -> None:
    """Letters are deleted only with --yes; without it the command prints their number."""
    count = 5 - len(left)
    dry = cli("dead-letters", "purge", *argv, "--store", target, "--dry-run", "--yes")
    assert (dry.code, dry.err) == (0, f"dry run: {count} would be purged\n")
    unsaid = cli("dead-letters", "purge", *argv, "--store", target)
    assert unsaid.code == 2
    assert f"removed for good: {count}; say --yes" in unsaid.err
    assert len(stored(target)) == 5
    done = cli("dead-letters", "purge", *argv, "--store", target, "--yes")
    assert (done.code, done.err) == (0, f"{count} purged\n")
    assert [one.id for one in stored(target)] == left
    # A job stays ended without its letter.
    job = FIVE[1].job
    assert claim(target, job.key) == Ended(dead=True, function=job.function, state=job.state, user_data=job.user_data)


@pytest.mark.parametrize(
    ("argv", "printed"),
    [
        pytest.param(["purge", "--yes"], "purge what?", id="purge nothing"),
        pytest.param(["purge", "1", "--all", "--yes"], "not several", id="purge numbers and all"),
        pytest.param(["purge", "--all", "--reason", "unrouted"], "not several", id="purge all and some"),
        pytest.param(["replay"], "replay what?", id="replay nothing"),
        pytest.param(["replay", "1", "--function", "Cover"], "not several", id="replay numbers and flags"),
        pytest.param(["replay", "--all", "--rate", "0"], "expected a number of letters a second", id="no rate"),
        pytest.param(["replay", "--all", "--rate", "nan"], "expected a number of letters a second", id="no number"),
        pytest.param(["replay", "0"], "Invalid value for", id="number 0"),
        pytest.param(["replay", str(2**63)], "Invalid value for", id="a number too large"),
        pytest.param(["show", "one"], "Invalid value for", id="a word"),
        pytest.param(["export", "1", "--state", "replayed"], "not several", id="export numbers and flags"),
        pytest.param(["list", "--reason", "bored"], "not one of", id="reason"),
        pytest.param(["list", "--state", "gone"], "not one of", id="state"),
        pytest.param(["list", "--since", "yesterday"], "expected an age such as 30m", id="since"),
        pytest.param(["list", "--since", "999999999w"], "expected an age such as 30m", id="an age too large"),
        pytest.param(["list", "--until", "2026-02-30"], "--until '2026-02-30': expected an age", id="until"),
        pytest.param(["list", "--since", "1h", "--until", "2h"], "expected a time before it", id="an empty time"),
        pytest.param(["list", "--error", " "], "--error is empty: expected a text", id="no error"),
        pytest.param(["list", "--error", "a\nb"], "expected one line without control", id="two lines"),
        pytest.param(["list", "--error", "x" * 501], "has 501 characters: expected at most 500", id="a long text"),
        pytest.param(["list", "--job-id", "\x1b[2J"], "expected one line without control", id="an escape code"),
        pytest.param(["list", "--job-id", "J" * 65], "expected at most 64", id="a long id"),
        pytest.param(["list", "--queue", ""], "--queue is empty", id="an empty queue"),
        pytest.param(["purge", *["1"] * 10_001], "expected at most 10,000 numbers, came 10,001", id="many numbers"),
        pytest.param(["list", "--fingerprint", "E" * 16], "expected 16 digits of 0-9 and a-f", id="fingerprint"),
        pytest.param(["groups", "--since", "then"], "expected an age such as 30m", id="groups since"),
        pytest.param(["list", "--limit", "-1"], "Invalid value for", id="limit"),
        pytest.param(["list", "--queue", "jobs"], "none; say --notify-url", id="a queue of no settings"),
        pytest.param(["list", "--queue", "mns://x"], "expected a NotifyUrl", id="a queue's address"),
        pytest.param(["list", "--function", "\udcff"], "expected UTF-8", id="no text"),
    ],
)
def test_refused(cli: Cli, store: str, argv: list[str], printed: str) -> None:
    """A wrong command line ends with 2, names what was expected and changes nothing."""
    ran = cli("dead-letters", *argv, "--store", store)
    assert (ran.code, ran.out) == (2, "")
    assert printed in " ".join(ran.err.replace("│", " ").split())
    assert states(store) == ["set_aside"] * 5


def test_a_name_of_two_queues(cli: Cli, store: str, monkeypatch: pytest.MonkeyPatch, queue_url: QueueUrl) -> None:
    """For a name that two queues of the settings share, the error names both."""
    other = queue_url("jobs").replace("hangzhou", "beijing")
    monkeypatch.setenv("MNS_CONSUMER_NOTIFY_URL", f"{queue_url('jobs')} {other}")
    ran = cli("dead-letters", "list", "--queue", "jobs", "--store", store)
    assert ran.code == 2
    assert "names several of the settings' queues" in ran.err
    assert "cn-beijing/jobs" in ran.err


@pytest.mark.parametrize(
    ("text", "time"),
    [
        pytest.param("90s", "2026-03-01T11:58:30Z", id="seconds"),
        pytest.param("30m", "2026-03-01T11:30:00Z", id="minutes"),
        pytest.param(" 2h ", "2026-03-01T10:00:00Z", id="hours"),
        pytest.param("7d", "2026-02-22T12:00:00Z", id="days"),
        pytest.param("1w", "2026-02-22T12:00:00Z", id="weeks"),
        pytest.param("2026-01-31", "2026-01-31T00:00:00Z", id="a day"),
        pytest.param("2026-01-31T12:00:00", "2026-01-31T12:00:00Z", id="no zone is UTC"),
        pytest.param("2026-01-31T12:00:00+08:00", "2026-01-31T04:00:00Z", id="a zone"),
    ],
)
def test_times(text: str, time: str) -> None:
    """Ages and times are parsed."""
    assert parse_time("--since", text, datetime(2026, 3, 1, 12, tzinfo=UTC)) == datetime.fromisoformat(time).timestamp()


@pytest.mark.parametrize("text", ["", "h", "-2h", "2 h", "1.5h", "2y", "2026-13-01"])
def test_no_time(text: str) -> None:
    """What is neither an age nor a time is refused."""
    with pytest.raises(UsageError, match="--until"):
        parse_time("--until", text, datetime.now(UTC))


def test_views() -> None:
    """Texts and times that can't be printed are replaced."""
    assert (one_line("a\x00\x9b\u202e\n"), one_line("a\n b" + "c" * 99)[-4:]) == ("a\\x00\\x9b\\u202e", "c...")
    assert [time_text(value) for value in (None, 0.0, 1e18)] == [None, None, None]
    assert [body_json(body) for body in (b"YWJj", b"abc", b"\xff")] == [
        {"body": "abc", "body_base64": None},
        {"body": "abc", "body_base64": None},
        {"body": None, "body_base64": "/w=="},
    ]
    assert (readable_body(b""), readable_body(b"\xff")) == ("  ", "  \\xff")


@pytest.mark.parametrize("page", [1, 2, 3, 4, 5, 6])
async def test_walking_while_letters_go(store_of_nine: str, page: int) -> None:
    """If letters are purged during the walk it misses none of the others, and gives none twice."""
    async with open_operators(parse_store_address(store_of_nine)) as operators:
        seen: list[int] = []
        async for one in operators.walk_letters(Filter(), page=page):
            seen.append(one.id)
            if one.id in {2, 5}:
                await operators.purge(Filter(ids=(one.id, one.id - 1, one.id + 2)))
        assert sorted(set(seen)) == seen
        assert set(seen) >= {1, 2, 3, 5, 6, 8, 9}


@pytest.fixture
def store_of_nine(tmp_path: Path) -> str:
    fill(str(tmp_path / "nine.db"), [letter(str(number)) for number in range(9)])
    return str(tmp_path / "nine.db")


async def test_walking_to_an_end_that_goes(store_of_nine: str) -> None:
    """A walk ends with the page that it has read if every letter is purged meanwhile."""
    async with open_operators(parse_store_address(store_of_nine)) as operators:
        seen = []
        async for one in operators.walk_letters(Filter(), page=2):
            seen.append(one.id)
            if one.id == 4:
                await operators.purge(Filter())
    assert seen == [1, 2, 3, 4]
