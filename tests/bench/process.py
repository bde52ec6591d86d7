"""Processes that are pinned to a core, measured from outside and ended by their own ids. Linux only.

CPU time is that of the kernel's clock of the process (``clock_getcpuclockid``): all its threads, user and system, to
the nanosecond, and nothing of what it did before a measurement began. Where a contestant is several processes, it is
the sum over all of them.

Elsewhere: which processes there are (``contestants``, ``served``).
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
from typing import IO, Any, Final, Self

ROOT: Final = Path(__file__).resolve().parents[2]
"""The checkout: where every process starts, so that it finds the program and these files."""
_END_S: Final = 30.0
_KIB: Final = 1024
_TOLD_BYTES: Final = 3000
# The kernel's number of the CPU clock of a whole process, from its id.
_CLOCK_BITS: Final = 3
_CLOCK_SCHED: Final = 2
# Puts itself in order and becomes the command: a millisecond.
_LEASH: Final = ("setpriv", "--pdeathsig", "TERM") if shutil.which("setpriv") else ()
_NO_SERVER: Final = "the server ended by itself; what it said stands above"


class BenchError(Exception):
    """A run that can't be measured; the text says why."""


class NotHereError(BenchError):
    """What a run needs is not on this machine, so it is left out."""


@dataclass(frozen=True, slots=True)
class Cores:
    """Which core is whose; ``None`` leaves it to the kernel.

    Args:
        server: The server's, and this program's own.
        contestant: The one that is measured.
    """

    server: int | None
    contestant: int | None

    @classmethod
    def of_this_machine(cls) -> Self:
        """The first core for the server, the last for who is measured; none at all where there is only one."""
        own = sorted(os.sched_getaffinity(0))
        return cls(own[0], own[-1]) if len(own) > 1 else cls(None, None)


@contextmanager
def pinned(core: int | None) -> Iterator[None]:
    """Keep this thread on a core for a while; a process that it starts meanwhile stays there for good."""
    before = os.sched_getaffinity(0)
    if core is not None:
        os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def environment(**more: str) -> dict[str, str]:
    """What every process inherits: nothing of the caller's that would set up a daemon, and where the program is."""
    kept = {name: value for name, value in os.environ.items() if not name.upper().startswith("MNS_CONSUMER_")}
    return {**kept, "PYTHONPATH": str(ROOT), "ALIBABA_CLOUD_ECS_METADATA_DISABLED": "true", **more}


def launch(
    command: Sequence[str], core: int | None, environ: Mapping[str, str], **streams: Any
) -> subprocess.Popen[str]:
    """Start a process on a core; it ends when this program does, however that ends."""
    with pinned(core):
        # In a group of its own, Ctrl-C reaches this program alone, which then ends the others in order.
        return subprocess.Popen([*_LEASH, *command], cwd=ROOT, env=dict(environ), text=True, process_group=0, **streams)


def end(process: subprocess.Popen[str], within_s: float = _END_S) -> int:
    """Ask a process to end, and see that it does; what it started and left behind is ended too."""
    family = [process.pid, *_below(process.pid)]
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(within_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for pid in family[1:]:
        # Those that ended in order are gone; an id is not given to another process so soon.
        with suppress(ProcessLookupError):
            os.kill(pid, 9)
    return process.returncode


class Process:
    """One that is measured.

    Args:
        command: What to run.
        log: Where its output goes.
        core: Where it runs.
        environ: Its environment.
    """

    def __init__(self, command: Sequence[str], *, log: Path, core: int | None, environ: Mapping[str, str]) -> None:
        self.log = log
        self.began_at_s = time.monotonic()
        with log.open("w") as out:
            self._process = launch(command, core, environ, stdout=out, stderr=out, stdin=subprocess.DEVNULL)

    @property
    def cpu_s(self) -> float:
        """CPU seconds so far, of all its processes."""
        return sum(_cpu_s(pid) for pid in [self._process.pid, *_below(self._process.pid)])

    @property
    def rss_mib(self) -> float:
        """Memory that is resident now."""
        for line in Path(f"/proc/{self._process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / _KIB
        raise BenchError(f"process {self._process.pid} tells no VmRSS: it has ended")

    def check(self) -> None:
        """See that it still runs.

        Raises:
            BenchError: It ended though nobody ended it; with the end of its log.
        """
        code = self._process.poll()
        if code is not None:
            raise BenchError(f"{self._process.args!r} ended by itself with {code}:\n{self.told()}")

    def told(self) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-_TOLD_BYTES:]

    def end(self) -> int:
        """End it; returns its exit code."""
        return end(self._process)


def read_line(stream: IO[str] | None) -> str:
    """One line of a process that answers in lines.

    Raises:
        BenchError: It has ended.
    """
    line = stream.readline() if stream is not None else ""
    if not line:
        raise BenchError(_NO_SERVER)
    return line


def write_line(stream: IO[str] | None, line: str) -> None:
    """Ask a process that answers in lines.

    Raises:
        BenchError: It has ended.
    """
    if stream is not None:
        with suppress(BrokenPipeError):
            stream.write(f"{line}\n")
            stream.flush()
            return
    raise BenchError(_NO_SERVER)


def _cpu_s(pid: int) -> float:
    try:
        return time.clock_gettime((~pid << _CLOCK_BITS) | _CLOCK_SCHED)
    except OSError:
        # It ended a moment ago.
        return 0.0


def _below(pid: int) -> list[int]:
    """All processes that this one started, and those that they started."""
    found: list[int] = []
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += [int(child), *_below(int(child))]
    return found
