"""Submit one job in each of several processes, and kill each at a random moment: ``python -m`` with settings as JSON.

Prints the refs whose submission was answered before the kill.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import signal
import sys
import time
from contextlib import suppress
from typing import Any, Final

from consumer.client import SyncClient
from consumer.errors import CloudError
from consumer.functions.cover import CoverParams

_FILES: Final[Any] = {
    "input": "oss://b.oss-cn-hangzhou.aliyuncs.com/film.mp4",
    "output": "oss://b.oss-cn-hangzhou.aliyuncs.com/{source}-{sequenceId}.jpg",
}


def submit(settings: dict[str, Any], ref: str, ready: int) -> None:
    """Submit once everything is loaded, and print the ref once it is answered."""
    with SyncClient(**settings) as client:
        with suppress(CloudError):
            client.query("0" * 32)
        os.write(ready, b".")
        client.submit(CoverParams(), **_FILES, ref=ref)
        os.write(1, f"{ref}\n".encode())


def main() -> None:
    # Loaded once, before the forks: each takes a quarter of a second.
    for engine in ("sqlite", "postgres"):
        importlib.import_module(f"consumer.store.{engine}.database")
    importlib.import_module("alibabacloud_tea_openapi.utils")
    settings, kills, longest_s = json.loads(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    chance = random.Random(int(sys.argv[4]))  # noqa: S311 - moments, not secrets
    for number in range(kills):
        waits, ready = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                submit(settings, f"k{number}", ready)
            finally:
                os._exit(0)
        os.read(waits, 1)
        time.sleep(chance.uniform(0, longest_s))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(waits)
        os.close(ready)


if __name__ == "__main__":
    main()
