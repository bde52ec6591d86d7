"""The task of the general task queues: it does nothing.

Two tasks of a run create a file: one early, when the worker is warm, and the last one. ``others`` measures the worker
between these two marks, and needs no client of the task queue to see them.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

REDIS: Final = os.environ.get("TEST_REDIS_URL", "redis://127.0.0.1:6379/9")
NAME: Final = os.environ.get("BENCH_NAME", "mns-consumer-bench")
"""Part of the name of every key of a run in Redis, so that only these are deleted afterwards."""
_MARKS: Final = Path(os.environ.get("BENCH_MARKS", "."))
_MARKED: Final = frozenset(os.environ.get("BENCH_MARKED", "").split(","))


def nothing(number: int) -> None:
    """Do nothing; the two marked tasks create their file."""
    if str(number) in _MARKED:
        (_MARKS / str(number)).touch()
