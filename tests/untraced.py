"""Measure code without coverage's tracer, which multiplies its price."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

# By this variable a process learns that coverage is to measure it too.
COVERAGE_OF_PROCESSES = "COVERAGE_PROCESS_CONFIG"


@contextmanager
def untraced() -> Iterator[None]:
    """Pause the trace function of this thread."""
    trace = sys.gettrace()
    sys.settrace(None)
    try:
        yield
    finally:
        sys.settrace(trace)
