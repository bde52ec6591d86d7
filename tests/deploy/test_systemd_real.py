"""The units on a real systemd: start, kill, hang, wrong settings, stop.

Switched on by ``DEPLOY_TESTS=1``, as root on Debian; it makes a machine of its own in a temporary folder, in about two
minutes.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.deploy.conftest import run

ROOT: Final = Path(__file__).resolve().parents[2]
TOOLS: Final = ("debootstrap", "systemd-nspawn", "nsenter")
CERTIFICATES: Final = Path("/etc/ssl/certs/ca-certificates.crt")
UNIT: Final = "mns-consumer"
SETTINGS: Final = """
notify_url = ["mns://1234567890123456.mns.cn-hangzhou.aliyuncs.com/queues/{queue}"]
endpoint = "http://127.0.0.1:8420"
handlers_dir = "/etc/mns-consumer/films"
shipped = true
admin_port = {port}
"""
SLOW: Final = """
import asyncio
from mns_consumer import Job, handler

@handler("Cover")
async def cover(job: Job) -> None:
    await asyncio.sleep(10)
"""
COVER: Final = (
    '{"Type":"IProduction","FunctionName":"Cover","JobId":"%s","State":"Success","Code":"Success","Message":""}'
)

pytestmark = [
    pytest.mark.skipif(os.environ.get("DEPLOY_TESTS") != "1", reason="DEPLOY_TESTS=1 switches it on"),
    pytest.mark.timeout(600),
]


def readme_commands() -> list[str]:
    """The five commands of the documentation from a fresh Debian to a running service."""
    part = (ROOT / "consumer/docs/deploy.md").read_text(encoding="utf-8").partition("## systemd")[2]
    commands = part.partition("```sh\n")[2].partition("```")[0].splitlines()
    assert len(commands) == 5
    return commands


def built(folder: Path) -> Path:
    """A Debian on which the README's commands were run, without the last one, which needs a booted machine."""
    machine = folder / "machine"
    packages = "systemd,systemd-sysv,dbus,python3,ca-certificates,procps,iproute2"
    run("debootstrap", "--variant=minbase", f"--include={packages}", "bookworm", str(machine))
    source = machine / "src"
    for name in (".build", "consumer", "handlers", "systemd"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("constraints.txt", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    (source / "settings.toml").write_text(SETTINGS.format(queue="jobs", port=9464), encoding="utf-8")
    (source / "films").mkdir()
    (source / "films" / "slow.py").write_text(SLOW, encoding="utf-8")
    # What this machine trusts and asks for names, the new one does too.
    for trusted in (CERTIFICATES, Path("/etc/resolv.conf")):
        if trusted.is_file():
            shutil.copy(trusted, machine / trusted.relative_to("/"))
    keys = ("ALIBABA_CLOUD_ACCESS_KEY_ID=sandbox", "ALIBABA_CLOUD_ACCESS_KEY_SECRET=sandbox")
    *commands, _ = readme_commands()
    script = "\n".join(("cd /src", 'sudo() { "$@"; }', *commands))
    run("chroot", str(machine), "env", *keys, "sh", "-ec", script)
    etc = machine / "etc" / "mns-consumer"
    (etc / "songs.toml").write_text(SETTINGS.format(queue="songs", port=9465), encoding="utf-8")
    shutil.copytree(etc / "credentials", etc / "songs.credentials")
    return machine


class Machine:
    """A booted one.

    Args:
        leader: The process that is its process 1, as this machine numbers it.
    """

    def __init__(self, leader: int) -> None:
        self.leader = leader

    def ask(self, *argv: str) -> tuple[int, str]:
        enter = ("nsenter", "-t", str(self.leader), "-m", "-p", "-u", "-i", "-n", "-C", "--")
        done = subprocess.run((*enter, *argv), capture_output=True, text=True, check=False, timeout=60)
        return done.returncode, (done.stdout + done.stderr).strip()

    def systemctl(self, *argv: str) -> str:
        code, output = self.ask("systemctl", *argv)
        assert code == 0, output
        return output

    def shows(self, key: str, unit: str = UNIT) -> str:
        return self.systemctl("show", "--value", "-p", key, unit)

    def health(self, *argv: str) -> tuple[int, str]:
        return self.ask("/opt/mns-consumer/bin/mns-consumer", "health", *argv)

    def metrics(self) -> str:
        ask = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:9464/metrics').read().decode())"
        return self.ask("/opt/mns-consumer/bin/python", "-c", ask)[1]

    def until(self, key: str, value: str, within_s: float = 30) -> None:
        """Wait until the unit shows this."""
        end = time.monotonic() + within_s
        while self.shows(key) != value:
            assert time.monotonic() < end, f"{key} is {self.shows(key)}, not {value}: {self.log()}"
            time.sleep(0.2)

    def logs(self, text: str, unit: str = UNIT) -> None:
        """Wait until the unit's log has a text."""
        end = time.monotonic() + 15
        while text not in self.log(unit):
            assert time.monotonic() < end, self.log(unit)
            time.sleep(0.2)

    def log(self, unit: str = UNIT) -> str:
        return self.ask("journalctl", "-u", unit, "--no-pager", "-o", "cat")[1]


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory, tools: Callable[..., None]) -> Iterator[Machine]:
    """A machine with a sandbox that runs in it."""
    tools(*TOOLS)
    folder = built(tmp_path_factory.mktemp("systemd"))
    flags = "--boot --register=no --keep-unit --private-network --link-journal=no --console=pipe --capability=all"
    with (folder.parent / "boot.log").open("wb") as log:
        nspawn = subprocess.Popen(
            [
                "systemd-nspawn",
                "-q",
                *flags.split(),
                "--system-call-filter=bpf",
                "-D",
                str(folder),
                "--machine=mnsdeploy",
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        booted = leader_of(nspawn)
        booted.ask(
            "systemd-run", "--unit=sandbox", "/opt/mns-consumer/bin/mns-consumer", *("sandbox", "--fifo", "songs")
        )
        yield booted
        os.kill(booted.leader, signal.SIGRTMIN + 3)
        nspawn.wait(60)
    finally:
        nspawn.kill()
        nspawn.wait()


def leader_of(nspawn: subprocess.Popen[bytes]) -> Machine:
    """Wait until the machine has booted."""
    children = Path(f"/proc/{nspawn.pid}/task/{nspawn.pid}/children")
    end = time.monotonic() + 60
    while time.monotonic() < end:
        assert nspawn.poll() is None
        found = children.read_text(encoding="ascii").split()
        if found and Machine(int(found[0])).ask("systemctl", "is-system-running")[1] == "running":
            return Machine(int(found[0]))
        time.sleep(0.2)
    raise AssertionError("it did not boot")


def test_both_units_start(machine: Machine) -> None:
    """Both are ready once started, with keys from the credentials folder, and serve health and process metrics."""
    begun = time.monotonic()
    code, output = machine.ask("sh", "-ec", 'sudo() { "$@"; }\n' + readme_commands()[-1])
    assert code == 0, output
    machine.systemctl("start", f"{UNIT}@songs")
    assert time.monotonic() - begun < 15
    for port in (9464, 9465):
        end = time.monotonic() + 20
        while (asked := machine.health("--ready", "--url", f"http://127.0.0.1:{port}"))[0] != 0:
            assert time.monotonic() < end, asked
            time.sleep(0.5)
    assert "process_resident_memory_bytes" in machine.metrics()
    assert machine.shows("StateDirectory") != machine.shows("StateDirectory", f"{UNIT}@songs")


def test_a_reload_takes_what_is_there_now(machine: Machine) -> None:
    """``systemctl reload`` takes a changed setting; a wrong one makes it fail, is logged, and the daemon continues."""
    settings = "/etc/mns-consumer/mns-consumer.toml"
    machine.ask("sh", "-c", f"echo 'max_failures = 7' >> {settings}")
    machine.systemctl("reload", UNIT)
    machine.logs('"changed":["max_failures"]')
    machine.ask("sh", "-c", f"sed -i 's/max_failures = 7/max_failures = 0/' {settings}")
    assert machine.ask("systemctl", "reload", UNIT)[0] != 0
    machine.logs("reload refused; the old settings and handlers are kept")
    machine.ask("sh", "-c", f"sed -i '/max_failures/d' {settings}")
    assert machine.shows("NRestarts") == "0"
    assert machine.shows("ActiveState") == "active"
    assert " in flight, last poll " in machine.shows("StatusText")


def test_a_killed_daemon_comes_back(machine: Machine) -> None:
    """After SIGKILL it is started again and gets ready."""
    before = int(machine.shows("NRestarts"))
    machine.systemctl("kill", "-s", "KILL", "--kill-who=main", UNIT)
    machine.until("NRestarts", str(before + 1))
    machine.until("ActiveState", "active")


def test_a_hung_daemon_comes_back(machine: Machine) -> None:
    """A daemon that hangs is ended by the watchdog and started again."""
    drop_in = f"/run/systemd/system/{UNIT}.service.d"
    machine.ask("sh", "-c", f"mkdir -p {drop_in}; printf '[Service]\\nWatchdogSec=3\\n' > {drop_in}/watchdog.conf")
    machine.systemctl("daemon-reload")
    machine.systemctl("restart", UNIT)
    time.sleep(5)
    assert machine.shows("NRestarts") == "0", "pings keep a daemon that works"
    machine.ask("kill", "-STOP", machine.shows("MainPID"))
    machine.until("NRestarts", "1")
    machine.until("ActiveState", "active")
    assert "Failed with result 'watchdog'" in machine.log()


def test_it_stops_in_order(machine: Machine) -> None:
    """A stop waits for the message in flight, loses nothing and ends with 0."""
    keys = "MNS_CONSUMER_ACCESS_KEY_ID=sandbox MNS_CONSUMER_ACCESS_KEY_SECRET=sandbox"
    settings = "--config /etc/mns-consumer/mns-consumer.toml"
    cli = f"{keys} /opt/mns-consumer/bin/mns-consumer queue"
    for number in range(3):
        text = COVER % f"{number:032x}"
        code, output = machine.ask("sh", "-c", f"{cli} send --base64 '{text}' {settings}")
        assert code == 0, output
    time.sleep(1)
    assert 'mns_consumer_in_flight{queue="jobs"} 3.0' in machine.metrics()
    machine.systemctl("stop", UNIT)
    done = [line for line in machine.log().splitlines() if '"event":"job done"' in line]
    assert len(done) == 3
    left = json.loads(machine.ask("sh", "-c", f"{cli} stats --json {settings}")[1])
    assert (left["active_messages"], left["inactive_messages"]) == (0, 0)
    assert (machine.shows("Result"), machine.shows("ExecMainStatus")) == ("success", "0")
    assert '"event":"stopped"' in machine.log()


def test_wrong_settings_are_not_tried_again(machine: Machine) -> None:
    """A wrong setting ends it with 78 and a line that names it, and it is not started again."""
    unit = f"{UNIT}@songs"
    machine.ask("sh", "-c", "echo 'slotz = 3' >> /etc/mns-consumer/songs.toml")
    assert machine.ask("systemctl", "restart", unit)[0] != 0
    time.sleep(7)
    assert (machine.shows("ActiveState", unit), machine.shows("ExecMainStatus", unit)) == ("failed", "78")
    assert machine.shows("NRestarts", unit) == "0"
    assert "no such setting; did you mean slots?" in machine.log(unit)
