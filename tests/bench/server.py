"""The server of every run: the sandbox in a process of its own, controlled over a pipe.

``Server`` is the benchmark's end of the pipe, ``Commands`` the other one. One line of JSON is a request
``{"do": NAME, ...}``, which names a method of ``Commands``; one line is its answer, in order. The first line out has
the addresses. The process ends when its standard input does, so it never outlives the benchmark.

    python -m tests.bench.server [CERTIFICATE]      with a certificate it speaks https
"""

from __future__ import annotations

import asyncio
import gc
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import uvloop

from consumer.sandbox import Fault, Sandbox, SandboxSettings
from consumer.sandbox.jobs import SandboxJob
from consumer.sandbox.protocol import GROUPS
from tests.bench.messages import body, user_data
from tests.bench.process import BenchError, Cores, end, environment, launch
from tests.certificates import serving

FULL_SHARE: Final = 0.9
"""A server that is busy for more of the time may be the limit of a run."""
_LOOK_S: Final = 0.005
"""Interval of the check for an empty queue: short beside a run, cheap beside its requests."""
_LINE_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The server at one moment.

    Args:
        at_s: On the monotonic clock, which all processes of a machine share.
        cpu_s: CPU time of its process.
        requests: Number of requests by operation.
        answers: Number of answers by operation and HTTP status, such as ``QueryIProductionJob 200``.
        answer: What the command returned.
    """

    at_s: float
    cpu_s: float
    requests: dict[str, int]
    answers: dict[str, int]
    answer: dict[str, Any]

    def requests_since(self, before: Snapshot) -> int:
        """Number of requests in between."""
        return sum(self.requests.values()) - sum(before.requests.values())

    def answers_since(self, before: Snapshot, kind: str) -> int:
        """Number of answers of one kind in between."""
        return self.answers.get(kind, 0) - before.answers.get(kind, 0)

    def share_since(self, before: Snapshot) -> float:
        """Share of its core that it used in between, 0 to 1."""
        return (self.cpu_s - before.cpu_s) / max(self.at_s - before.at_s, 1e-9)


class Server:
    """A server in a process of its own.

    Args:
        certificate: For https; without one it speaks http.

    Attributes:
        url: Its endpoint.
    """

    def __init__(self, cores: Cores, certificate: Path | None = None) -> None:
        self.certificate = certificate
        command = [sys.executable, "-m", "tests.bench.server", *([str(certificate)] if certificate else [])]
        self._process = launch(
            command, cores.server, environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=None
        )
        greeting = self._read()
        self.url: str = greeting["url"]
        self._queues: str = greeting["queues"]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *ended: object) -> None:
        end(self._process)
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                # A request that a dead server did not read is still in the buffer.
                with suppress(BrokenPipeError):
                    stream.close()

    def notify_url(self, queue: str) -> str:
        """The NotifyUrl of one of its queues."""
        return f"{self._queues}{queue}"

    def ask(self, do: str, **more: Any) -> Snapshot:
        """Run one command; each is a method of ``Commands``.

        Raises:
            BenchError: The command failed, or the server has ended.
        """
        if self._process.stdin is not None:
            # The answer of a server that has ended is no line.
            with suppress(BrokenPipeError):
                self._process.stdin.write(f"{json.dumps({'do': do, **more})}\n")
                self._process.stdin.flush()
        answer = self._read()
        if "error" in answer:
            raise BenchError(f"the server could not {do}: {answer['error']}")
        at_s, cpu_s, requests, answers = (answer.pop(name) for name in ("at_s", "cpu_s", "requests", "answers"))
        return Snapshot(at_s, cpu_s, requests, answers, answer)

    def _read(self) -> dict[str, Any]:
        line = self._process.stdout.readline() if self._process.stdout is not None else ""
        if not line:
            raise BenchError("the server ended by itself; its last words are above")
        answer: dict[str, Any] = json.loads(line)
        return answer


class Requests(Counter[str]):
    """The sandbox's count of requests, with the time of the next receive."""

    receive_at_s: float | None = None

    def __setitem__(self, operation: str, count: int) -> None:
        super().__setitem__(operation, count)
        if self.receive_at_s is None and operation in GROUPS["receive"]:
            self.receive_at_s = time.monotonic()


