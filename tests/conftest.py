"""What every test needs: paths for the processes that it starts, patience with a slow machine, plain tracebacks."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest
import structlog
from hypothesis import HealthCheck, settings
from structlog.dev import ConsoleRenderer, plain_traceback

# The processes that tests start find this checkout's packages, also where an older installation does not name them.
_ROOT = Path(__file__).resolve().parents[1]
_PATHS = (str(_ROOT), str(_ROOT / "consumer" / "public"))

os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (*_PATHS, os.environ.get("PYTHONPATH"))))

# How long an example takes says how busy the machine is. The parent is the profile that hypothesis has loaded: in CI
# it has one that draws the same examples each time.
settings.register_profile(
    "tests", settings(), max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("tests")

# No daemon of a test listens for commands where those of the machine's user do.
os.environ.pop("XDG_RUNTIME_DIR", None)

# Rich tracebacks, which structlog takes where rich is installed, take longer than most tests.
structlog.configure(
    processors=[*structlog.get_config()["processors"][:-1], ConsoleRenderer(exception_formatter=plain_traceback)]
)

# Coverage doubles the price of a process, so it measures only those that a test marked `measured` starts.
_COVERAGE = "COVERAGE_PROCESS_CONFIG"
_MEASURED = os.environ.get(_COVERAGE)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Let the processes of this test be measured, or not."""
    if _MEASURED is not None and item.get_closest_marker("measured"):
        os.environ[_COVERAGE] = _MEASURED
    else:
        os.environ.pop(_COVERAGE, None)


def pytest_collection_finish() -> None:
    """Let the collector pass over what has been imported and collected: a full pass would take a fifth of a second."""
    gc.collect()
    gc.freeze()
