"""General task queues on Redis with a task that does nothing, for context: what moving a message costs elsewhere.

Each is run as its own documentation starts a worker, but as one process of work, and its CPU time is that of the whole
process tree. Database 9 of a Redis at 127.0.0.1:6379 is used, or what ``TEST_REDIS_URL`` names; each run's keys carry
a name of its own and only these are deleted. Where the package or the server is missing it is left out, with a line.

Elsewhere: the tasks (``others_task``).
"""

from __future__ import annotations

import importlib
import importlib.util
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from tests.bench.contestants import Stage
from tests.bench.figures import Book, in_turn
from tests.bench.others_task import NAME, REDIS
from tests.bench.process import BenchError, NotHereError, Process, environment, launch

PART: Final = "task queues"
WORKERS: Final[Mapping[str, Sequence[str]]] = {
    "taskiq": ("taskiq", "worker", "tests.bench.others_taskiq:broker", "--workers", "1"),
    "dramatiq": ("dramatiq", "tests.bench.others_dramatiq", "--processes", "1"),
    "celery": ("celery", "-A", "tests.bench.others_celery", "worker", "--concurrency", "1"),
    "saq": ("saq", "tests.bench.others_saq.settings"),
}
_WARM_SHARE: Final = 0.2
_MOST_S: Final = 120.0
_LOOK_S: Final = 0.002
_SCAN: Final = 1000


def measure(stage: Stage, name: str, tasks: int, book: Book) -> None:
    """One run of one of them.

    Raises:
        NotHereError: The package or Redis is missing.
        BenchError: It did not get through.
    """
    if importlib.util.find_spec(WORKERS[name][0]) is None:
        raise NotHereError(f"{name} is not installed (group bench of pyproject.toml)")
    first, last = round(tasks * _WARM_SHARE), tasks - 1
    with stage.place() as place, _own_keys() as own:
        environ = environment(
            HOME=str(place.folder), BENCH_NAME=own, BENCH_MARKS=str(place.folder), BENCH_MARKED=f"{first},{last}"
        )
        _send(stage, name, tasks, environ)
        log = place.folder / "log"
        process = Process([sys.executable, "-m", *WORKERS[name]], log=log, core=place.core, environ=environ)
        try:
            _wait(process, place.folder / str(first))
            began_at_s, cpu_before_s = time.monotonic(), process.cpu_s
            _wait(process, place.folder / str(last))
            seconds, cpu_s = time.monotonic() - began_at_s, process.cpu_s - cpu_before_s
        finally:
            process.end()
    counted = last - first
    book.add(PART, name, messages_per_s=counted / seconds, cpu_us_per_message=1e6 * cpu_s / counted)


def measure_in_turn(stage: Stage, tasks: int, rounds: int, book: Book) -> None:
    """A B A B ...; one that is not here is left out.

    Raises:
        NotHereError: Redis is missing, so all of them are left out.
    """
    _redis().close()
    for name in in_turn(rounds, *WORKERS):
        try:
            measure(stage, name, tasks, book)
        except BenchError as error:
            # Shown for context only: one of them that does not run here must not cost the others their place.
            book.note(f"{PART}: {name} left out: {error}")


def _send(stage: Stage, name: str, tasks: int, environ: Mapping[str, str]) -> None:
    command = [sys.executable, "-m", f"tests.bench.others_{name}", str(tasks)]
    sender = launch(command, stage.cores.server, environ, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        _, told = sender.communicate(timeout=_MOST_S)
    finally:
        if sender.poll() is None:
            sender.kill()
            sender.wait()
    if sender.returncode:
        raise BenchError(f"{name} could not send: {told[-1000:]}")


def _wait(process: Process, mark: Path) -> None:
    end_at_s = time.monotonic() + _MOST_S
    while not mark.exists():
        if time.monotonic() > end_at_s:
            raise BenchError(f"no mark {mark.name} within {_MOST_S:g} s:\n{process.told()}")
        process.check()
        time.sleep(_LOOK_S)


@contextmanager
def _own_keys() -> Iterator[str]:
    """A name that nobody else uses in Redis; all that carries it is deleted at the end."""
    own = f"{NAME}-{secrets.token_hex(6)}"
    with _redis() as client:
        try:
            yield own
        finally:
            for key in client.scan_iter(match=f"*{own}*", count=_SCAN):
                client.unlink(key)


def _redis() -> Any:
    """A client of a Redis that answers."""
    if importlib.util.find_spec("redis") is None:
        raise NotHereError("the package redis is not installed (group bench of pyproject.toml)")
    redis: Any = importlib.import_module("redis")
    client = redis.Redis.from_url(REDIS, socket_timeout=10)
    try:
        client.ping()
    except redis.RedisError as error:
        client.close()
        raise NotHereError(f"no Redis at {urlsplit(REDIS).hostname} ({error}); set TEST_REDIS_URL") from None
    return client
