"""A daemon as a process of its own on a sandbox's queue."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import anyio
import anyio.to_thread

from consumer.sandbox import Sandbox
from tests.engine.rig import QUEUE
from tests.patience import CROWD

HANDLERS = """
import time
from mns_consumer import Job, handler

@handler("Cover")
async def cover(job: Job) -> None:
    pass

@handler("VideoClip")
def never_returns(job: Job) -> None:
    print("begun", flush=True)
    time.sleep(600)
"""


class Process:
    """A daemon of its own on one queue.

    Args:
        folder: Holds its handlers, its ledger and its log.
        flags: Settings as ``KEY=VALUE``.
        handlers: The source of its handlers' file.
        environ: Variables besides those that every test sets.
    """

    def __init__(self, sandbox: Sandbox, folder: Path, *flags: str, handlers: str = HANDLERS, **environ: str) -> None:
        (folder / "handlers").mkdir(exist_ok=True)
        (folder / "handlers" / "mine.py").write_text(handlers)
        self.log = folder / "daemon.log"
        settings = [
            f"notify_url={sandbox.notify_url(QUEUE)}",
            f"endpoint={sandbox.url}",
            f"handlers_dir={folder / 'handlers'}",
            f"store={folder / 'ledger.db'}",
            "admin_port=0",
            *flags,
        ]
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "consumer", "run", *(part for text in settings for part in ("--set", text))],
                stdout=out,
                stderr=out,
                env={
                    **os.environ,
                    "HOME": str(folder),
                    "ALIBABA_CLOUD_ECS_METADATA_DISABLED": "true",
                    "MNS_CONSUMER_ACCESS_KEY_ID": "sandbox",
                    "MNS_CONSUMER_ACCESS_KEY_SECRET": "sandbox",
                    **environ,
                },
            )

    async def logged(self, text: str, within_s: float = 10) -> None:
        """Wait until the log holds a text."""
        with anyio.fail_after(CROWD * within_s):
            while text not in self.log.read_text():  # noqa: ASYNC110 - another process writes it
                await anyio.sleep(0.02)

    async def ended(self, within_s: float = 10) -> int:
        """Wait for the exit code."""
        return await anyio.to_thread.run_sync(lambda: self.process.wait(CROWD * within_s))

    def kill(self) -> None:
        """End it by SIGKILL, if it has not ended."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    async def stop(self, within_s: float = 10) -> int:
        """End it by SIGTERM."""
        self.process.send_signal(signal.SIGTERM)
        return await self.ended(within_s)
