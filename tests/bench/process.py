"""Processes that are pinned to a core and measured from outside. Linux only.

CPU time is read from the kernel's clock of the process (``clock_getcpuclockid``): user and system time of all its
threads, to the nanosecond. Where a contestant is several processes, it is their sum.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

ROOT: Final = Path(__file__).resolve().parents[2]
"""The checkout, the working directory of every process."""
_END_S: Final = 30.0
_KIB: Final = 1024
_LOG_END: Final = 3000
# These make the id of a process's CPU clock from its process id.
_CLOCK_BITS: Final = 3
_CLOCK_SCHED: Final = 2
# Ends a process when its parent ends. It costs a millisecond, then it becomes the command.
_WITH_PARENT: Final = ("setpriv", "--pdeathsig", "TERM") if shutil.which("setpriv") else ()


class BenchError(Exception):
    """A run that can't be measured, and why."""


class NotHereError(BenchError):
    """What a run needs is not on this machine."""


@dataclass(frozen=True, slots=True)
class Cores:
    """The cores to use; ``None`` leaves it to the kernel.

    Args:
        server: For the server and the benchmark itself.
        contestant: For what is measured.
    """

    server: int | None
    contestant: int | None

    @classmethod
    def of_this_machine(cls) -> Self:
        """The first core for the server, the last for the contestant; no pinning where there is only one."""
        own = sorted(os.sched_getaffinity(0))
        return cls(own[0], own[-1]) if len(own) > 1 else cls(None, None)


@contextmanager
def pinned(core: int | None) -> Iterator[None]:
    """Keep this thread on a core for a while. Processes that it starts meanwhile stay on that core."""
    before = os.sched_getaffinity(0)
    if core is not None:
        os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def environment(**more: str) -> dict[str, str]:
    """The environment of every process: the caller's without the daemon's settings, and the path to the program."""
    kept = {name: value for name, value in os.environ.items() if not name.upper().startswith("MNS_CONSUMER_")}
    return {**kept, "PYTHONPATH": str(ROOT), "ALIBABA_CLOUD_ECS_METADATA_DISABLED": "true", **more}


def launch(
    command: Sequence[str], core: int | None, environ: Mapping[str, str], **streams: Any
) -> subprocess.Popen[str]:
    """Start a process on a core; it ends when the benchmark ends, even by SIGKILL."""
    with pinned(core):
        # In a group of its own: Ctrl-C reaches the benchmark alone, which then ends the others in order.
        return subprocess.Popen(
            [*_WITH_PARENT, *command], cwd=ROOT, env=dict(environ), text=True, process_group=0, **streams
        )


def end(process: subprocess.Popen[str], within_s: float = _END_S) -> int:
    """End a process: by SIGTERM, after a time by SIGKILL. Processes that it started are ended too."""
    started = _descendants(process.pid)
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(within_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for pid in started:
        # Most have ended in order. The kernel does not give an id to another process that soon.
        with suppress(ProcessLookupError):
            os.kill(pid, 9)
    return process.returncode


class Process:
    """A process that is measured; its output goes to ``log``."""

    def __init__(self, command: Sequence[str], *, log: Path, core: int | None, environ: Mapping[str, str]) -> None:
        self.log = log
        self.began_at_s = time.monotonic()
        with log.open("w") as out:
            self._process = launch(command, core, environ, stdout=out, stderr=out, stdin=subprocess.DEVNULL)

    @property
    def cpu_s(self) -> float:
        """CPU seconds so far, with all processes that it started."""
        return sum(_cpu_s(pid) for pid in [self._process.pid, *_descendants(self._process.pid)])

    @property
    def rss_mib(self) -> float:
        """Resident memory."""
        for line in Path(f"/proc/{self._process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / _KIB
        raise BenchError(f"process {self._process.pid} has no VmRSS: it has ended")

    def check(self) -> None:
        """Raise unless it still runs.

        Raises:
            BenchError: It ended by itself; with the end of its log.
        """
        code = self._process.poll()
        if code is not None:
            raise BenchError(f"{self._process.args!r} ended by itself with {code}:\n{self.log_end}")

    @property
    def log_end(self) -> str:
        """The last characters of its log."""
        return self.log.read_text(errors="replace")[-_LOG_END:]

    def end(self) -> int:
        """End it; returns its exit code."""
        return end(self._process)


def _cpu_s(pid: int) -> float:
    try:
        return time.clock_gettime((~pid << _CLOCK_BITS) | _CLOCK_SCHED)
    except OSError:
        # It has just ended.
        return 0.0


def _descendants(pid: int) -> list[int]:
    """The processes that a process started, and those that they started."""
    found: list[int] = []
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += [int(child), *_descendants(int(child))]
    return found
