"""What a running daemon says of itself to the command ``status``: a value of JSON types, made from memory.

Names and units are those of every other JSON: times in ISO 8601 and UTC, ``queue`` as ACCOUNT/REGION/NAME.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from consumer.app import App
from consumer.engine.delivery import Delivery
from consumer.engine.lane import Lane
from consumer.engine.lease_state import Stage

_STAGES: Final = {Stage.RECEIVED: "waiting", Stage.RUNNING: "running"}


def status(app: App) -> dict[str, Any]:
    """The daemon's queues with what is in flight, its open circuit breakers, its settings and handlers."""
    vitals, hook = app.vitals, app.registry.letter_hook
    return {
        "version": app.version,
        "pid": os.getpid(),
        "state": "stopping" if vitals.stopping else "serving" if vitals.serving else "starting",
        "since": _iso(app.began_at),
        "queues": [_queue(lane) for lane in app.lanes],
        "breakers": [
            {
                "event": breaker.event,
                "queue": queue,
                "since": _iso_of(breaker.began_at),
                "error": None if breaker.fault is None else str(breaker.fault),
            }
            for queue, breaker in app.breakers()
            if not breaker.is_closed
        ],
        "settings": app.settings.shown(),
        "handlers": [
            {"function": name, "origin": handler.origin, "provider": handler.provider}
            for name, handler in app.registry.handlers.items()
        ],
        "letter_hook": None if hook is None else {"origin": hook.origin, "provider": hook.provider},
    }


def reload_json(problems: list[str], handlers: list[str]) -> Mapping[str, Any]:
    """The answer of a reload that has just ended."""
    return {
        "outcome": "refused" if problems else "applied",
        "at": _iso(time.time()),
        "problems": problems,
        "handlers": handlers,
    }


def _queue(lane: Lane) -> Mapping[str, Any]:
    deliveries = sorted(lane.deliveries, key=_since)
    return {"queue": lane.identity, "slots": lane.slots.total, "in_flight": [_in_flight(one) for one in deliveries]}


def _in_flight(delivery: Delivery) -> Mapping[str, Any]:
    return {
        "function": delivery.notification.name,
        "job_id": delivery.notification.job_id,
        "message_id": delivery.message.message_id,
        "attempt": delivery.attempt,
        "state": _STAGES.get(delivery.stage, "settling"),
        "since": _iso_of(_since(delivery)),
    }


def _since(delivery: Delivery) -> float:
    return delivery.started_at or delivery.received_at


def _iso_of(at: float) -> str | None:
    """A time of the monotonic clock; 0 is never."""
    return _iso(time.time() - time.monotonic() + at) if at else None


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
