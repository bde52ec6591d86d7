"""The log lines about handlers at the start."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from consumer import daemon
from consumer.app import App
from consumer.config import load
from consumer.plugin.handler import build, notes
from consumer.plugin.letter_hook import build_letter_hook
from consumer.plugin.registry import Registry
from mns_consumer import Job, Letter, handler, on_dead_letter


@handler("Cover")
async def cover(job: Job) -> None:
    """A handler."""


@on_dead_letter
async def notify(letter: Letter) -> None:
    """A hook."""


def test_each_handlers_origin_is_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each handler and the hook are logged with origin and provider, each one that is not used as a warning."""
    monkeypatch.setattr(daemon, "configure", lambda *_, **__: None)
    metrics = SimpleNamespace(log_lines_dropped=SimpleNamespace(inc=None))
    registry = Registry(
        {"Cover": build(cover, notes(cover)[0], provider="films 1.2")},
        skipped=["one for '*'"],
        letter_hook=build_letter_hook(notify, provider="films 1.2"),
    )
    with capture_logs() as found:
        daemon.set_up_logs(cast("App", SimpleNamespace(settings=load({}), registry=registry, metrics=metrics)))
    lines: list[Any] = [{**line, "origin": line.get("origin", "").rpartition("/")[2]} for line in found]
    assert lines == [
        {
            "event": "handler registered",
            "function": "Cover",
            "origin": "test_registry_log.py:20",
            "provider": "films 1.2",
            "log_level": "info",
        },
        {
            "event": "dead-letter hook registered",
            "origin": "test_registry_log.py:25",
            "provider": "films 1.2",
            "log_level": "info",
        },
        {"event": "handler skipped", "reason": "one for '*'", "origin": "", "log_level": "warning"},
    ]
