"""What a test needs and this machine lacks: skip the test, or fail in CI, where everything is installed."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def missing(what: str) -> NoReturn:
    """End the test, or all of a module that is being imported: ``what`` is not on this machine."""
    if os.environ.get("CI"):
        pytest.fail(what)
    pytest.skip(what, allow_module_level=True)
