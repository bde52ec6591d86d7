"""What a test needs and this machine lacks: skip at home, fail in CI, where everything is installed."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def missing(what: str) -> NoReturn:
    """End the test: it can't run here for want of ``what``."""
    if os.environ.get("CI"):
        pytest.fail(what)
    pytest.skip(what)
