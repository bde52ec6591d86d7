"""The server that every contestant talks to, as a process of its own: the sandbox, filled and asked over a pipe.

One line of JSON in, one line of JSON out, in order. ``{"do": NAME, ...}`` names one of the methods of ``Desk``; the
first line out says where the server listens. It ends when its standard input does, so it never outlives who asks.

    python -m tests.bench.server [CERTIFICATE]      with a certificate it speaks https

Elsewhere: the other end of the pipe (``served``), the messages (``messages``).
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import uvloop

from consumer.sandbox import Fault, Sandbox, SandboxSettings
from consumer.sandbox.jobs import SandboxJob
from consumer.sandbox.protocol import GROUPS
from tests.bench.messages import body, user_data
from tests.certificates import serving

_LOOK_S: Final = 0.005
"""How often it is looked whether the queue is empty: short beside a run, cheap beside its requests."""
_LINE_BYTES: Final = 64 * 1024


class Requests(Counter[str]):
    """The sandbox's count of requests, which also notes when a receive came."""

    receive_at_s: float | None = None

    def __setitem__(self, operation: str, count: int) -> None:
        super().__setitem__(operation, count)
        if self.receive_at_s is None and operation in GROUPS["receive"]:
            self.receive_at_s = time.monotonic()


class Desk:
    """What can be asked. Every answer is a snapshot of the server, with what was asked for beside it.

    Times named ``at_s`` are on the monotonic clock, which all processes of a machine share.

    Args:
        sandbox: The server.
    """

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._requests = Requests()
        sandbox.log.by_operation = self._requests

    async def answer(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Do one thing; what goes wrong is an answer too."""
        try:
            told = await getattr(self, f"do_{asked.pop('do')}")(**asked)
        except Exception as error:  # noqa: BLE001 - it is raised again at the other end of the pipe
            return {"error": repr(error)}
        return {**self._snapshot(), **told}

    def _snapshot(self) -> dict[str, Any]:
        return {
            "at_s": time.monotonic(),
            "cpu_s": time.process_time(),
            "requests": dict(self._requests),
            "answers": {f"{name} {status}": count for (name, status), count in self._sandbox.log.by_status.items()},
        }

    async def do_look(self) -> dict[str, Any]:
        """Nothing but the snapshot."""
        return {}

    async def do_fill(self, queue: str, count: int) -> dict[str, Any]:
        """Put messages into a queue, made if missing, at once: a poll that waits is answered only afterwards."""
        self._sandbox.account.ensure(queue)
        for number in range(count):
            self._sandbox.put(queue, body(number))
        # What waits here is no garbage: looking through it again and again would cost the server time.
        gc.collect()
        gc.freeze()
        return {}

    async def do_put(self, queue: str, text: str) -> dict[str, Any]:
        """Put one message with this very body into a queue."""
        self._sandbox.put(queue, text)
        return {}

    async def do_emptied(self, queue: str, within_s: float) -> dict[str, Any]:
        """Wait until a queue holds nothing; tells what is ``left`` when the time is over."""
        left = self._sandbox.account.ensure(queue).queue
        await self._until(lambda: not left, within_s)
        return {"left": len(left)}

    async def do_held(self, queue: str, polls: int, within_s: float) -> dict[str, Any]:
        """Wait until that many long polls stand at a queue at once; tells how many are ``held``."""
        waiting = self._sandbox.account.ensure(queue).polls
        await self._until(lambda: len(waiting) >= polls, within_s)
        return {"held": len(waiting)}

    async def do_send(self, queue: str, per_s: float, count: int) -> dict[str, Any]:
        """Send messages one by one at a steady pace, each with the time in its UserData."""
        began_at = time.monotonic()
        for number in range(count):
            await asyncio.sleep(max(0.0, began_at + number / per_s - time.monotonic()))
            self._sandbox.put(queue, body(number, time.time_ns()))
        return {}

    async def do_jobs(self, queue: str, count: int) -> dict[str, Any]:
        """Let jobs end at once, whose notifications go to a queue and whose results can be asked for."""
        for number in range(count):
            job = SandboxJob(
                job_id=f"{time.time_ns():020d}{number:012d}",
                function="Cover",
                params="{}",
                input="oss://demo.oss-cn-hangzhou.aliyuncs.com/film.mp4",
                output="oss://demo.oss-cn-hangzhou.aliyuncs.com/{source}-{sequenceId}.jpg",
                user_data=user_data(number),
                notify_queue=queue,
            )
            self._sandbox.jobs.submit(job)
        sent = self._sandbox.account.ensure(queue).queue
        await self._until(lambda: all(job.has_ended for job in self._sandbox.jobs.all()) and len(sent) > 0, 30)
        return {}

    async def do_latency(self, seconds: float) -> dict[str, Any]:
        """Answer every request so much later; 0 answers at once again."""
        self._sandbox.faults.set([Fault(kind="latency", seconds=seconds)] if seconds else [])
        return {}

    async def do_listen(self) -> dict[str, Any]:
        """Note the next receive's time."""
        self._requests.receive_at_s = None
        return {}

    async def do_heard(self, within_s: float) -> dict[str, Any]:
        """Wait for the first receive since ``listen``; tells when it came, ``None`` when none did."""
        await self._until(lambda: self._requests.receive_at_s is not None, within_s)
        return {"receive_at_s": self._requests.receive_at_s}

    async def do_drop(self, queue: str) -> dict[str, Any]:
        """Delete a queue and what it still holds."""
        self._sandbox.account.delete(queue)
        return {}

    async def _until(self, holds: Callable[[], bool], within_s: float) -> None:
        end_at = time.monotonic() + within_s
        while not holds() and time.monotonic() < end_at:  # noqa: ASYNC110 - the queue tells nobody
            await asyncio.sleep(_LOOK_S)


async def _serve(certificate: Path | None) -> None:
    settings = SandboxSettings(
        port=0,
        job_s=0,
        pipeline_concurrency=10_000,
        tls=None if certificate is None else serving(certificate),
    )
    lines = asyncio.StreamReader(limit=_LINE_BYTES)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    async with Sandbox(settings) as sandbox:
        desk = Desk(sandbox)
        _tell({"url": sandbox.url, "queues": sandbox.notify_url("")})
        while line := await lines.readline():
            _tell(await desk.answer(json.loads(line)))


def _tell(answer: dict[str, Any]) -> None:
    sys.stdout.write(f"{json.dumps(answer)}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    uvloop.run(_serve(Path(sys.argv[1]) if len(sys.argv) > 1 else None))
