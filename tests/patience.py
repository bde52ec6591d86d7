"""How much longer a test waits for an event when other tests run beside it."""

from __future__ import annotations

import os
from typing import Final

CROWD: Final = 3 if "PYTEST_XDIST_WORKER" in os.environ else 1
"""A process that a test starts gets a third of a processor then."""
