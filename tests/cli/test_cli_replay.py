"""dead-letters replay: what is sent, what a letter says meanwhile, and that nothing is lost or sent unasked."""

from __future__ import annotations

import base64
import json
import secrets
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from consumer.cloud.faults import surely_not_sent
from consumer.config import load
from consumer.errors import CloudError, Fault
from consumer.policy import Reason
from consumer.replay import Candidate, Replayed, ReplayOutcome, choose, replay_letters
from consumer.store.ledger import Claimed, Ended, Filter
from consumer.store.queries import Operators
from tests.cli.letters_rig import ACCOUNT, claim, fill, letter, states, stored
from tests.postgres import postgres_store
from tests.stores import operators_at

Cli = Callable[..., Any]
QueueUrl = Callable[[str], str]
Fetch = Callable[..., str]

# Spaces, line ends and characters of several bytes: what a careless sender would change.
BODY = (
    ' {"Type": "IProduction",\r\n"FunctionName": "Cover", "JobId": "J-a", "State": "Success",'
    ' "UserData": "\u00e9\U0001f3ac <&>"}\t'
).encode()


class Place:
    """A queue of a sandbox in its own process.

    Args:
        url: The sandbox.
        name: The queue's name.
        fetch: Asks an address.
    """

    def __init__(self, url: str, name: str, fetch: Fetch) -> None:
        self.url, self.name, self._fetch = url, name, fetch

    def make(self) -> None:
        self._fetch(f"{self.url}/_sandbox/queues/{self.name}", "PUT", b"{}")

    def remove(self) -> None:
        self._fetch(f"{self.url}/_sandbox/queues/{self.name}", "DELETE")

    def bodies(self) -> list[str]:
        found = json.loads(self._fetch(f"{self.url}/_sandbox/queues/{self.name}"))
        return [message["body"] for message in found["messages"]]

    def fault(self, **rule: object) -> None:
        """Make sends to this queue go wrong."""
        whole = {"operations": ["SendMessage"], "queues": [self.name], **rule}
        self._fetch(f"{self.url}/_sandbox/faults", "POST", json.dumps(whole).encode())

    def mend(self) -> None:
        self._fetch(f"{self.url}/_sandbox/faults", "DELETE")


