"""General task queues on Redis with a task that does nothing, for comparison.

Each worker is started as its documentation says, with one worker process; its CPU time is that of the whole process
tree. ``TEST_REDIS_URL`` names the Redis; the default is database 9 at 127.0.0.1:6379. The keys of a run have a name of
its own, and only these are deleted. A task queue whose package is missing is left out with a note.
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

from tests.bench.contestants import Rig
from tests.bench.measurements import Measurements, in_turn
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


def measure(rig: Rig, name: str, tasks: int, measurements: Measurements) -> None:
    """Measure one run of one task queue.

    Raises:
        NotHereError: The package or Redis is missing.
        BenchError: It failed or took too long.
    """
    if importlib.util.find_spec(WORKERS[name][0]) is None:
        raise NotHereError(f"{name} is not installed (group bench of pyproject.toml)")
    first, last = round(tasks * _WARM_SHARE), tasks - 1
    with rig.run() as run, _own_keys() as own:
        environ = environment(
            HOME=str(run.folder), BENCH_NAME=own, BENCH_MARKS=str(run.folder), BENCH_MARKED=f"{first},{last}"
        )
        _send(rig, name, tasks, environ)
        log = run.folder / "log"
        process = Process([sys.executable, "-m", *WORKERS[name]], log=log, core=run.core, environ=environ)
        try:
            _wait(process, run.folder / str(first))
            began_at_s, cpu_before_s = time.monotonic(), process.cpu_s
            _wait(process, run.folder / str(last))
            seconds, cpu_s = time.monotonic() - began_at_s, process.cpu_s - cpu_before_s
        finally:
            process.end()
    counted = last - first
    measurements.add(PART, name, messages_per_s=counted / seconds, cpu_us_per_message=1e6 * cpu_s / counted)


def measure_in_turn(rig: Rig, tasks: int, rounds: int, measurements: Measurements) -> None:
    """Measure A B A B ...; a task queue that fails is left out with a note.

    Raises:
        NotHereError: Redis is missing.
    """
    _redis().close()
    for name in in_turn(rounds, *WORKERS):
        try:
            measure(rig, name, tasks, measurements)
        except BenchError as error:
            # They are no bar: the others are still worth measuring.
            measurements.note(f"{PART}: {name} left out: {error}")


def _send(rig: Rig, name: str, tasks: int, environ: Mapping[str, str]) -> None:
    command = [sys.executable, "-m", f"tests.bench.others_{name}", str(tasks)]
    sender = launch(command, rig.cores.server, environ, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        _, errors = sender.communicate(timeout=_MOST_S)
    finally:
        if sender.poll() is None:
            sender.kill()
            sender.wait()
    if sender.returncode:
        raise BenchError(f"{name} could not send: {errors[-1000:]}")


def _wait(process: Process, mark: Path) -> None:
    end_at_s = time.monotonic() + _MOST_S
    while not mark.exists():
        if time.monotonic() > end_at_s:
            raise BenchError(f"no mark {mark.name} within {_MOST_S:g} s:\n{process.log_end}")
        process.check()
        time.sleep(_LOOK_S)


@contextmanager
def _own_keys() -> Iterator[str]:
    """A unique name for keys in Redis; all keys with that name are deleted at the end."""
    own = f"{NAME}-{secrets.token_hex(6)}"
    with _redis() as client:
        try:
            yield own
        finally:
            for key in client.scan_iter(match=f"*{own}*", count=_SCAN):
                client.unlink(key)


def _redis() -> Any:
    """A client of a Redis that has answered."""
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
