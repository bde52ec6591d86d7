"""Without coverage's tracer, which multiplies the price of code and doubles that of starting a process."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# By this variable a process learns that coverage is to measure it too.
COVERAGE_OF_PROCESSES = "COVERAGE_PROCESS_CONFIG"


def untraced_environ() -> dict[str, str]:
    """The environment for a process that coverage is not to measure."""
    return {name: value for name, value in os.environ.items() if name != COVERAGE_OF_PROCESSES}


@contextmanager
def untraced() -> Iterator[None]:
    """Pause the trace function of this thread."""
    trace = sys.gettrace()
    sys.settrace(None)
    try:
        yield
    finally:
        sys.settrace(trace)
