"""What the tests of the settings share: two queues, the fixtures' types, and the problems of a failed load."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from consumer.config import load
from consumer.errors import ExitCode, SettingsError

Toml = Callable[[str], Path]
Credentials = Callable[[str, str], Path]

A = "mns://1234.mns.cn-hangzhou.aliyuncs.com/queues/a"
B = "mns://1234.mns.cn-hangzhou.aliyuncs.com/queues/b"


def problems(flags: dict[str, Any] | None = None, path: Path | None = None) -> list[str]:
    """The problems that loading these settings reports."""
    with pytest.raises(SettingsError) as caught:
        load(flags or {}, path)
    assert caught.value.exit_code is ExitCode.SETTINGS
    return list(caught.value.problems)
