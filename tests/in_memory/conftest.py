"""Everything in this folder lives by a clock that moves only when all tasks wait."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from tests.in_memory.clock import Clock


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    made.install(monkeypatch)
    return made


@pytest.fixture
def anyio_backend(clock: Clock) -> tuple[str, dict[str, Callable[[], asyncio.AbstractEventLoop]]]:
    return "asyncio", {"loop_factory": clock.make_loop}
