"""The one task of the general task queues that are shown for context: it does nothing.

Of the many, two leave a mark: one after some hundreds, when everything is warm, and the last. Between the two marks
the worker's CPU time is taken, from outside. A mark is a file, so that no client of any queue is needed to see it.

Elsewhere: each queue in a file of its own (``others_taskiq`` and so on), who starts and measures them (``others``).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

REDIS: Final = os.environ.get("TEST_REDIS_URL", "redis://127.0.0.1:6379/9")
NAME: Final = os.environ.get("BENCH_NAME", "mns-consumer-bench")
"""In the name of everything that a run keeps in Redis, so that this and nothing else is deleted afterwards."""
_MARKS: Final = Path(os.environ.get("BENCH_MARKS", "."))
_MARKED: Final = frozenset(os.environ.get("BENCH_MARKED", "").split(","))


def nothing(number: int) -> None:
    """Do nothing; two of many say that they were here."""
    if str(number) in _MARKED:
        (_MARKS / str(number)).touch()
