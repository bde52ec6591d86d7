"""Writing lines: readers that leave, stop or are slow cost lines, never the daemon, and no line is torn."""

from __future__ import annotations

import io
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from consumer.ops import log_stream, logs
from consumer.ops.log_stream import PATIENCE_MS, FileStream, TextStream, open_stream

LINE = b"x" * 999 + b"\n"


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    yield reading, writing
    for fd in (reading, writing):
        try:
            os.close(fd)
        except OSError:
            continue


def drain(fd: int) -> bytes:
    """The bytes in the pipe."""
    os.set_blocking(fd, False)
    parts = []
    while True:
        try:
            part = os.read(fd, 65_536)
        except BlockingIOError:
            break
        if not part:
            break
        parts.append(part)
    return b"".join(parts)


def fill(stream: FileStream, line: bytes = LINE) -> int:
    """Write until a line is dropped; returns how many were taken."""
    taken = 0
    while stream.write(line):
        taken += 1
    return taken


def test_a_full_pipe(pipe: tuple[int, int]) -> None:
    """A reader that stops blocks the writer once, briefly; then lines are dropped until it reads again."""
    stream = FileStream(pipe[1])
    taken = fill(stream)
    assert taken > 10
    began = time.monotonic()
    assert not any(stream.write(LINE) for _ in range(1_000))
    # One wait for each line would take a hundred seconds.
    assert time.monotonic() - began < 100 * PATIENCE_MS / 1000
    assert drain(pipe[0]) == LINE * taken
    assert stream.write(LINE)
    assert drain(pipe[0]) == LINE


@pytest.mark.parametrize("size", [5_000, 70_000, 1_000_000])
def test_no_torn_line(pipe: tuple[int, int], size: int) -> None:
    """A line larger than what fits is ended before the next one begins, however slowly it is read."""
    stream = FileStream(pipe[1])
    line = b"y" * (size - 1) + b"\n"
    sent = [line for _ in range(20) if stream.write(line)]
    assert sent
    got = b""
    for _ in range(2_000):
        got += drain(pipe[0])
        if got.endswith(b"\n") and stream.write(b"end\n"):
            got += drain(pipe[0])
            break
        if stream._tail:
            stream.write(b"")
    assert got == b"".join(sent) + b"end\n"


