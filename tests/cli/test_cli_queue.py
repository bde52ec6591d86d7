"""queue stats, peek, send: what is shown of a queue without taking anything out of it, and what is put in."""

from __future__ import annotations

import base64
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from consumer.cloud.messages import QueueAttributes
from consumer.cloud.mns import MnsQueue

Cli = Callable[..., Any]
QueueUrl = Callable[[str], str]
Fetch = Callable[..., str]

NOTIFICATION = json.dumps({"Type": "IProduction", "FunctionName": "Cover", "JobId": "J1", "State": "Success"}).encode()


@pytest.fixture
def lane(keys: str, fetch: Fetch, queue_url: QueueUrl, monkeypatch: pytest.MonkeyPatch, request: Any) -> str:
    """The name of an empty queue of the test's own, which the settings name."""
    name = f"cli-{abs(hash(request.node.name))}"
    fetch(f"{keys}/_sandbox/queues/{name}", "PUT", b"{}")
    monkeypatch.setenv("MNS_CONSUMER_NOTIFY_URL", queue_url(name))
    return name


@pytest.fixture
def held(keys: str, fetch: Fetch, lane: str) -> Callable[[], list[dict[str, Any]]]:
    """What the queue holds."""
    return lambda: list(json.loads(fetch(f"{keys}/_sandbox/queues/{lane}"))["messages"])


def test_send_and_peek(cli: Cli, lane: str, held: Callable[[], list[dict[str, Any]]]) -> None:
    """What was sent is peeked decoded, and stays in the queue as it was, never received."""
    sent = cli("queue", "send", NOTIFICATION.decode(), "--base64", "--priority", "3")
    assert sent.code == 0
    ran = cli("queue", "peek")
    assert ran.code == 0
    assert sent.out.strip() in ran.out
    assert "Cover, job J1" in ran.out
    assert '"FunctionName": "Cover"' in ran.out
    found = json.loads(cli("queue", "peek", "--json", "--count", "1").out)
    assert found["body"].encode() == NOTIFICATION
    assert (found["job_id"], found["priority"], found["dequeue_count"]) == ("J1", 3, 0)
    (message,) = held()
    assert base64.b64decode(message["body"]) == NOTIFICATION
    assert (message["dequeue_count"], message["state"]) == (0, "active")


def test_peek_of_what_is_no_notification(cli: Cli, lane: str) -> None:
    """A body that the daemon could not read is shown with the reason; a long one is cut, control characters escaped."""
    assert cli("queue", "send", "\x9b no notification " + "x" * 3000).code == 0
    ran = cli("queue", "peek")
    assert "undecodable: " in ran.out
    assert "\\x9b no notification" in ran.out
    assert "characters more; --json prints them" in ran.out
    found = json.loads(cli("queue", "peek", "--json").out)
    assert found["undecodable"]
    assert len(found["body"]) > 3000


def test_peek_of_nothing(cli: Cli, lane: str) -> None:
    """An empty queue is no failure."""
    ran = cli("queue", "peek")
    assert (ran.code, ran.out) == (0, "")
    assert f"no message waits in 1234567890123456/cn-hangzhou/{lane}" in ran.err