class Commands:
    """The commands: each method ``do_NAME`` returns fields of its answer, beside those of a snapshot."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._requests = Requests()
        sandbox.log.by_operation = self._requests

    async def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Run one command; an error is an answer too."""
        try:
            answer = await getattr(self, f"do_{request.pop('do')}")(**request)
        except Exception as error:  # noqa: BLE001 - it is raised again at the other end of the pipe
            return {"error": repr(error)}
        return {**self._snapshot(), **answer}

    def _snapshot(self) -> dict[str, Any]:
        return {
            "at_s": time.monotonic(),
            "cpu_s": time.process_time(),
            "requests": dict(self._requests),
            "answers": {f"{name} {status}": count for (name, status), count in self._sandbox.log.by_status.items()},
        }

    async def do_look(self) -> dict[str, Any]:
        """Only the snapshot."""
        return {}

    async def do_fill(self, queue: str, count: int) -> dict[str, Any]:
        """Put messages into a queue, which is made if missing; a waiting poll is answered when all are there."""
        self._sandbox.account.ensure(queue)
        for number in range(count):
            self._sandbox.put(queue, body(number))
        # The messages stay: without this each collection would look at all of them again.
        gc.collect()
        gc.freeze()
        return {}

    async def do_put(self, queue: str, text: str) -> dict[str, Any]:
        """Put one message with this body into a queue."""
        self._sandbox.put(queue, text)
        return {}

    async def do_emptied(self, queue: str, within_s: float) -> dict[str, Any]:
        """Wait until a queue is empty; ``left`` is the number of its messages at the end of the wait."""
        left = self._sandbox.account.ensure(queue).queue
        await self._until(lambda: not left, within_s)
        return {"left": len(left)}

    async def do_held(self, queue: str, polls: int, within_s: float) -> dict[str, Any]:
        """Wait until a queue has that many long polls at once; ``held`` is their number at the end of the wait."""
        waiting = self._sandbox.account.ensure(queue).polls
        await self._until(lambda: len(waiting) >= polls, within_s)
        return {"held": len(waiting)}

    async def do_send(self, queue: str, per_s: float, count: int) -> dict[str, Any]:
        """Send messages one by one at a steady rate, each with the time in its UserData."""
        began_at = time.monotonic()
        for number in range(count):
            await asyncio.sleep(max(0.0, began_at + number / per_s - time.monotonic()))
            self._sandbox.put(queue, body(number, time.time_ns()))
        return {}

    async def do_jobs(self, queue: str, count: int) -> dict[str, Any]:
        """Submit jobs that end at once; their notifications go to a queue, their results can be queried."""
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
        """Delay every answer by that time; 0 ends it."""
        self._sandbox.faults.set([Fault(kind="latency", seconds=seconds)] if seconds else [])
        return {}

    async def do_listen(self) -> dict[str, Any]:
        """Record the time of the next receive."""
        self._requests.receive_at_s = None
        return {}

    async def do_heard(self, within_s: float) -> dict[str, Any]:
        """Wait for the first receive since ``listen``; ``receive_at_s`` is its time, ``None`` if there was none."""
        await self._until(lambda: self._requests.receive_at_s is not None, within_s)
        return {"receive_at_s": self._requests.receive_at_s}

    async def do_drop(self, queue: str) -> dict[str, Any]:
        """Delete a queue with its messages."""
        self._sandbox.account.delete(queue)
        return {}

    async def _until(self, holds: Callable[[], bool], within_s: float) -> None:
        end_at = time.monotonic() + within_s
        while not holds() and time.monotonic() < end_at:  # noqa: ASYNC110 - the queue has no event
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
        commands = Commands(sandbox)
        _write({"url": sandbox.url, "queues": sandbox.notify_url("")})
        while line := await lines.readline():
            _write(await commands.answer(json.loads(line)))


def _write(answer: dict[str, Any]) -> None:
    sys.stdout.write(f"{json.dumps(answer)}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    uvloop.run(_serve(Path(sys.argv[1]) if len(sys.argv) > 1 else None))
