"""Cut the power of a daemon's disk repeatedly, and judge the result. As root, on Linux.

    python -m tests.chaos.power --losses 12 --seed 1 --type ext4

The store is in a file system of its own: an image in a loop device, mounted in a private mount namespace, so that
nothing is visible outside and nothing remains. A loss shuts the file system down without a flush of its journal (as
``xfs_io -x -c "shutdown"`` does, on ext4 and XFS alike) and kills the daemon at the same time: nothing is left of what
was not synced. Mounting it again replays the journal, and the next daemon starts. The cache of a real disk is not
tested: an image has none. ``kills`` has losses at an exact write, which need no root.
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
from tests.chaos.conftest import sandbox_settings
from tests.chaos.daemons import Launcher
from tests.chaos.kills import KillCampaign
from tests.chaos.verdict import Verdict

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
        mount_point: Its folder.
        kind: ``ext4`` or ``xfs``.
    """

    image: Path
    mount_point: Path
    kind: str

    def make(self) -> None:
        """Make an empty file system and its mount point."""
        self.mount_point.mkdir()
        self.image.touch()
        os.truncate(self.image, _IMAGE_BYTES)
        subprocess.run([f"mkfs.{self.kind}", "-q", str(self.image)], check=True)

    def mount(self) -> None:
        """Mount it; its journal is replayed."""
        subprocess.run(["mount", "-t", self.kind, "-o", "loop", str(self.image), str(self.mount_point)], check=True)

    def unmount(self) -> None:
        """Unmount it; after ``cut`` this writes nothing."""
        subprocess.run(["umount", str(self.mount_point)], check=True)

    def cut(self) -> None:
        """Shut it down at once: from now on nothing is written to the image."""
        handle = os.open(self.mount_point, os.O_RDONLY)
        try:
            fcntl.ioctl(handle, _SHUT_DOWN, struct.pack("I", _WITHOUT_FLUSH))
        finally:
            os.close(handle)

    def check(self) -> None:
        """Fail unless a power loss undoes what was not synced, and keeps the rest."""
        synced, unsynced = self.mount_point / "synced", self.mount_point / "unsynced"
        for path in (synced, unsynced):
            path.write_bytes(b"before")
        for path in (synced, self.mount_point):
            handle = os.open(path, os.O_RDONLY)
            os.fsync(handle)
            os.close(handle)
        unsynced.write_bytes(b"later" * 1000)
        self.cut()
        self.unmount()
        self.mount()
        assert synced.read_bytes() == b"before", "what was synced is gone"
        left = unsynced.read_bytes() if unsynced.exists() else b""
        assert left != b"later" * 1000, "what was not synced is still there: this power loss undoes nothing"


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


def cut_power(losses: int, folder: Path, disk: Disk, seed: int) -> tuple[KillCampaign, Verdict]:
    """Cut the power under one daemon after the other, in an event loop of its own.

    Args:
        losses: Number of power losses.
        folder: For logs and journal, on a disk that stays.
        disk: For the store.
        seed: Of the choice of messages, and of the moments.
    """

    async def go() -> tuple[KillCampaign, Verdict]:
        rng = random.Random(seed)  # noqa: S311 - a repeatable choice, no secret
        async with Sandbox(sandbox_settings()) as sandbox:
            with Launcher(sandbox, folder, str(disk.mount_point / "store" / "ledger.db")) as launcher:
                campaign = KillCampaign(launcher, seed)

                async def kill_daemons() -> None:
                    for _ in range(losses):
                        daemon = launcher.start()
                        await daemon.serving()
                        await anyio.sleep(rng.uniform(*_ALIVE_S))
                        daemon.check()
                        disk.cut()
                        await daemon.kill()
                        await anyio.to_thread.run_sync(disk.unmount)
                        await anyio.to_thread.run_sync(disk.mount)
                        campaign.reached["power losses"] += 1
                        await campaign.record_death(daemon, killed=True)

                return campaign, await campaign.run(kill_daemons)

    return anyio.run(go)


def main() -> int:
    """Read the command line, run in a mount namespace, and print the figures and the violations."""
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
        campaign, verdict = cut_power(chosen.losses, folder, disk, chosen.seed)
    print(f"{chosen.type}, in {folder}\n{campaign.figures(verdict)}")  # noqa: T201 - the command's answer
    return 1 if verdict.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
