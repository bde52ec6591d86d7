"""Take the power from a daemon's disk, again and again, and compare all that came of it. As root, on Linux.

    python -m tests.chaos.power --losses 12 --seed 1 --type ext4

The store lies in a file system of its own: an image in a loop device, mounted in a mount namespace of this command's
own, so nothing of it is seen outside and nothing stays. A loss shuts that file system down without its journal
flushed (what ``xfs_io -x -c "shutdown"`` does, on ext4 and XFS alike) and kills the daemon in the same moment: of what
was not synced nothing is left. Then it is mounted again, which replays the journal, and the next daemon starts.
What such a loss can't take is what a disk itself had in its cache: an image has none.

Elsewhere: sending, waiting and judging (``kills``), losses at an exact write without root (``preloaded/kill.c``).
"""

from __future__ import annotations

import argparse
import fcntl
import os
import random
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import anyio
import anyio.to_thread

from consumer.sandbox import Sandbox
from tests.chaos.book import Verdict
from tests.chaos.conftest import sandbox_settings
from tests.chaos.daemons import Nest
from tests.chaos.kills import Siege

_SHUT_DOWN: Final = 0x8004587D
"""``EXT4_IOC_SHUTDOWN`` and ``XFS_IOC_GOINGDOWN``: ``_IOR('X', 125, __u32)``."""
_WITHOUT_FLUSH: Final = 2
"""``EXT4_GOING_FLAGS_NOLOGFLUSH`` and ``XFS_FSOP_GOING_FLAGS_NOLOGFLUSH``."""
_IMAGE_BYTES: Final = 320 * 1024 * 1024
_MOST_LOSSES: Final = 200
_ALIVE_S: Final = (0.05, 2.5)
_INSIDE: Final = "CHAOS_POWER_INSIDE"
_TOOLS: Final = ("mount", "umount", "unshare")


@dataclass(frozen=True, slots=True)
class Disk:
    """A file system whose power can be cut.

    Args:
        image: Its file.
        place: Where it is mounted.
        kind: ``ext4`` or ``xfs``.
    """

    image: Path
    place: Path
    kind: str

    def make(self) -> None:
        """Make an empty file system, not mounted yet."""
        self.place.mkdir()
        self.image.touch()
        os.truncate(self.image, _IMAGE_BYTES)
        subprocess.run([f"mkfs.{self.kind}", "-q", str(self.image)], check=True)

    def mount(self) -> None:
        """Mount it; its journal is replayed."""
        subprocess.run(["mount", "-t", self.kind, "-o", "loop", str(self.image), str(self.place)], check=True)

    def unmount(self) -> None:
        """Unmount it; what was shut down before writes nothing more."""
        subprocess.run(["umount", str(self.place)], check=True)

    def cut(self) -> None:
        """Shut it down at once: nothing reaches the image from now on."""
        handle = os.open(self.place, os.O_RDONLY)
        try:
            fcntl.ioctl(handle, _SHUT_DOWN, struct.pack("I", _WITHOUT_FLUSH))
        finally:
            os.close(handle)

    def check(self) -> None:
        """Fail unless a loss takes what was not synced, and leaves what was."""
        synced, unsynced = self.place / "synced", self.place / "unsynced"
        for path in (synced, unsynced):
            path.write_bytes(b"before")
        for path in (synced, self.place):
            handle = os.open(path, os.O_RDONLY)
            os.fsync(handle)
            os.close(handle)
        unsynced.write_bytes(b"later" * 1000)
        self.cut()
        self.unmount()
        self.mount()
        assert synced.read_bytes() == b"before", "what was synced is gone"
        left = unsynced.read_bytes() if unsynced.exists() else b""
        assert left != b"later" * 1000, "what was not synced is still there: this loss takes nothing"


@contextmanager
def mounted(folder: Path, kind: str) -> Iterator[Disk]:
    """A new file system, mounted within the block."""
    disk = Disk(folder / "image", folder / "disk", kind)
    disk.make()
    disk.mount()
    try:
        disk.check()
        yield disk
    finally:
        disk.unmount()


def lose(losses: int, folder: Path, disk: Disk, seed: int) -> tuple[Siege, Verdict]:
    """Carry it out with an event loop of its own.

    Args:
        losses: How often.
        folder: For logs and journal, which keep their power.
        disk: Where the store lies.
        seed: Of what is sent, and of the moments.
    """

    async def go() -> tuple[Siege, Verdict]:
        dice = random.Random(seed)  # noqa: S311 - chance that can be repeated, no secret
        async with Sandbox(sandbox_settings()) as sandbox:
            with Nest(sandbox, folder, str(disk.place / "store" / "ledger.db")) as nest:
                siege = Siege(nest, seed)

                async def deal() -> None:
                    for _ in range(losses):
                        daemon = nest.start()
                        await daemon.serving()
                        await anyio.sleep(dice.uniform(*_ALIVE_S))
                        daemon.check()
                        disk.cut()
                        await daemon.kill()
                        await anyio.to_thread.run_sync(disk.unmount)
                        await anyio.to_thread.run_sync(disk.mount)
                        siege.met["power losses"] += 1
                        await siege.bury(daemon, killed=True)

                return siege, await siege.run(deal)

    return anyio.run(go)


def main() -> int:
    """Read the command line, run in a mount namespace, and print the figures and what is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.power")
    parser.add_argument("--losses", type=int, default=12, choices=range(1, _MOST_LOSSES + 1), metavar="N")
    parser.add_argument("--seed", type=int, default=20260117)
    parser.add_argument("--type", choices=["ext4", "xfs"], default="ext4")
    chosen = parser.parse_args()
    missing = [tool for tool in (*_TOOLS, f"mkfs.{chosen.type}") if shutil.which(tool) is None]
    if os.geteuid() != 0 or missing:
        parser.error(f"this takes root and {', '.join((*_TOOLS, f'mkfs.{chosen.type}'))}; missing: {missing}")
    if _INSIDE not in os.environ:
        inside = ["unshare", "--mount", "--propagation", "private", sys.executable, "-m", "tests.chaos.power"]
        return subprocess.run([*inside, *sys.argv[1:]], env={**os.environ, _INSIDE: "1"}, check=False).returncode
    folder = Path(tempfile.mkdtemp(prefix="chaos-power-"))
    with mounted(folder, chosen.type) as disk:
        siege, verdict = lose(chosen.losses, folder, disk, chosen.seed)
    print(f"{chosen.type}, in {folder}\n{siege.figures(verdict)}")  # noqa: T201 - the command's answer
    return 1 if verdict.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
