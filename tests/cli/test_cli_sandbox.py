"""sandbox: what it prints, what it refuses, how it ends."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from http.client import HTTPConnection
from typing import Any

import pytest

Cli = Callable[..., Any]


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.measured
def test_it_serves_and_ends(start: Cli, fetch: Callable[..., str], sent: signal.Signals) -> None:
    """It prints where it listens and what to try, answers, and ends cleanly on a signal."""
    started = start(
        *("sandbox", "--port", "0", "--dlq", "jobs=dead:3", "--dlq", "other=dead", "--fifo", "line", "--raw"),
        *("--fault", "error:status=503,operations=send,count=2", "--lenient-handles", "--envelope", "json"),
    )
    url = started.wait_for(r"are at (http://127\.0\.0\.1:\d+)")[1]
    text = started.wait_for(r"(?s)mns-consumer run .*mns-consumer submit .*curl .*Ctrl-C")[0]
    assert "/queues/jobs" in text
    state = json.loads(fetch(f"{url}/_sandbox/state"))
    assert state["queues"]["line"]["fifo"] is True
    assert state["queues"]["jobs"]["dlq"]["max_receive_count"] == 3
    assert state["queues"]["other"]["dlq"]["dead_letter_target_queue"] == "dead"
    assert json.loads(fetch(f"{url}/_sandbox/faults"))["faults"][0]["status"] == 503
    assert started.end(sent) == 0
    assert "Traceback" not in started.text()


def test_its_rights_and_its_slack(start: Cli, fetch: Callable[..., str]) -> None:
    """Actions are taken away, another host is answered, and the service may be slow, by flags."""
    started = start(
        *(
            "sandbox",
            "--port",
            "0",
            "--allow",
            "mns:ListQueue",
            "--allow",
            "mns:SendMessage",
            "--deny",
            "mns:ListQueue",
        ),
        *(
            "--plain-denials",
            "--lose",
            "0.25",
            "--pipeline",
            "p:concurrency=2",
            "--key",
            "k:s:99",
            "--allow-host",
            "films.test",
            "--late-redelivery",
            "10",
            "--small-batches",
        ),
    )
    url = started.wait_for(r"are at (http://127\.0\.0\.1:\d+)")[1]
    assert json.loads(fetch(f"{url}/_sandbox/rights")) == {
        "allow": ["mns:ListQueue", "mns:SendMessage"],
        "deny": ["mns:ListQueue"],
    }
    assert json.loads(fetch(f"{url}/_sandbox/lose")) == {"share": 0.25}
    assert json.loads(fetch(f"{url}/_sandbox/pipelines"))["p"]["concurrency"] == 2
    assert json.loads(fetch(f"{url}/_sandbox/tenants"))[1] == {"account": "99", "region": "cn-hangzhou"}
    asked = HTTPConnection("127.0.0.1", int(url.rpartition(":")[2]), timeout=5)
    asked.request("GET", "/_sandbox/state", headers={"Host": "films.test"})
    assert asked.getresponse().status == 200
    asked.close()
    assert started.end() == 0


@pytest.mark.measured
def test_open_to_others_is_warned_of(start: Cli) -> None:
    """An address that other machines reach prints a warning with the flag for names: its faults ask for no keys."""
    started = start("sandbox", "--host", "0.0.0.0", "--port", "0")
    started.wait_for("(?s)warning: other machines can reach it.*by --allow-host")
    assert started.end() == 0


@pytest.mark.parametrize(
    ("argv", "printed"),
    [
        pytest.param(["--port", "70000"], "port", id="no port"),
        pytest.param(["--envelope", "paper"], "envelope", id="no envelope"),
        pytest.param(["--fault", "rain"], "kind", id="no fault"),
        pytest.param(["--fault", "error:status"], "is not key=value", id="half a fault"),
        pytest.param(["--dlq", "jobs"], "expected QUEUE=TARGET", id="half a policy"),
        pytest.param(["--dlq", "jobs=dead:x"], "expected QUEUE=TARGET", id="no count"),
        pytest.param(["--allow", "mns:RecieveMessage"], "--allow: unknown action", id="no action"),
        pytest.param(["--deny", "mns:Send"], "the nearest is 'mns:SendMessage'", id="no action to deny"),
        pytest.param(["--pipeline", ":concurrency=2"], "expected ID or ID:KEY=VALUE", id="no pipeline"),
        pytest.param(["--pipeline", "p:state=Asleep"], "state: Input should be 'Active' or 'Paused'", id="no state"),
        pytest.param(["--key", "id:secret"], "expected ID:SECRET:ACCOUNT", id="a key without account"),
        pytest.param(["--key", "sandbox:x:9"], "each AccessKey is given once", id="a key twice"),
        pytest.param(["--lose", "10"], "lose: Input should be less than or equal to 1", id="no share"),
        pytest.param(["--late-redelivery", "-1"], "late_redelivery_s", id="a time before"),
        pytest.param(["--dlq", "jobs=dead:0"], "max_receive_count", id="a count out of range"),
    ],
)
def test_refused(cli: Cli, argv: list[str], printed: str) -> None:
    """A wrong option ends with 2 and a plain error."""
    ran = cli("sandbox", *argv)
    assert ran.code == 2
    assert printed in ran.err


def test_a_port_that_is_taken(process: Cli, sandbox_url: str) -> None:
    """The error for a port in use names the flag for another one."""
    ran = process("sandbox", "--port", sandbox_url.rpartition(":")[2])
    assert ran.code == 1
    assert "choose another one by --port" in ran.err
    assert "Traceback" not in ran.err