@pytest.fixture
def place(keys: str, fetch: Fetch, queue_url: QueueUrl, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """An empty queue that the settings name."""
    place = Place(keys, f"replay-{secrets.token_hex(4)}", fetch)
    place.make()
    monkeypatch.setenv("MNS_CONSUMER_NOTIFY_URL", queue_url(place.name))
    yield place
    place.mend()


@pytest.fixture(params=["sqlite", "postgres"])
def target(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An empty place for a store, on each engine in turn, which the settings name."""
    if request.param == "sqlite":
        monkeypatch.setenv("MNS_CONSUMER_STORE", str(tmp_path / "store.db"))
        yield str(tmp_path / "store.db")
    else:
        with postgres_store() as target:
            monkeypatch.setenv("MNS_CONSUMER_STORE", target)
            yield target


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The same on SQLite alone, for what does not hang on the engine."""
    monkeypatch.setenv("MNS_CONSUMER_STORE", str(tmp_path / "one.db"))
    return str(tmp_path / "one.db")


def test_replay_of_one(cli: Cli, target: str, place: Place) -> None:
    """The body goes byte for byte, the key is open without failures, and the letter says replayed from then on."""
    one = letter("a", BODY, queue=place.name)
    fill(target, [one, letter("b", queue=place.name)])
    ran = cli("dead-letters", "replay", "1", "--json")
    assert ran.code == 0
    printed = json.loads(ran.out)
    assert (printed["id"], printed["outcome"], printed["error"]) == (1, "replayed", None)
    assert [body.encode() for body in place.bodies()] == [BODY]
    assert states(target) == ["replayed", "set_aside"]
    assert claim(target, one.job.key) == Claimed(failures=0, starts=0)


def test_only_once_unless_forced(cli: Cli, target: str, place: Place) -> None:
    """A replayed letter is refused by its number, left alone by flags, and sent again with --force."""
    fill(target, [letter("a", queue=place.name), letter("b", queue=place.name)])
    assert cli("dead-letters", "replay", "1").code == 0
    again = cli("dead-letters", "replay", "2", "1")
    assert again.code == 2
    assert "dead letter 1 was replayed at" in again.err
    assert "--force" in again.err
    assert states(target) == ["replayed", "set_aside"]
    rest = cli("dead-letters", "replay", "--all")
    assert rest.code == 0
    assert "1 left alone that were replayed before; say --force" in rest.err
    assert len(place.bodies()) == 2
    assert cli("dead-letters", "replay", "--state", "replayed").err.startswith("2 left alone")
    assert cli("dead-letters", "replay", "--all", "--force").code == 0
    assert len(place.bodies()) == 4


def test_dry_run(cli: Cli, store: str, place: Place) -> None:
    """A dry run lists what would be sent, and neither sends nor marks it."""
    fill(
        store,
        [
            letter(name, queue=place.name, reason=Reason.UNROUTED if name in "bc" else Reason.REJECTED)
            for name in "abcd"
        ],
    )
    ran = cli("dead-letters", "replay", "--reason", "unrouted", "--dry-run", "--json")
    assert [(line["id"], line["outcome"]) for line in map(json.loads, ran.out.splitlines())] == [
        (2, "would_replay"),
        (3, "would_replay"),
    ]
    plain = cli("dead-letters", "replay", "--reason", "unrouted", "--dry-run")
    assert f"would replay: dead letter 2 (Cover, job J-b, unrouted, queue {ACCOUNT}/{place.name})" in plain.out
    assert plain.err == "dry run: 2 would be replayed\n"
    assert states(store) == ["set_aside"] * 4
    assert place.bodies() == []


def test_filters_and_rate(cli: Cli, store: str, place: Place) -> None:
    """Flags choose what is sent, in order, at most at the given rate."""
    letters = [letter(f"{number}", f"body {number}".encode(), queue=place.name) for number in range(5)]
    fill(store, [letter("first", queue=place.name, function="VideoH2V"), *letters])
    began_at = time.monotonic()
    ran = cli("dead-letters", "replay", "--function", "Cover", "--rate", "10")
    assert time.monotonic() - began_at >= 0.4
    assert ran.code == 0
    assert ran.err == "5 replayed\n"
    assert place.bodies() == [f"body {number}" for number in range(5)]
    assert states(store) == ["set_aside"] + ["replayed"] * 5
    assert "no dead letter matches" in cli("dead-letters", "replay", "--function", "Unheard").err


def test_a_queue_of_no_settings(cli: Cli, store: str, place: Place) -> None:
    """A letter whose queue the settings lack stops everything before anything is begun."""
    fill(store, [letter("a", queue=place.name), letter("b", queue="elsewhere")])
    for flags in ([], ["--dry-run"]):
        ran = cli("dead-letters", "replay", "--all", *flags)
        assert ran.code == 2
        assert f"dead letter 2 is of the queue {ACCOUNT}/elsewhere, expected one of the settings' queues" in ran.err
    assert states(store) == ["set_aside"] * 2
    assert place.bodies() == []


@pytest.mark.parametrize(
    ("case", "printed"),
    [
        ("over the limit", "larger than 65536"),
        ("not sendable", "not UTF-8"),
        ("queue gone", "QueueNotExist"),
        ("wrong keys", "SignatureDoesNotMatch"),
        ("no listener", "ConnectRefused"),
        ("throttled", "TooManyRequests"),
    ],
)
def test_certainly_not_sent(
    cli: Cli, target: str, place: Place, *, monkeypatch: pytest.MonkeyPatch, case: str, printed: str
) -> None:
    """A letter that was certainly not sent ends with 1 and one line; it is what it was, and its key is closed again."""
    bodies = {"over the limit": b"x" * 65_537, "not sendable": b"\xff"}
    fill(target, [letter("a", bodies.get(case, b"{}"), queue=place.name)])
    before = stored(target)
    if case == "queue gone":
        place.remove()
    elif case == "wrong keys":
        monkeypatch.setenv("MNS_CONSUMER_ACCESS_KEY_SECRET", "another")
    elif case == "no listener":
        monkeypatch.setenv("MNS_CONSUMER_ENDPOINT", "http://127.0.0.1:9")
    elif case == "throttled":
        place.fault(kind="error", status=429)
    ran = cli("dead-letters", "replay", "1")
    assert ran.code == 1
    first, last = ran.err.splitlines()
    assert first.startswith("error: dead letter 1: it was not sent and is what it was: SendMessage on ")
    assert printed in first
    assert last == "1 not sent"
    assert stored(target) == before
    job = before[0].letter.job
    assert claim(target, job.key) == Ended(dead=True, function=job.function, state=job.state, user_data=job.user_data)


@pytest.mark.parametrize(
    "rule",
    [
        pytest.param({"kind": "drop_after"}, id="sent, the answer lost"),
        pytest.param({"kind": "drop"}, id="the connection lost before"),
        pytest.param({"kind": "truncate"}, id="half of an answer"),
        pytest.param({"kind": "error", "status": 503}, id="a 503"),
        pytest.param({"kind": "html", "status": 502}, id="a web page"),
    ],
)
def test_perhaps_sent(cli: Cli, target: str, place: Place, rule: dict[str, object]) -> None:
    """A letter that was perhaps sent stays replaying: flags leave it alone, and --state replaying sends it."""
    fill(target, [letter(name, queue=place.name) for name in "abc"])
    place.fault(**rule, count=1)
    ran = cli("dead-letters", "replay", "--all", "--json")
    assert ran.code == 1
    assert [json.loads(line)["outcome"] for line in ran.out.splitlines()] == ["unknown", "not_tried", "not_tried"]
    assert states(target) == ["replaying", "set_aside", "set_aside"]
    sent = len(place.bodies())
    others = cli("dead-letters", "replay", "--all")
    assert others.code == 0
    assert "1 left alone whose replay was interrupted: they may have been sent; say --state replaying" in others.err
    assert states(target) == ["replaying", "replayed", "replayed"]
    assert cli("dead-letters", "replay", "--state", "replaying").code == 0
    assert states(target) == ["replayed"] * 3
    assert len(place.bodies()) == sent + 3


def test_perhaps_sent_in_words(cli: Cli, store: str, place: Place) -> None:
    """The line of a letter that was perhaps sent says what to do before the next try."""
    fill(store, [letter("a", queue=place.name), letter("b", queue=place.name)])
    place.fault(kind="drop_after", count=1)
    ran = cli("dead-letters", "replay", "1", "2")
    first, second, last = ran.err.splitlines()
    assert first.startswith("error: dead letter 1: unknown whether it was sent; it stays replaying, look into")
    assert second.startswith("error: dead letter 2: its queue failed before: Disconnected")
    assert last == "1 unknown, 1 not tried"


def test_one_refused_body_stops_no_other(cli: Cli, store: str, place: Place) -> None:
    """A body over the limit is refused, and the letters after it are sent."""
    fill(store, [letter("a", b"x" * 65_537, queue=place.name), letter("b", b"small", queue=place.name)])
    ran = cli("dead-letters", "replay", "--all")
    assert ran.code == 1
    assert states(store) == ["set_aside", "replayed"]
    assert place.bodies() == ["small"]


def test_one_dead_queue_stops_no_other(
    cli: Cli, store: str, place: Place, monkeypatch: pytest.MonkeyPatch, queue_url: QueueUrl
) -> None:
    """Letters of a queue that is gone are tried once, those of another go."""
    monkeypatch.setenv("MNS_CONSUMER_NOTIFY_URL", f"{queue_url('no-such')} {queue_url(place.name)}")
    fill(
        store,
        [letter("a", queue="no-such"), letter("b", b"goes", queue=place.name), letter("c", queue="no-such")],
    )
    ran = cli("dead-letters", "replay", "--all")
    assert ran.code == 1
    assert ran.err.splitlines()[-1] == "1 not sent, 1 replayed, 1 not tried"
    assert states(store) == ["set_aside", "replayed", "set_aside"]
    assert place.bodies() == ["goes"]


def test_fifo(cli: Cli, store: str, place: Place, fetch: Fetch) -> None:
    """A FIFO queue refuses a letter without a group, and takes it with one."""
    place.remove()
    fetch(f"{place.url}/_sandbox/queues/{place.name}", "PUT", b'{"fifo": true}')
    fill(store, [letter("a", queue=place.name)])
    assert "MessageGroupId" in cli("dead-letters", "replay", "1").err
    assert cli("dead-letters", "replay", "1", "--group-id", "g").code == 0


def test_killed_between_mark_and_send(cli: Cli, target: str, place: Place, start: Cli, keys: str) -> None:
    """Killed while the send hangs, the letter says replaying, with its key open, and can be replayed again."""
    one = letter("a", BODY, queue=place.name)
    fill(target, [one])
    place.fault(kind="hang")
    process = start("dead-letters", "replay", "1")
    _until(lambda: states(target) == ["replaying"])
    process.end(signal.SIGKILL)
    assert states(target) == ["replaying"]
    assert place.bodies() == []
    assert claim(target, one.job.key) == Claimed(failures=0, starts=0)
    place.mend()
    assert cli("dead-letters", "list", "--state", "replaying", "--json").out.count('"id": 1') == 1
    assert cli("dead-letters", "replay", "1").code == 0
    assert states(target) == ["replayed"]
    assert [body.encode() for body in place.bodies()] == [BODY]


def test_interrupted_while_sending(target: str, place: Place, start: Cli) -> None:
    """Ctrl-C while the send hangs leaves the letter as replaying too, without a traceback."""
    fill(target, [letter("a", queue=place.name)])
    place.fault(kind="hang")
    process = start("dead-letters", "replay", "1")
    _until(lambda: states(target) == ["replaying"])
    assert process.end(signal.SIGINT) == 130
    assert states(target) == ["replaying"]
    assert "Traceback" not in process.text()


@pytest.mark.parametrize(
    "rule",
    [{"kind": "latency", "seconds": 0.7}, {"kind": "error", "status": 403, "code": "AccessDenied", "seconds": 0.7}],
)
def test_the_store_fails_after_the_send(cli: Cli, store: str, place: Place, rule: dict[str, object]) -> None:
    """If the end of a replay can't be stored, the error says what became of the message, and the command ends."""
    fill(store, [letter("a", queue=place.name), letter("b", queue=place.name)])
    place.fault(**rule)

    def break_it() -> None:
        _until(lambda: states(store)[0] == "replaying")
        with sqlite3.connect(store) as connection:
            connection.execute("ALTER TABLE letter RENAME TO hidden")
        connection.close()

    breaking = threading.Thread(target=break_it)
    breaking.start()
    ran = cli("dead-letters", "replay", "--all")
    breaking.join()
    assert ran.code == 1
    if rule["kind"] == "latency":
        assert "dead letter 1 was sent as message" in ran.err
        assert len(place.bodies()) == 1
    else:
        assert "dead letter 1 was not sent (AccessDenied), but may stay replaying" in ran.err
        assert place.bodies() == []
    with sqlite3.connect(store) as connection:
        assert connection.execute("SELECT replay FROM hidden").fetchall() == [("replaying",), ("set_aside",)]
    connection.close()


async def test_changed_meanwhile(store: str, place: Place) -> None:
    """Letters that another operator replayed or purged since they were chosen are left alone."""
    await anyio.to_thread.run_sync(fill, store, [letter(name, queue=place.name) for name in "ab"])
    operators = operators_at(store)
    chosen = await choose(operators, Filter())
    await operators.begin_replay(1)
    await operators.purge(Filter(ids=(2,)))
    ended = [one async for one in replay_letters(operators, chosen.letters, load({}).queues())]
    assert [one.outcome for one in ended] == [ReplayOutcome.CHANGED, ReplayOutcome.CHANGED]
    assert "dead letter 1 was set_aside when it was chosen and is replaying now" in str(ended[0].error)
    assert "no dead letter has the number 2" in str(ended[1].error)
    assert await anyio.to_thread.run_sync(place.bodies) == []


@pytest.mark.parametrize("state", ["set_aside", "replaying", "replayed"])
async def test_two_commands_at_once(target: str, place: Place, state: str) -> None:
    """Of two commands that chose the same letter one sends it; the other reports a change and sends nothing."""
    await anyio.to_thread.run_sync(fill, target, [letter("a", queue=place.name)])
    both = [operators_at(target) for _ in range(2)]
    if state != "set_aside":
        await both[0].begin_replay(1)
    if state == "replayed":
        await both[0].finish_replay(1)
    chosen = [Candidate.of(await operators.get_letter(1)) for operators in both]
    printed: list[Replayed] = []

    async def command(operators: Operators, one: Candidate) -> None:
        printed.extend([ended async for ended in replay_letters(operators, [one], load({}).queues(), force=True)])

    async with anyio.create_task_group() as tasks:
        for operators, one in zip(both, chosen, strict=True):
            tasks.start_soon(command, operators, one)
    assert sorted(one.outcome for one in printed) == [ReplayOutcome.CHANGED, ReplayOutcome.REPLAYED]
    assert len(await anyio.to_thread.run_sync(place.bodies)) == 1
    for operators in both:
        await operators.close()


def test_handled_meanwhile(cli: Cli, target: str, place: Place) -> None:
    """A letter that was perhaps sent and whose job was done since is marked and not sent again, unless forced."""
    fill(target, [letter(name, queue=place.name) for name in "abc"])
    for number in "123":
        place.fault(kind="drop_after", count=1)
        assert cli("dead-letters", "replay", number).code == 1
    fill(target, done=[letter(name, queue=place.name).job for name in "abc"])
    assert (states(target), len(place.bodies())) == (["replaying"] * 3, 3)
    ran = cli("dead-letters", "replay", "1")
    assert ran.code == 0
    assert ran.out.startswith("handled: dead letter 1 (Cover, job J-a, rejected, ")
    assert ran.out.endswith(" whose job was done meanwhile: nothing was sent, it is marked as replayed\n")
    assert ran.err == "1 handled\n"
    printed = json.loads(cli("dead-letters", "replay", "2", "--json").out)
    assert (printed["outcome"], printed["message_id"], printed["error"]) == ("handled", None, None)
    assert (states(target), len(place.bodies())) == (["replayed", "replayed", "replaying"], 3)
    assert cli("dead-letters", "replay", "3", "--force").code == 0
    assert (states(target), len(place.bodies())) == (["replayed"] * 3, 4)


def test_not_sent_after_perhaps_sent(cli: Cli, target: str, place: Place) -> None:
    """A letter that was perhaps sent says so still after a second try was refused, and its job may be handled."""
    one = letter("a", queue=place.name)
    fill(target, [one])
    place.fault(kind="drop_after", count=1)
    assert cli("dead-letters", "replay", "1").code == 1
    before = stored(target)
    place.fault(kind="error", status=429)
    assert cli("dead-letters", "replay", "1").err.endswith("1 not sent\n")
    assert stored(target) == before
    assert claim(target, one.job.key) == Claimed(failures=0, starts=0)


@pytest.mark.parametrize(
    ("fault", "code", "certain"),
    [
        *(
            (fault, "Any", True)
            for fault in (Fault.THROTTLED, Fault.CLOCK, Fault.CREDENTIALS, Fault.MISSING, Fault.REQUEST)
        ),
        *((fault, "Any", False) for fault in (Fault.NETWORK, Fault.UNREADABLE, Fault.SERVER, Fault.GONE)),
        # TLS fails before the first byte of a request; a break after that is a lost connection.
        *((Fault.NETWORK, code, True) for code in ("ConnectRefused", "ConnectTimeout", "NameNotFound", "TlsFailed")),
        *((Fault.NETWORK, code, False) for code in ("ReadTimeout", "Disconnected", "ConnectionLost")),
    ],
)
def test_surely_not_sent(fault: Fault, code: str, *, certain: bool) -> None:
    """Only a refusal, or a connection that was never made, is certain."""
    error = CloudError(fault, operation="SendMessage", target="q", code=code, detail="d")
    assert surely_not_sent(error) is certain


HANDLER = """
from pathlib import Path
from mns_consumer import Job, Reject, handler

@handler("Cover")
async def cover(job: Job) -> None:
    if not Path({mended!r}).exists():
        raise Reject("not mended yet")
"""


def test_while_the_daemon_runs(
    cli: Cli, target: str, place: Place, *, start: Cli, tmp_path: Path, fetch: Fetch
) -> None:
    """Beside a running daemon a letter is replayed, handled as new once its cause is mended, and its job is done."""
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "cover.py").write_text(HANDLER.format(mended=str(tmp_path / "mended")), encoding="utf-8")
    daemon = start("run", "--handlers", str(folder), "--admin-port", "0", "--set", "wait_s=1")
    daemon.wait_for('"event":"started"')
    fetch(f"{place.url}/_sandbox/queues/{place.name}/messages", "POST", base64.b64encode(BODY))
    _until(lambda: states(target) == ["set_aside"])
    # Not mended: it comes back as a letter of its own.
    assert cli("dead-letters", "replay", "1").code == 0
    _until(lambda: states(target) == ["replayed", "set_aside"])
    (tmp_path / "mended").touch()
    assert cli("dead-letters", "replay", "--all").code == 0
    _until(lambda: "J-a" in cli("jobs", "list", "--ended", "done").out)
    assert states(target) == ["replayed", "replayed"]
    assert [(one.letter.reason, one.letter.job.attempts) for one in stored(target)] == [(Reason.REJECTED, 1)] * 2
    _until(lambda: place.bodies() == [])
    found = json.loads(cli("jobs", "show", "J-a", "--json").out)
    assert (found["state"], found["dead_letters"]) == ("done", [1, 2])
    assert daemon.end() == 0


def _until(holds: Callable[[], bool], within_s: float = 10.0) -> None:
    until = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < until, "it never came to hold"
        time.sleep(0.05)
