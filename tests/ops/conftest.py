"""What the tests of metrics, logs, admin server and notifications share."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator

import pytest
import structlog

from consumer.ops import logs, sanitize


@pytest.fixture
def anyio_backend() -> str:
    """The daemon runs on asyncio."""
    return "asyncio"


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    """Each test begins without a known secret, and restores the set-up of logging."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    secrets = sanitize.SECRETS
    kept = vars(secrets).copy()
    vars(secrets).update(vars(sanitize.Secrets()))
    show = warnings.showwarning
    yield
    logging.captureWarnings(capture=False)
    warnings.showwarning = show
    vars(secrets).update(kept)
    root.handlers[:] = handlers
    root.setLevel(level)
    for name in ("consumer", "handlers"):
        logging.getLogger(name).setLevel(logging.NOTSET)
    logs._log.stream = None
    logs._log.on_drop = None
    structlog.reset_defaults()
