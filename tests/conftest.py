"""The processes that tests start find this checkout's packages, also where an older installation does not name them."""

from __future__ import annotations

import os
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]
_PATHS = (str(_ROOT), str(_ROOT / "consumer" / "public"))

os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (*_PATHS, os.environ.get("PYTHONPATH"))))
