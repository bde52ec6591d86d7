"""The command line in this process and as processes of its own, against a sandbox that is a process too."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from consumer.cli.main import main
from tests.patience import CROWD

QUEUE_URL = "mns://1234567890123456.mns.cn-hangzhou.aliyuncs.com/queues/"

# A shell's background jobs ignore Ctrl-C, and so would the processes that a test starts there.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@dataclass(frozen=True, slots=True)
class Ran:
    """The result of one command line."""

    code: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting and no credentials of this machine reach a test."""
    for name in list(os.environ):
        if name.startswith(("MNS_CONSUMER_", "ALIBABA_CLOUD_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("ALIBABA_CLOUD_ECS_METADATA_DISABLED", "true")
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "state"))
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """Run a command line in this process."""

    def run(*argv: str) -> Ran:
        capsys.readouterr()
        code = main(argv)
        printed = capsys.readouterr()
        return Ran(code, printed.out, printed.err)

    return run


@pytest.fixture
def process() -> Callable[..., Ran]:
    """Run a command line as a process, to its end."""

    def run(*argv: str, timeout_s: float = 18.0) -> Ran:
        done = subprocess.run(
            [sys.executable, "-m", "consumer", *argv],
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=CROWD * timeout_s,
            check=False,
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    return run


class Started:
    """A process that runs until it is stopped."""

    def __init__(self, argv: Sequence[str], folder: Path, env: Mapping[str, str] | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._out = folder / "out"
        with self._out.open("wb") as out:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "consumer", *argv], stdout=out, stderr=subprocess.STDOUT, env=env
            )

    def text(self) -> str:
        """Its output so far."""
        return self._out.read_text(encoding="utf-8")

    def wait_for(self, pattern: str, seconds: float = 10.0) -> re.Match[str]:
        """Wait until its output has a text."""
        until = time.monotonic() + CROWD * seconds
        while time.monotonic() < until:
            found = re.search(pattern, self.text())
            if found is not None:
                return found
            if self._process.poll() is not None:
                break
            time.sleep(0.02)
        raise AssertionError(f"{pattern!r} did not come; came: {self.text()}")

    def end(self, sent: signal.Signals = signal.SIGTERM, seconds: float = 10.0) -> int:
        """Send a signal to this process alone, and give its exit code."""
        if self._process.poll() is None:
            self._process.send_signal(sent)
        try:
            return self._process.wait(CROWD * seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Started]]:
    """Start commands that keep running; each is ended with the test."""
    running: list[Started] = []

    def begin(*argv: str) -> Started:
        started = Started(argv, tmp_path / f"process-{len(running)}")
        running.append(started)
        return started

    yield begin
    for started in running:
        started.end(signal.SIGKILL)


@pytest.fixture(scope="session")
def sandbox_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a sandbox that serves all tests."""
    started = Started(["sandbox", "--port", "0", "--job-seconds", "0.1"], tmp_path_factory.mktemp("sandbox"))
    try:
        yield started.wait_for(r"are at (http://\S+)")[1]
    finally:
        started.end()


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch, sandbox_url: str) -> str:
    """Let the environment name the sandbox for every command; gives its address."""
    monkeypatch.setenv("MNS_CONSUMER_ENDPOINT", sandbox_url)
    monkeypatch.setenv("MNS_CONSUMER_ACCESS_KEY_ID", "sandbox")
    monkeypatch.setenv("MNS_CONSUMER_ACCESS_KEY_SECRET", "sandbox")
    return sandbox_url


@pytest.fixture
def queue_url() -> Callable[[str], str]:
    """Give the NotifyUrl of a queue."""
    return lambda name: f"{QUEUE_URL}{name}"


@pytest.fixture
def fetch() -> Callable[..., str]:
    """Ask an address by HTTP, and give the answer's body."""

    def get(url: str, method: str = "GET", body: bytes | None = None) -> str:
        request = urllib.request.Request(url, data=body, method=method)  # noqa: S310 - a test's own address
        with urllib.request.urlopen(request, timeout=5) as answer:  # noqa: S310 - as above
            text: str = answer.read().decode()
            return text

    return get


@pytest.fixture
def handlers_dir(tmp_path: Path) -> Path:
    """A folder of drop-in handlers, outside of the repository."""
    folder = tmp_path / "handlers"
    folder.mkdir()
    (folder / "cover.py").write_text(
        "from typing import Any\n"
        "from pydantic import BaseModel\n"
        "from mns_consumer import Job, handler\n"
        "import structlog\n\n\n"
        "class Order(BaseModel):\n    order: int\n\n\n"
        '@handler("Cover")\n'
        "async def my_cover(job: Job[Any, Order]) -> None:\n"
        '    structlog.get_logger().info("my own cover", stills=len(job.result), order=job.user_data.order)\n',
        encoding="utf-8",
    )
    return folder


@pytest.fixture
def answering() -> Iterator[Callable[[bytes], str]]:
    """Give the address of a server that answers one connection with these bytes."""
    servers: list[socket.socket] = []

    def serve(answer: bytes) -> str:
        server = socket.create_server(("127.0.0.1", 0))
        servers.append(server)

        def one() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(answer)

        threading.Thread(target=one, daemon=True).start()
        return f"http://127.0.0.1:{server.getsockname()[1]}"

    yield serve
    for server in servers:
        server.close()