def test_a_slow_reader_loses_nothing(pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that pauses for less than the patience misses no line."""
    # On a busy machine a short pause may be a long one.
    monkeypatch.setattr(log_stream, "PATIENCE_MS", 5_000)
    child = os.fork()
    if child == 0:
        os.close(pipe[1])
        seen = 0
        while part := os.read(pipe[0], 8_192):
            seen += len(part)
            time.sleep(0.002)
        os._exit(0 if seen == 300 * len(LINE) else 1)
    stream = FileStream(pipe[1])
    assert all(stream.write(LINE) for _ in range(300))
    os.close(pipe[1])
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_reader_that_is_gone(pipe: tuple[int, int]) -> None:
    """Without a reader each line is dropped, and nothing is raised."""
    stream = FileStream(pipe[1])
    assert stream.write(LINE)
    os.close(pipe[0])
    assert not any(stream.write(LINE) for _ in range(10))


def test_a_reader_that_goes_in_the_middle_of_a_line(pipe: tuple[int, int]) -> None:
    """The rest of a line whose reader went is forgotten."""
    stream = FileStream(pipe[1])
    assert stream.write(b"z" * 200_000)
    assert stream._tail
    os.close(pipe[0])
    assert not stream.write(LINE)
    assert not stream._tail


def test_a_closed_file(tmp_path: Path) -> None:
    """A file number that other code closes drops lines."""
    with (tmp_path / "log").open("wb") as file:
        stream = FileStream(file.fileno())
        assert stream.write(LINE)
    assert not stream.write(LINE)


def test_a_full_disk(tmp_path: Path) -> None:
    """A file that can't grow drops lines; once it can again, the cut line is ended first."""
    path = tmp_path / "log"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with path.open("wb") as file:
            stream = FileStream(file.fileno())
            resource.setrlimit(resource.RLIMIT_FSIZE, (2_500, before[1]))
            taken = [stream.write(LINE) for _ in range(6)]
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            assert stream.write(b"end\n")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert taken == [True, True, True, False, False, False]
    assert path.read_bytes() == LINE * 3 + b"end\n"


def test_a_socket_as_under_systemd() -> None:
    """The journal's stream socket, when it isn't read, drops lines and then takes them again."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        stream = FileStream(ours.fileno())
        taken = fill(stream)
        got = b""
        while len(got) < taken * len(LINE):
            got += theirs.recv(65_536)
        assert got == LINE * taken
        assert stream.write(LINE)


def test_a_pipe_that_does_not_block(pipe: tuple[int, int]) -> None:
    """A pipe that another process has made non-blocking works the same."""
    os.set_blocking(pipe[1], False)
    stream = FileStream(pipe[1])
    taken = fill(stream)
    got = drain(pipe[0])
    while stream._tail:
        stream.write(b"")
        got += drain(pipe[0])
    assert got == LINE * taken


def test_not_ready_after_all(pipe: tuple[int, int]) -> None:
    """A pipe that fills up between the question and the write drops the line."""
    os.set_blocking(pipe[1], False)
    fill(FileStream(pipe[1]), b"x" * 4_096)
    stream = FileStream(pipe[1])
    other = os.pipe()
    assert stream._poll is not None
    stream._poll.unregister(pipe[1])
    stream._poll.register(other[1])
    assert not stream.write(LINE)
    for fd in other:
        os.close(fd)


def test_the_log_has_a_file_number_of_its_own(pipe: tuple[int, int], tmp_path: Path) -> None:
    """When stderr is closed and its number goes to another file, lines still go where stderr led."""
    before = os.dup(pipe[1])
    with os.fdopen(pipe[1], "w", encoding="ascii", closefd=False) as stderr:
        stream = open_stream(stderr)
        os.close(pipe[1])
        other = os.open(tmp_path / "other", os.O_RDWR | os.O_CREAT)
        assert other == pipe[1]
        assert stream.write(LINE)
        assert os.fstat(other).st_size == 0
    assert drain(pipe[0]) == LINE
    os.close(before)
    del stream
    assert os.read(pipe[0], 1) == b""


def test_stderr_that_a_handler_closes_is_no_end_of_the_log() -> None:
    """The log goes on to where stderr led, also when it is set up again by a reload."""
    script = """
import sys, structlog
from consumer.ops.logs import configure
configure(json=True)
sys.stderr.close()
structlog.get_logger().info("first")
configure(json=True)
structlog.get_logger().info("second")
"""
    err = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stderr
    assert [json.loads(line)["event"] for line in err.splitlines()] == ["first", "second"]


def test_streams_in_memory() -> None:
    """A stream without a file takes lines as text; once closed, it drops them."""
    memory = io.StringIO()
    stream = open_stream(memory)
    assert isinstance(stream, TextStream)
    assert stream.write("日本\n".encode())
    assert memory.getvalue() == "日本\n"
    memory.close()
    assert not stream.write(LINE)


def test_lost_lines_are_reported(pipe: tuple[int, int]) -> None:
    """Once its reader is back, one line says how many are missing; a metric can count them meanwhile."""
    counted: list[int] = []
    with os.fdopen(pipe[1], "w", closefd=False) as stream:
        logs.configure(stream=stream, on_drop=counted.append)
        log = structlog.get_logger()
        while not counted:
            log.info("line", pad="x" * 500)
        log.info("lost too")
        drain(pipe[0])
        log.info("back")
        lines = [json.loads(line) for line in drain(pipe[0]).splitlines()]
    assert [line["event"] for line in lines][-2] == "back"
    assert lines[-1]["lines"] == sum(counted) == 2
    assert lines[-1]["level"] == "warning"
