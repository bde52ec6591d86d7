"""Daemons as real processes that can be killed, stopped and started at any moment.

Each has a log of its own; all share the handlers, the journal and the store.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Final, Self

import anyio
import anyio.to_thread

from consumer.ops.metrics import SettledAs
from consumer.sandbox import Sandbox
from tests.chaos.handlers import JOURNAL_VARIABLE, TEXT
from tests.chaos.preload import Clock

QUEUE: Final = "chaos"
LEASE_STEP_S: Final = 10
"""The least that the settings allow. A killed daemon's renewed message stays hidden for that time."""
STOP_DEADLINE_S: Final = 3.0
_START_S: Final = 60.0
"""Nine daemons start at once in the tests, beside other tests."""
NOTHING_MORE: Final[Mapping[str, str]] = MappingProxyType({})


def _get(address: str) -> str:
    try:
        with urllib.request.urlopen(address, timeout=10) as answer:  # noqa: S310 - our own daemon's
            return str(answer.read().decode())
    except urllib.error.HTTPError as error:
        # 503 for "not ready" is an answer too.
        return error.read().decode()


class Daemon:
    """One process.

    Args:
        process: The process.
        log: Its output.
        stop_s: The most that its stop may take, without the end of the interpreter.
    """

    def __init__(self, process: subprocess.Popen[bytes], log: Path, stop_s: float = STOP_DEADLINE_S) -> None:
        self.process = process
        self.log = log
        self._stop_s = stop_s
        self.started_at = time.time()
        self.served: list[str] = []
        """Answers of its admin server."""

    @property
    def pid(self) -> int:
        """Its process id, which is in the journal's lines."""
        return self.process.pid

    @property
    def is_serving(self) -> bool:
        """Whether it has logged that it started."""
        return b'"event":"started"' in self.log.read_bytes()

    def lines(self) -> Iterator[Mapping[str, object]]:
        """The lines of its log, without one that a kill cut short."""
        for line in self.log.read_text(errors="replace").splitlines():
            try:
                logged = json.loads(line)
            except ValueError:
                continue
            if isinstance(logged, dict):
                yield logged

    async def ended(self, within_s: float) -> int:
        """Wait for its exit code."""
        return await anyio.to_thread.run_sync(lambda: self.process.wait(within_s))

    async def serving(self) -> None:
        """Wait until it polls; fail if it ends instead."""
        with anyio.fail_after(_START_S):
            while not self.is_serving:
                self.check()
                await anyio.sleep(0.02)

    def check(self) -> None:
        """Fail if it ended by itself."""
        code = self.process.poll()
        assert code is None, f"daemon {self.pid} ended by itself with {code}:\n{self.log.read_text()[-3000:]}"

    async def look(self) -> None:
        """Query every page of its admin server and keep the answers."""
        port = next(line["admin_port"] for line in self.lines() if line["event"] == "started")
        for path in ("metrics", "readyz", "livez", "startupz"):
            self.served.append(await anyio.to_thread.run_sync(_get, f"http://127.0.0.1:{port}/{path}"))

    async def kill(self) -> None:
        """End it by SIGKILL."""
        self.process.kill()
        await self.ended(10)

    async def stop(self) -> None:
        """End it by SIGTERM; fail unless it ends with 0 and in time."""
        self.process.send_signal(signal.SIGTERM)
        # The interpreter needs some time to end.
        assert await self.ended(self._stop_s + 1.5) == 0, self.log.read_text()[-3000:]


@dataclass(slots=True)
class Launcher:
    """Starts daemons; at the end of its ``with`` block those that still run are killed.

    Args:
        sandbox: Has their queue.
        folder: For handlers, journal and logs.
        store: The store's address.
        settings: Settings besides those of every run.
        started: All daemons that were started.
        clock: The wall clock of every second daemon, beginning with the first; default: the machine's.
        extra_stop_s: Time that a stop may take beyond its deadline.
    """

    sandbox: Sandbox
    folder: Path
    store: str
    settings: Mapping[str, str] = field(default_factory=dict)
    started: list[Daemon] = field(default_factory=list)
    clock: Clock | None = None
    extra_stop_s: float = 0.0

    @property
    def journal(self) -> Path:
        """The journal of the handlers."""
        return self.folder / "journal"

    def start(self, environment: Mapping[str, str] = NOTHING_MORE) -> Daemon:
        """Start one more daemon, with further environment variables."""
        handlers = self.folder / "handlers"
        handlers.mkdir(exist_ok=True)
        (handlers / "mine.py").write_text(TEXT)
        log = self.folder / f"daemon-{len(self.started)}.log"
        settings = {
            "notify_url": self.sandbox.notify_url(QUEUE),
            "endpoint": self.sandbox.url,
            "handlers_dir": str(handlers),
            "admin_port": "0",
            "wait_s": "2",
            "slots": "32",
            "lease_step_s": str(LEASE_STEP_S),
            "stop_deadline_s": str(STOP_DEADLINE_S),
            "max_failures": "3",
            "retry_base_s": "1",
            "retry_cap_s": "2",
            "result_wait_s": "2",
            **self.settings,
        }
        with log.open("wb") as out:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "consumer", "run"),
                    *(part for name, value in settings.items() for part in ("--set", f"{name}={value}")),
                ],
                stdout=out,
                stderr=out,
                env={
                    **os.environ,
                    JOURNAL_VARIABLE: str(self.journal),
                    "HOME": str(self.folder),
                    "ALIBABA_CLOUD_ECS_METADATA_DISABLED": "true",
                    "MNS_CONSUMER_ACCESS_KEY_ID": self.sandbox.settings.access_key_id,
                    "MNS_CONSUMER_ACCESS_KEY_SECRET": self.sandbox.settings.access_key_secret,
                    "MNS_CONSUMER_SECURITY_TOKEN": self.sandbox.settings.security_token or "",
                    # Other users can read a command line.
                    "MNS_CONSUMER_STORE": self.store,
                    **(self.clock.environment if self.clock and len(self.started) % 2 == 0 else {}),
                    **environment,
                },
            )
        daemon = Daemon(process, log, STOP_DEADLINE_S + self.extra_stop_s)
        self.started.append(daemon)
        return daemon

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *ended: object) -> None:
        """Kill the daemons that still run."""
        for daemon in self.started:
            if daemon.process.poll() is None:
                daemon.process.kill()
                daemon.process.wait()


def leases_lost(daemons: Sequence[Daemon]) -> Counter[tuple[int, str]]:
    """How often each daemon logged that it lost a job's lease, by process id and job."""
    return Counter(
        (daemon.pid, str(line["job_id"]))
        for daemon in daemons
        for line in daemon.lines()
        if line.get("outcome") == SettledAs.LEASE_LOST
    )
