"""health, against a daemon process, and against other answers at its port."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Cli = Callable[..., Any]


def http(status: str, body: str) -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode()


def test_a_running_daemon(
    *, start: Cli, cli: Cli, process: Cli, keys: str, queue_url: Callable[[str], str], tmp_path: Path, fetch: Cli
) -> None:
    """A daemon that polls is alive and ready by its settings and by its address; once it has ended it is neither."""
    fetch(f"{keys}/_sandbox/queues/healthy", "PUT", b"{}")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    settings = tmp_path / "s.toml"
    settings.write_text(f'admin_host = "0.0.0.0"\nadmin_port = {port}\n', encoding="utf-8")
    daemon = start(
        *("run", "--shipped", "--notify-url", queue_url("healthy"), "--store", str(tmp_path / "s.db")),
        *("--config", str(settings)),
    )
    daemon.wait_for("started")
    alive = process("health", "--config", str(settings))
    assert (alive.code, alive.out, alive.err) == (0, "alive: polling healthy, stuck handlers, event loop\n", "")
    assert cli("health", "--url", f"http://127.0.0.1:{port}/", "--ready").out.startswith(
        "ready: polling healthy, results for healthy, deletes of healthy, hides of healthy, store"
    )
    assert cli("health", "--url", f"http://127.0.0.1:{port}/startupz").out == "well: serving\n"
    assert daemon.end() == 0
    dead = process("health", "--config", str(settings))
    assert (dead.code, dead.out) == (1, "")
    assert dead.err.startswith(f"error: not alive: no answer from http://127.0.0.1:{port}/livez: ")
    assert dead.err.count("\n") == 1


@pytest.mark.parametrize(("status", "ok"), [("200 OK", True), ("503 No", False)])
def test_json(cli: Cli, answering: Callable[[bytes], str], *, status: str, ok: bool) -> None:
    """With --json every check is printed, also those of a daemon that is not well; the exit code is the same."""
    checks = [{"name": "store", "ok": ok, "detail": "answers\n"}, {"name": "event loop", "ok": True, "detail": ""}]
    ran = cli("health", "--json", "--url", answering(http(status, json.dumps({"checks": checks, "more": 1}))))
    assert (ran.code, ran.err) == (0 if ok else 1, "")
    assert json.loads(ran.out) == {"ok": ok, "checks": checks}


@pytest.mark.parametrize(
    ("answer", "printed"),
    [
        pytest.param(
            http(
                "503 No",
                '{"checks":[{"name":"a","ok":true,"detail":"x"},{"name":"b","ok":false,"detail":"gone\\nfor 9 s"}]}',
            ),
            r"not alive: b (gone\nfor 9 s)",
            id="a failing check",
        ),
        pytest.param(http("200 OK", "<html>"), "is no daemon's admin server; it answered 200", id="another server"),
        pytest.param(http("200 OK", "[]"), "is no daemon's admin server", id="other JSON"),
        pytest.param(http("403 No", "{}"), "use its IP address, or set admin_allowed_hosts", id="a name not allowed"),
        pytest.param(http("302 Go", '{"checks":[]}'), "it answered 302", id="a redirect"),
        pytest.param(b"", "no answer from", id="a connection that ends at once"),
        pytest.param(b"SSH-2.0-x\r\n", "no answer from", id="another protocol"),
    ],
)
def test_whatever_answers(*, cli: Cli, answering: Callable[[bytes], str], answer: bytes, printed: str) -> None:
    """For anything but a healthy daemon it exits with 1 and prints one line."""
    ran = cli("health", "--url", answering(answer))
    assert (ran.code, ran.out) == (1, "")
    assert printed in ran.err
    assert ran.err.count("\n") == 1


@pytest.mark.parametrize(
    ("argv", "printed"),
    [
        pytest.param(("--set", "admin=false"), "admin is false", id="no admin server"),
        pytest.param(("--admin-port", "0"), "admin_port is 0", id="any free port"),
        pytest.param(("--set", "slotz=3"), "no address to ask: slotz", id="wrong settings"),
        pytest.param(("--set", "admin_host=::", "--admin-port", "1"), "http://[::1]:1/livez", id="all IPv6 addresses"),
        pytest.param(("--url", "http://127.0.0.1:1", "--ready"), "not ready: no answer", id="no listener"),
    ],
)
def test_no_daemon_to_ask(cli: Cli, argv: tuple[str, ...], printed: str) -> None:
    """If no daemon can be asked the line says why, and the exit code is 1."""
    ran = cli("health", *argv)
    assert (ran.code, ran.out) == (1, "")
    assert printed in ran.err
    assert ran.err.count("\n") == 1


@pytest.mark.parametrize(
    "url", ["ftp://x", "x:1", "http://", "http://[::1", "http://x:99999", "http://x\n:1", "https://x"]
)
def test_wrong_url(cli: Cli, url: str) -> None:
    """An address of another form is a wrong command line."""
    ran = cli("health", "--url", url)
    assert (ran.code, ran.out) == (2, "")
    assert "expected http://HOST:PORT" in ran.err


def test_it_is_light() -> None:
    """A health check loads neither aiohttp nor the daemon."""
    code = (
        "import sys\nfrom consumer.cli.main import main\nmain(['health', '--admin-port', '1'])\n"
        "print(*sys.modules, sep='\\n')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"aiohttp", "uvloop", "consumer.app", "consumer.daemon"} & set(done.stdout.split()) == set()
