"""The server's end of the pipe that is ours: start it, ask it, end it.

Elsewhere: what it does (``server``).
"""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from tests.bench.process import BenchError, Cores, end, environment, launch, read_line, write_line

FULL_SHARE: Final = 0.9
"""A server that was busy for more of the time may have been the limit."""


@dataclass(frozen=True, slots=True)
class Look:
    """What the server tells of itself at one moment.

    Args:
        at_s: When, on the monotonic clock.
        cpu_s: Its CPU time so far.
        requests: Requests so far, by operation.
        answers: Answers so far, by operation and HTTP status.
        told: What was asked for besides.
    """

    at_s: float
    cpu_s: float
    requests: dict[str, int]
    answers: dict[str, int]
    told: dict[str, Any]

    def requests_since(self, before: Look) -> int:
        """How many requests came in between."""
        return sum(self.requests.values()) - sum(before.requests.values())

    def answers_since(self, before: Look, answer: str) -> int:
        """How many answers of one kind went out in between, such as ``QueryIProductionJob 200``."""
        return self.answers.get(answer, 0) - before.answers.get(answer, 0)

    def share_since(self, before: Look) -> float:
        """Its part of its core in between, 0 to 1."""
        return (self.cpu_s - before.cpu_s) / max(self.at_s - before.at_s, 1e-9)


class Server:
    """A server in a process of its own.

    Args:
        cores: Where it runs.
        certificate: For https; without one it speaks http.

    Attributes:
        url: Where it listens.
    """

    def __init__(self, cores: Cores, certificate: Path | None = None) -> None:
        self.certificate = certificate
        command = [sys.executable, "-m", "tests.bench.server", *([str(certificate)] if certificate else [])]
        self._process = launch(
            command, cores.server, environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=None
        )
        greeting = json.loads(read_line(self._process.stdout))
        self.url: str = greeting["url"]
        self._queues: str = greeting["queues"]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *ended: object) -> None:
        end(self._process)
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                # A question that a dead server never took is still in the buffer.
                with suppress(BrokenPipeError):
                    stream.close()

    def notify_url(self, queue: str) -> str:
        """The NotifyUrl of one of its queues."""
        return f"{self._queues}{queue}"

    def ask(self, do: str, **more: Any) -> Look:
        """Ask for one thing; which ones there are stands in ``server.Desk``.

        Raises:
            BenchError: It could not be done, or the server has ended.
        """
        write_line(self._process.stdin, json.dumps({"do": do, **more}))
        told = json.loads(read_line(self._process.stdout))
        if "error" in told:
            raise BenchError(f"the server could not {do}: {told['error']}")
        return Look(told.pop("at_s"), told.pop("cpu_s"), told.pop("requests"), told.pop("answers"), told)
