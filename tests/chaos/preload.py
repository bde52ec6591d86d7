"""C libraries that are preloaded into a daemon: a wall clock that steps, and a kill at the N-th write or sync.

``gcc`` compiles them when a run needs them. Linux only.
"""

from __future__ import annotations

import itertools
import struct
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from mmap import mmap
from pathlib import Path
from typing import Final

TRUE_CLOCK_VARIABLE: Final = "CHAOS_TRUE_CLOCK"
"""The environment variable with the clock id that gives the true time in a process whose clock is stepped."""
_TRUE_CLOCK: Final = 4242
_SOURCES: Final = Path(__file__).with_name("preloaded")


def compiled(name: str, folder: Path) -> Path:
    """Compile ``preloaded/NAME.c``; the library goes to the folder."""
    library = folder / f"{name}.so"
    command = ["gcc", "-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-o", str(library), str(_SOURCES / f"{name}.c")]
    subprocess.run([*command, "-ldl", "-lpthread"], check=True)
    return library


@dataclass(slots=True)
class Clock:
    """The wall clock of the daemons that are started with its environment.

    Args:
        folder: For its file and its library.
        steps: True time and offset of each step, in seconds.
    """

    folder: Path
    steps: list[tuple[float, float]] = field(default_factory=list)
    _library: Path = field(init=False)
    _file: Path = field(init=False)

    def __post_init__(self) -> None:
        self._library = compiled("clock", self.folder)
        self._file = self.folder / "clock"
        self._file.write_bytes(bytes(8))

    @property
    def environment(self) -> Mapping[str, str]:
        """The environment of a process that uses this clock."""
        return {
            "LD_PRELOAD": str(self._library),
            "CHAOS_CLOCK": str(self._file),
            TRUE_CLOCK_VARIABLE: str(_TRUE_CLOCK),
        }

    def step(self, offset_s: float) -> None:
        """Set the clock ahead of the true one by an offset; 0 corrects it."""
        with self._file.open("r+b") as file, mmap(file.fileno(), 8) as page:
            page[:8] = struct.pack("=q", int(offset_s * 1e9))
        self.steps.append((time.time(), offset_s))

    def true(self, at: float) -> float:
        """The true time of a record that has the time ``at`` of this clock.

        Offsets differ by more than a run takes, so at most one of them fits the time in which it was in force.
        """
        steps = [(0.0, 0.0), *self.steps, (time.time() + 1.0, 0.0)]
        # The newest first: the time before all steps has no begin, and a record of an hour ago fits it as well.
        for (since, offset_s), (until, _) in reversed(list(itertools.pairwise(steps))):
            # With a tolerance: the step and the record of it are not simultaneous.
            if since - 0.5 <= at - offset_s <= until + 0.5:
                return at - offset_s
        return at


@dataclass(frozen=True, slots=True)
class KillPoint:
    """Where a process kills itself.

    Args:
        call: The calls that are counted: ``sync``, ``wal`` or ``database``.
        number: The number of the call, from 1.
        how: ``before``, ``after`` or ``torn``; ``lost`` and ``mixed`` undo all or some of what was not synced.
        seed: Of the choice of ``mixed``.
    """

    call: str
    number: int
    how: str
    seed: int = 0

    def __str__(self) -> str:
        return f"{self.how} {self.call} {self.number}"

    def environment(self, library: Path, database: Path) -> Mapping[str, str]:
        """The environment of a process that kills itself there."""
        return {
            "LD_PRELOAD": str(library),
            "CHAOS_KILL_PATH": str(database.resolve()),
            "CHAOS_KILL_CALL": self.call,
            "CHAOS_KILL_AT": str(self.number),
            "CHAOS_KILL_HOW": self.how,
            "CHAOS_KILL_SEED": str(self.seed),
        }
