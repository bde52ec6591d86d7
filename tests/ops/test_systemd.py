"""The notification protocol; the test has the service manager's socket."""

from __future__ import annotations

import os
import re
import select
import socket
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from consumer.ops.systemd import Notifier


class Manager:
    """A service manager's end of the socket."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + name[1:] if name.startswith("@") else name)
        self.socket.settimeout(2)

    def heard(self) -> str:
        """The next message."""
        return self.socket.recv(65_536).decode()


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    name = str(tmp_path / "notify") if request.param == "path" else f"@mns-consumer-{uuid.uuid4()}"
    manager = Manager(name)
    yield manager
    manager.socket.close()


@pytest.fixture
def notifier(manager: Manager) -> Iterator[Notifier]:
    notifier = Notifier({"NOTIFY_SOCKET": manager.name})
    yield notifier
    notifier.close()


def test_the_whole_life(manager: Manager, notifier: Notifier) -> None:
    """Each step of a service's life reaches the manager as sd_notify(3) spells it, on either kind of socket."""
    assert notifier.active
    notifier.status("starting")
    assert manager.heard() == "STATUS=starting"
    notifier.extend_timeout(1.5)
    assert manager.heard() == "EXTEND_TIMEOUT_USEC=1500000"
    notifier.ready("polling")
    assert manager.heard() == "READY=1\nSTATUS=polling"
    notifier.watchdog()
    assert manager.heard() == "WATCHDOG=1"
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    notifier.reloading()
    reload = re.fullmatch(r"RELOADING=1\nMONOTONIC_USEC=(\d+)", manager.heard())
    assert reload is not None
    assert before <= int(reload[1]) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    notifier.ready()
    assert manager.heard() == "READY=1"
    notifier.stopping()
    assert manager.heard() == "STOPPING=1"


def test_a_status_is_one_line(manager: Manager, notifier: Notifier) -> None:
    """A line end in a status can't begin an assignment of its own, and length and surrogates do no harm."""
    notifier.status("broken\nREADY=1\r\n" + "x" * 5_000 + "\ud800")
    heard = manager.heard()
    assert heard.startswith("STATUS=broken READY=1 xxx")
    assert "\n" not in heard
    assert len(heard) <= 520


def test_without_a_manager() -> None:
    """In a terminal nothing is sent and nothing fails."""
    notifier = Notifier({})
    notifier.ready()
    notifier.watchdog()
    notifier.close()
    assert not notifier.active
    assert notifier.watchdog_interval_s is None


def test_children_inherit_nothing(monkeypatch: pytest.MonkeyPatch, manager: Manager) -> None:
    """The variables leave the environment, so that no child process speaks for the daemon."""
    monkeypatch.setenv("NOTIFY_SOCKET", manager.name)
    monkeypatch.setenv("WATCHDOG_USEC", "20000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    notifier = Notifier()
    assert not {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} & os.environ.keys()
    assert notifier.watchdog_interval_s == 10.0
    notifier.close()


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        pytest.param({"WATCHDOG_USEC": "3000000"}, 1.5, id="half of the limit"),
        pytest.param({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}, None, id="meant for another process"),
        pytest.param({"WATCHDOG_USEC": "0"}, None, id="zero"),
        pytest.param({"WATCHDOG_USEC": "soon"}, None, id="no number"),
        pytest.param({"WATCHDOG_USEC": "٣"}, None, id="foreign digits"),
        pytest.param({"WATCHDOG_USEC": "-5"}, None, id="negative"),
    ],
)
def test_watchdog_interval(environ: dict[str, str], expected: float | None) -> None:
    """Each form of the watchdog's variables gives its interval."""
    assert Notifier(environ).watchdog_interval_s == expected


@pytest.mark.parametrize("address", ["vsock:2:1234", "relative/path", "tcp://x"])
def test_an_address_of_another_kind(address: str) -> None:
    """An address that is no local socket is logged once and not used."""
    with capture_logs() as lines:
        notifier = Notifier({"NOTIFY_SOCKET": address})
        notifier.ready()
    assert not notifier.active
    assert [line["address"] for line in lines] == [address]


@pytest.mark.parametrize("name", ["/nonexistent/notify", "/" + "x" * 300, "/nul\0inside"])
def test_no_manager_listens(name: str) -> None:
    """A manager that is gone costs one log line, not one a ping, and never an error."""
    notifier = Notifier({"NOTIFY_SOCKET": name})
    with capture_logs() as lines:
        for _ in range(5):
            notifier.watchdog()
    notifier.close()
    assert [line["log_level"] for line in lines] == ["warning"]


def test_a_manager_that_does_not_read(manager: Manager, notifier: Notifier) -> None:
    """A full socket never blocks the daemon; when it is read again, messages pass and the next fault is logged."""
    began = time.monotonic()
    with capture_logs() as lines:
        for _ in range(5_000):
            notifier.watchdog()
        assert time.monotonic() - began < 5
        assert len(lines) == 1
        while select.select([manager.socket], [], [], 0)[0]:
            assert manager.heard() == "WATCHDOG=1"
        notifier.watchdog()
        assert manager.heard() == "WATCHDOG=1"
        manager.socket.close()
        notifier.watchdog()
    assert len(lines) == 2


def test_silent_after_close(manager: Manager, notifier: Notifier) -> None:
    """After close nothing is sent."""
    notifier.close()
    notifier.ready()
    manager.socket.settimeout(0)
    with pytest.raises(BlockingIOError):
        manager.heard()
