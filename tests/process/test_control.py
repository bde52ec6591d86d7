"""The control socket: commands ask a daemon that runs, as processes and sockets."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from consumer.cli.main import main
from consumer.errors import ConsumerError, ExitCode, SettingsError
from consumer.ops.control import ControlSocket, NoDaemonError, SocketTakenError, ask
from consumer.sandbox import Sandbox
from tests.engine.rig import QUEUE, body
from tests.engine.test_forged_first import JOB_ID, true_job
from tests.process.rig import HANDLERS, Process

Run = Callable[..., Any]
JOB = f"{7:032x}"
HOOK = """
@on_dead_letter
async def aside(letter: Letter) -> None:
    pass
"""


async def running(sandbox: Sandbox, folder: Path, *flags: str, **more: str) -> Process:
    """A daemon that listens for commands and polls."""
    daemon = Process(sandbox, folder, f"control_socket={folder / 'c'}", *flags, **more)
    await daemon.logged('"event":"started"')
    return daemon


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command line; gives exit code, stdout and stderr."""

    async def run(*argv: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = await anyio.to_thread.run_sync(main, argv)
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


async def test_status_shows_what_runs(sandbox: Sandbox, tmp_path: Path, started: list[Process], command: Run) -> None:
    """``status`` shows each job in flight, the handlers, and each setting with its place, and no key."""
    sandbox.put(QUEUE, body(JOB, "VideoClip").decode())
    own = HANDLERS.replace("import Job, handler", "import Job, Letter, handler, on_dead_letter") + HOOK
    started.append(await running(sandbox, tmp_path, MNS_CONSUMER_SLOTS="7", handlers=own))
    await started[0].logged("begun")
    code, out, _ = await command("status", "--socket", str(tmp_path / "c"), "--json")
    found = json.loads(out)
    assert (code, found["pid"], found["state"], found["last_reload"]) == (0, started[0].process.pid, "serving", None)
    (queue,) = found["queues"]
    assert queue["queue"].endswith(f"/{QUEUE}")
    (one,) = queue["in_flight"]
    assert (one["function"], one["job_id"], one["attempt"], one["state"]) == ("VideoClip", JOB, 1, "running")
    assert found["settings"]["slots"] == {"value": 7, "from": "environment MNS_CONSUMER_SLOTS"}
    assert found["settings"]["store"] == {"value": str(tmp_path / "ledger.db"), "from": "command line"}
    assert found["settings"]["max_failures"]["from"] == "default"
    assert found["settings"]["access_key_secret"]["value"] == "**********"
    assert {each["origin"] for each in found["handlers"]} == {
        f"{tmp_path / 'handlers' / 'mine.py'}:{line}" for line in (5, 9)
    }
    assert found["breakers"] == []
    here = ("--store", str(tmp_path / "ledger.db"), "--set", f"control_socket={tmp_path / 'c'}")
    code, out, _ = await command("jobs", "list", "--state", "running", "--json", *here)
    (listed,) = [json.loads(line) for line in out.splitlines()]
    assert (code, listed["job_id"], listed["state"], listed["queue"]) == (0, JOB, "running", queue["queue"])
    code, out, _ = await command("jobs", "show", JOB, "--json", *here)
    shown = json.loads(out)
    assert (code, shown["state"], shown["function"], shown["attempt"]) == (0, "running", "VideoClip", 1)
    code, out, _ = await command("status", "--socket", str(tmp_path / "c"))
    assert code == 0
    assert JOB in out
    assert re.search(r"^slots +7 +environment MNS_CONSUMER_SLOTS$", out, re.MULTILINE)
    assert f"{tmp_path / 'handlers' / 'mine.py'}:9\n" in out
    assert f"\n\n{queue['queue']}: 1 in flight, 7 slots\n" in out
    assert "\\n" not in out
    assert f"\nfunction for dead letters\n{tmp_path / 'handlers' / 'mine.py'}:{len(own.splitlines()) - 2}\n" in out


async def test_reload_answers(sandbox: Sandbox, tmp_path: Path, started: list[Process], command: Run) -> None:
    """``reload`` says what applies, or ends with 78 and each reason; ``status`` says so, and what fails."""
    started.append(await running(sandbox, tmp_path, "endpoint=http://127.0.0.1:1"))
    ask_reload = partial(command, "reload", "--socket", str(tmp_path / "c"))
    file = tmp_path / "handlers" / "mine.py"
    file.write_text(HANDLERS.replace("VideoClip", "ImageH2V"))
    assert await ask_reload() == (0, "reloaded; handlers: Cover, ImageH2V\n", "")
    file.write_text("1 +")
    code, out, err = await ask_reload()
    assert (code, out) == (ExitCode.SETTINGS, "")
    assert err.startswith("error: ")
    assert "mine.py" in err
    code, out, err = await ask_reload("--json")
    refused = json.loads(out)
    assert (code, refused["outcome"], len(refused["problems"])) == (ExitCode.SETTINGS, "refused", 1)
    assert "mine.py" in refused["problems"][0]
    assert err.startswith("error: ")
    await started[0].logged("reload refused")
    await started[0].logged("polling failed")
    found = ask(tmp_path / "c", {"command": "status"})
    assert (found["last_reload"]["outcome"], found["last_reload"]["handlers"]) == ("refused", ["Cover", "ImageH2V"])
    assert "mine.py" in found["last_reload"]["problems"][0]
    (outage,) = found["breakers"]
    assert outage["event"] == "polling failed; retrying until it works"
    assert outage["since"]
    assert "BatchReceiveMessage" in outage["error"]
    _, out, _ = await command("status", "--socket", str(tmp_path / "c"))
    assert "last reload refused" in out
    assert "\\n" not in out
    problem = found["last_reload"]["problems"][0].splitlines()
    assert len(problem) > 1
    assert "".join(f"\n  {line}" for line in problem) in out
    assert "polling failed; retrying until it works" in out


async def test_jobs_run_beside_a_daemon(
    sandbox: Sandbox, tmp_path: Path, started: list[Process], command: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A daemon on SQLite handles a job that has no message for ``jobs run``, once; without a socket it is refused."""
    true_job(sandbox)
    daemon = await running(sandbox, tmp_path)
    started.append(daemon)
    for name in ("ID", "SECRET"):
        monkeypatch.setenv(f"MNS_CONSUMER_ACCESS_KEY_{name}", "sandbox")
    where = ("--notify-url", sandbox.notify_url(QUEUE), "--set", f"endpoint={sandbox.url}")
    store, asks = ("--store", str(tmp_path / "ledger.db")), ("--set", f"control_socket={tmp_path / 'c'}")
    assert await command("jobs", "run", JOB_ID, *where, *store, *asks) == (0, "done\n", "")
    assert await command("jobs", "run", JOB_ID, *where, *store, *asks) == (0, "duplicate\n", "")
    code, _, err = await command("jobs", "run", "0" * 32, *where, *store, *asks)
    assert (code, "is not an intelligent production job" in err) == (ExitCode.USAGE, True)
    request = {"command": "run_job", "job_id": JOB_ID, "queue": "1/x/y", "store": str(tmp_path / "ledger.db")}
    assert ask(tmp_path / "c", request) == {"outcome": None}
    code, _, err = await command("jobs", "run", JOB_ID, *where, *store, "--shipped")
    assert code == ExitCode.TEMPORARY
    assert "answers on its control socket (control_socket is not set): use the daemon's own settings" in err
    assert await daemon.stop() == 0
    assert '"level":"warning"' not in daemon.log.read_text()


async def test_the_socket_is_the_owner_s(sandbox: Sandbox, tmp_path: Path, started: list[Process]) -> None:
    """A dead daemon's socket is replaced, a living one's is not; it has the mode 0600 and goes with its daemon."""
    path = tmp_path / "c"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with pytest.raises(NoDaemonError):
        ask(path, {"command": "status"})
    first = await running(sandbox, tmp_path)
    started.append(first)
    (tmp_path / "second").mkdir()
    second = Process(sandbox, tmp_path / "second", f"control_socket={path}")
    started.append(second)
    await second.logged('"event":"started"')
    assert "another daemon listens on" in second.log.read_text()
    assert ask(path, {"command": "status"})["pid"] == first.process.pid
    assert path.stat().st_mode & 0o777 == 0o600
    assert await second.stop() == 0
    assert path.is_socket()
    assert await first.stop() == 0
    assert not path.exists()


async def test_a_client_blocks_nothing(sandbox: Sandbox, tmp_path: Path, started: list[Process]) -> None:
    """Clients that send nothing, too much or no request keep no other from its answer, and no daemon from its stop."""
    daemon = await running(sandbox, tmp_path)
    started.append(daemon)
    path = str(tmp_path / "c")
    with socket.socket(socket.AF_UNIX) as silent, socket.socket(socket.AF_UNIX) as wrong:
        silent.connect(path)
        wrong.connect(path)
        wrong.settimeout(5)
        wrong.sendall(b"[" * 20_000)
        assert "expected a JSON object" in json.loads(wrong.makefile("rb").readline())["problems"][0]
        with pytest.raises(ConsumerError, match="one of the commands status, reload, run_job"):
            ask(tmp_path / "c", {"command": "stop"})
        assert ask(tmp_path / "c", {"command": "status"})["state"] == "serving"
        assert await daemon.stop(within_s=3) == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
async def test_another_user_gets_no_answer(sandbox: Sandbox, tmp_path: Path, started: list[Process]) -> None:
    """A client of another user gets no answer, even where the files' modes let it connect."""
    started.append(await running(sandbox, tmp_path))
    listener = tmp_path / "c"
    script = (
        "import os, socket, sys; s = socket.socket(socket.AF_UNIX); os.chdir(sys.argv[1]); os.setuid(65534);"
        's.connect("c"); s.settimeout(5); s.sendall(b\'{"command": "status"}\\n\'); print(len(s.recv(9)))'
    )
    for place, mode in ((listener, 0o666), (tmp_path, 0o711)):
        os.chmod(place, mode)  # noqa: PTH101 - at once
    asked = [sys.executable, "-c", script, str(tmp_path)]
    done = await anyio.to_thread.run_sync(partial(subprocess.run, asked, capture_output=True, text=True, check=False))
    assert done.stdout == "0\n" or "ConnectionResetError" in done.stderr or "BrokenPipeError" in done.stderr
    assert ask(listener, {"command": "status"})["state"] == "serving"


def test_a_wrong_place_is_refused(tmp_path: Path) -> None:
    """A path that is too long, no socket, or in a folder that others may write to is a wrong setting."""
    (tmp_path / "file").touch()
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    for path, said in (
        (tmp_path / ("x" * 104), "too long"),
        (tmp_path / "file", "is no socket"),
        (tmp_path / "open" / "c", "only the daemon's user may write"),
        (tmp_path / "none" / "below" / "c", "No such file"),
    ):
        with pytest.raises(SettingsError, match=said):
            ControlSocket(path, {})


def test_two_that_start_at_once(tmp_path: Path) -> None:
    """A socket that does not answer yet, and has as many clients as it takes, is alive; its folder is made for it."""
    path = tmp_path / "made" / "c"
    first = ControlSocket(path, {})
    assert path.parent.stat().st_mode & 0o777 == 0o700
    clients = [socket.socket(socket.AF_UNIX) for _ in range(64)]
    for client in clients:
        client.settimeout(0)
        client.connect_ex(str(path))
    with pytest.raises(SocketTakenError):
        ControlSocket(path, {})
    for each in (*clients, first._listener):
        each.close()
