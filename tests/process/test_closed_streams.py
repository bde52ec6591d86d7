"""A daemon that is started with its standard streams closed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from consumer.cli.main import SystemLog

RUN = [sys.executable, "-m", "consumer", "run", "--shipped", "--set", "endpoint=http://127.0.0.1:9"]
QUEUE = "notify_url=mns://1.mns.cn-hangzhou.aliyuncs.com/queues/n"
ENVIRON = {
    "ALIBABA_CLOUD_ECS_METADATA_DISABLED": "true",
    "MNS_CONSUMER_ACCESS_KEY_ID": "sandbox",
    "MNS_CONSUMER_ACCESS_KEY_SECRET": "sandbox",
}


def run(folder: Path, closed: str, *flags: str) -> tuple[int, str]:
    """The exit code and stdout of a daemon that is started with closed streams."""
    command = [
        "sh",
        "-c",
        f'exec "$@" {closed}',
        "sh",
        *RUN,
        "--set",
        QUEUE,
        "--set",
        f"store={folder / 's.db'}",
        *flags,
    ]
    environ = {**os.environ, **ENVIRON, "HOME": str(folder)}
    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environ, timeout=20, check=False)
    return ended.returncode, ended.stdout


@pytest.mark.parametrize("closed", ["2>&-", "<&- 2>&-"])
def test_without_stderr_the_daemon_ends_with_a_word_on_stdout(tmp_path: Path, closed: str) -> None:
    """A daemon whose log has no stream does not start, prints why on stdout, and touches nothing."""
    assert run(tmp_path, closed) == (
        78,
        "error: stderr is closed, and the log goes there; start with stderr open, as by 2>>FILE\n",
    )
    assert not list(tmp_path.iterdir())


def test_a_wrong_command_line_is_reported_on_stdout(tmp_path: Path) -> None:
    """An error that would go to stderr is printed on stdout."""
    code, output = run(tmp_path, "2>&-", "--nonsense")
    assert code == 2
    assert "No such option: --nonsense" in output


def test_without_any_stream_the_system_log_has_the_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With stdout closed too the exit code is the same, and the line goes to the system's log."""
    assert run(tmp_path, "<&- >&- 2>&-") == (78, "")
    sent: list[str] = []
    monkeypatch.setattr("syslog.syslog", lambda _level, text: sent.append(text))
    print("error: one\n\nmore", file=SystemLog())
    assert sent == ["mns-consumer: error: one", "mns-consumer: more"]


def test_a_closed_stream_is_no_place_for_the_store(tmp_path: Path) -> None:
    """Free descriptors below 3 are opened on /dev/null, so that nothing written to stderr reaches one of our files."""
    script = """
import os, sys
from consumer.cli.main import replace_closed_streams
replace_closed_streams()
os.write(2, b"lost")
null = os.stat(os.devnull)
print([os.path.samestat(os.fstat(number), null) for number in (0, 2)], os.open(sys.argv[1], os.O_CREAT) > 2)
"""
    command = ["sh", "-c", 'exec "$@" <&- 2>&-', "sh", sys.executable, "-c", script, str(tmp_path / "file")]
    output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    assert output == "[True, True] True\n"