def test_send_a_file(
    cli: Cli, lane: str, held: Callable[[], list[dict[str, Any]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file goes byte for byte, one of any bytes as base64, stdin likewise; --json gives the id as an object."""
    path = tmp_path / "body"
    path.write_bytes(b" two\nlines\r\n")
    assert cli("queue", "send", "--file", str(path)).code == 0
    path.write_bytes(b"\xff\x00")
    assert cli("queue", "send", "--file", str(path), "--base64").code == 0
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"piped")))
    ran = cli("queue", "send", "--file", "-", "--json", "--delay-s", "5")
    messages = held()
    assert [message["body"] for message in messages] == [" two\nlines\r\n", "/wA=", "piped"]
    assert json.loads(ran.out)["message_id"] == messages[2]["message_id"]
    assert messages[2]["state"] == "delayed"


@pytest.mark.parametrize(
    ("argv", "code", "printed"),
    [
        pytest.param([], 2, "expected either a body or --file", id="nothing"),
        pytest.param(["x", "--file", "y"], 2, "expected either a body or --file", id="both"),
        pytest.param([""], 2, "got an empty one", id="an empty body"),
        pytest.param(["--file", "no-such-file"], 2, "No such file", id="no file"),
        pytest.param(["--file", "/dev/zero"], 2, "over 1 MiB", id="no end of it"),
        pytest.param(["\udcff"], 1, "is not UTF-8", id="no text"),
        pytest.param(["\x01"], 1, "which XML forbids", id="no XML"),
        pytest.param(["x" * 65_537], 1, "larger than 65536", id="over the limit"),
        pytest.param(["x", "--priority", "17"], 2, "Invalid value for", id="priority"),
        pytest.param(["x", "--queue", "nonsense"], 2, "is none of the settings' queues: 1234567890123456/", id="queue"),
    ],
)
def test_send_refused(
    cli: Cli, lane: str, held: Callable[[], list[dict[str, Any]]], *, argv: list[str], code: int, printed: str
) -> None:
    """A body that can't be sent ends with a plain error, and nothing is sent."""
    ran = cli("queue", "send", *argv)
    assert (ran.code, ran.out) == (code, "")
    assert printed.lower() in ran.err.lower()
    assert held() == []


def test_send_to_a_fifo_queue(cli: Cli, keys: str, fetch: Fetch, lane: str) -> None:
    """A FIFO queue's group is a flag."""
    fetch(f"{keys}/_sandbox/queues/{lane}", "DELETE")
    fetch(f"{keys}/_sandbox/queues/{lane}", "PUT", b'{"fifo": true}')
    assert "MessageGroupId" in cli("queue", "send", "x").err
    assert cli("queue", "send", "x", "--group-id", "g").code == 0
    assert json.loads(cli("queue", "peek", "--json").out)["group_id"] == "g"


def test_stats(cli: Cli, lane: str) -> None:
    """A queue's attributes and counts are shown."""
    cli("queue", "send", "x")
    ran = cli("queue", "stats")
    assert ran.code == 0
    assert "active_messages       1" in ran.out
    found = json.loads(cli("queue", "stats", "--json", "--queue", lane).out)
    assert found["queue"] == f"1234567890123456/cn-hangzhou/{lane}"
    assert (found["retention_s"], found["max_message_bytes"]) == (345_600, 65_536)


def test_stats_of_several(cli: Cli, lane: str, monkeypatch: pytest.MonkeyPatch, queue_url: QueueUrl) -> None:
    """A queue that does not exist ends with 1, and the other queues are shown."""
    monkeypatch.setenv("MNS_CONSUMER_NOTIFY_URL", f"{queue_url('gone')} {queue_url(lane)}")
    ran = cli("queue", "stats")
    assert ran.code == 1
    assert "error: GetQueueAttributes on gone failed: QueueNotExist" in ran.err
    assert lane in ran.out
    assert cli("queue", "peek").code == 2


def test_stats_without_counts(cli: Cli, lane: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts that the service leaves out are shown as unknown."""

    async def without(*_: object) -> QueueAttributes:
        return QueueAttributes("q", 30, 60, 0, 0, 1024, None, None, None, 1, 1)

    # The sandbox always counts, so its answer is replaced here.
    monkeypatch.setattr(MnsQueue, "attributes", without)
    assert "active_messages       unknown" in cli("queue", "stats").out
    assert json.loads(cli("queue", "stats", "--json").out)["active_messages"] is None


def test_no_queue(cli: Cli) -> None:
    """Without a queue in the settings each command says how to name one."""
    ran = cli("queue", "stats")
    assert (ran.code, ran.out) == (78, "")
    for argv in (["peek"], ["send", "x"]):
        ran = cli("queue", *argv)
        assert ran.code == 2
        assert "--notify-url mns://ACCOUNT" in ran.err
