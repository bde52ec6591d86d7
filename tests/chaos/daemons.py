"""Daemons as real processes that can be killed, stopped and started again at any moment.

Each has a log of its own; all share one handlers' file, one journal and one store. Only processes that were started
here are ever signalled.

Elsewhere: when that happens (``driver``), what the logs are good for (``book``).
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
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Final, Self

import anyio
import anyio.to_thread

from consumer.sandbox import Sandbox
from tests.chaos.drop_in import JOURNAL_VARIABLE, TEXT
from tests.chaos.preload import Clock

QUEUE: Final = "chaos"
LEASE_STEP_S: Final = 10
"""The shortest that the settings allow: for so long a killed daemon's renewed message stays hidden."""
STOP_DEADLINE_S: Final = 3.0
_START_S: Final = 20.0
NOTHING_MORE: Final[Mapping[str, str]] = MappingProxyType({})


def _get(address: str) -> str:
    try:
        with urllib.request.urlopen(address, timeout=10) as answer:  # noqa: S310 - our own daemon's
            return str(answer.read().decode())
    except urllib.error.HTTPError as error:
        # Not ready is an answer too.
        return error.read().decode()


class Daemon:
    """One process.

    Args:
        process: The process.
        log: Its output.
        stop_s: So long its stop may take, and what the interpreter needs to end.
    """

    def __init__(self, process: subprocess.Popen[bytes], log: Path, stop_s: float = STOP_DEADLINE_S) -> None:
        self.process = process
        self.log = log
        self._stop_s = stop_s
        self.born = time.time()
        self.served: list[str] = []
        """What its admin server answered."""

    @property
    def pid(self) -> int:
        """Its process id, as the journal's lines carry it."""
        return self.process.pid

    @property
    def is_serving(self) -> bool:
        """Whether it has said that it polls."""
        return b'"event":"started"' in self.log.read_bytes()

    def lines(self) -> Iterator[Mapping[str, object]]:
        """Its log, line by line; a last line that a kill cut short is left out."""
        for line in self.log.read_text(errors="replace").splitlines():
            try:
                seen = json.loads(line)
            except ValueError:
                continue
            if isinstance(seen, dict):
                yield seen

    async def ended(self, within_s: float) -> int:
        """Wait for its exit code."""
        return await anyio.to_thread.run_sync(lambda: self.process.wait(within_s))

    async def serving(self) -> None:
        """Wait until it polls; fails when it ends instead."""
        with anyio.fail_after(_START_S):
            while not self.is_serving:
                self.check()
                await anyio.sleep(0.02)

    def check(self) -> None:
        """Fail when it has ended though nobody ended it."""
        code = self.process.poll()
        assert code is None, f"daemon {self.pid} ended by itself with {code}:\n{self.log.read_text()[-3000:]}"

    async def look(self) -> None:
        """Ask its admin server for all that it tells; what it says is kept."""
        port = next(line["admin_port"] for line in self.lines() if line["event"] == "started")
        for path in ("metrics", "readyz", "livez", "startupz"):
            self.served.append(await anyio.to_thread.run_sync(_get, f"http://127.0.0.1:{port}/{path}"))

    async def kill(self) -> None:
        """End it by SIGKILL."""
        self.process.kill()
        await self.ended(10)

    async def stop(self) -> None:
        """End it by SIGTERM; it must end in order and in time."""
        self.process.send_signal(signal.SIGTERM)
        # On top of its deadline only what the interpreter needs to end.
        assert await self.ended(self._stop_s + 1.5) == 0, self.log.read_text()[-3000:]


@dataclass(slots=True)
class Nest:
    """Where daemons come from.

    Args:
        sandbox: Whose queue they take messages from.
        folder: Where handlers, journal and logs are.
        store: The store's address.
        settings: Settings of this run's own.
        born: Every daemon that was started.
        clock: The wall clock of every second daemon, beginning with the first; ``None``: the machine's.
        late_s: So much longer than its deadline a stop may take.
    """

    sandbox: Sandbox
    folder: Path
    store: str
    settings: Mapping[str, str] = field(default_factory=dict)
    born: list[Daemon] = field(default_factory=list)
    clock: Clock | None = None
    late_s: float = 0.0

    @property
    def journal(self) -> Path:
        """The file that the handlers write to."""
        return self.folder / "journal"

    def start(self, environment: Mapping[str, str] = NOTHING_MORE) -> Daemon:
        """Start one more daemon.

        Args:
            environment: Variables of its own.
        """
        handlers = self.folder / "handlers"
        handlers.mkdir(exist_ok=True)
        (handlers / "mine.py").write_text(TEXT)
        log = self.folder / f"daemon-{len(self.born)}.log"
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
                    # On the command line other users could read it.
                    "MNS_CONSUMER_STORE": self.store,
                    **(self.clock.environment if self.clock and len(self.born) % 2 == 0 else {}),
                    **environment,
                },
            )
        daemon = Daemon(process, log, STOP_DEADLINE_S + self.late_s)
        self.born.append(daemon)
        return daemon

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *ended: object) -> None:
        """Leave no process behind."""
        for daemon in self.born:
            if daemon.process.poll() is None:
                daemon.process.kill()
                daemon.process.wait()
