"""The tricks for speed in the hot path, and how to switch each off.

A trick is code that is there only because it is faster. ``switch_off`` runs inside the daemon, before it starts.
"""

from __future__ import annotations

import asyncio
import gc
import importlib.util
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import anyio
import anyio.abc
import structlog

import consumer.app
import consumer.daemon
from consumer.cloud import mns, mns_xml, pool
from consumer.engine import delivery, poll, process, slots
from consumer.message import strict_json
from consumer.ops import logs
from consumer.store.sqlite.ledger import SqliteLedger


@dataclass(frozen=True, slots=True)
class Trick:
    """One trick.

    Args:
        name: As in the comment at its place in the code: ``bench ablation "NAME"``.
        what: What the daemon does while it is off.
        where: The file with the trick and that comment.
        lines: Lines that it costs beyond the plain way, about.
        off: Switches it off.
    """

    name: str
    what: str
    where: str
    lines: int
    off: Callable[[], None]


def _put(where: object, name: str, value: object) -> None:
    setattr(where, name, value)


class _GroupTasks:
    """``Tasks`` by an anyio task group."""

    def __init__(self) -> None:
        self._group: anyio.abc.TaskGroup | None = None
        self._ended = asyncio.Event()
        self._is_over = asyncio.Event()
        self._waiting: list[Coroutine[Any, Any, object]] = []
        self._runner = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        async with anyio.create_task_group() as self._group:
            for work in self._waiting:
                self._start(work)
            await self._is_over.wait()
        self._ended.set()

    def begin(self, work: Coroutine[Any, Any, object]) -> None:
        if self._group is None:
            self._waiting.append(work)
        else:
            self._start(work)

    def _start(self, work: Coroutine[Any, Any, object]) -> None:
        async def run() -> None:
            await work

        if self._group is not None:
            self._group.start_soon(run)

    async def end(self, within_s: float) -> None:
        self._is_over.set()
        with anyio.move_on_after(within_s):
            await self._ended.wait()
        if self._group is not None:
            self._group.cancel_scope.cancel("over")
        await self._ended.wait()


def _task_group() -> None:
    _put(consumer.app, "Tasks", _GroupTasks)


def _cancel_scope() -> None:
    run = process.run

    async def scoped(*arguments: Any) -> Any:
        with anyio.CancelScope():
            return await run(*arguments)

    _put(process, "run", scoped)


def _gc() -> None:
    _put(gc, "freeze", lambda: None)
    _put(gc, "set_threshold", lambda *_: None)


def _flat_xml() -> None:
    _put(mns_xml, "FLAT_READER", value=False)


def _colons() -> None:
    _put(strict_json, "COUNTS_COLONS", value=False)


def _gathered_lines() -> None:
    log: Any = logs._log

    def at_once(line: bytes) -> None:
        log.write(line)

    _put(log, "gather", at_once)


def _direct_line() -> None:
    log = structlog.get_logger("consumer.engine.process")

    def by_structlog(level: str, **event: object) -> None:
        getattr(log, level)(event.pop("event"), **event)

    _put(process, "gather", by_structlog)


def _kept_second() -> None:
    _put(logs._log, "now", lambda: datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"))


def _written_deletes() -> None:
    _put(mns, "OWN_DELETE_ENCODER", value=False)


def _gathered_commands() -> None:
    enqueue = SqliteLedger._enqueue

    def at_once(self: Any, command: Any) -> None:
        enqueue(self, command)
        self._flush()

    _put(SqliteLedger, "_enqueue", at_once)


def _uvloop() -> None:
    found = importlib.util.find_spec
    _put(importlib.util, "find_spec", lambda name, package=None: None if name == "uvloop" else found(name, package))


def _asyncio_lock() -> None:
    made = delivery.ReceiptLock.__init__

    def init(self: Any) -> None:
        made(self)
        self._other = anyio.Lock()

    _put(delivery.ReceiptLock, "__init__", init)


def _start_first() -> None:
    _put(poll, "_START_FIRST_S", 0.0)


def _early_slots() -> None:
    _put(slots.Slot, "leave", lambda *_, **__: None)


def _clean_connection() -> None:
    _put(pool._Protocol, "is_clean", lambda *_: True)


TRICKS: Final = (
    Trick("nothing", "nothing: what the measurement itself varies by", "", 0, lambda: None),
    Trick("task-group", "each message's task is one of an anyio task group", "engine/stop.py", 25, _task_group),
    Trick("cancel-scope", "a cancel scope of anyio around each run", "engine/delivery.py", 8, _cancel_scope),
    Trick("asyncio-lock", "anyio's lock for each message beside asyncio's", "engine/delivery.py", 1, _asyncio_lock),
    Trick("early-slots", "a message keeps its slot until it is settled", "engine/slots.py", 20, _early_slots),
    Trick("start-first", "the next poll is asked at once", "engine/poll.py", 4, _start_first),
    Trick("gc", "the collector's defaults", "daemon.py", 6, _gc),
    Trick("uvloop", "asyncio's own event loop", "daemon.py", 2, _uvloop),
    Trick("flat-xml", "every answer is read by expat", "cloud/mns_xml.py", 45, _flat_xml),
    Trick("deletes", "the body of a batch delete is made as a tree", "cloud/mns.py", 10, _written_deletes),
    Trick("colons", "every JSON text is parsed with all rules spelt out", "message/strict_json.py", 35, _colons),
    Trick("gathered-lines", "each log line is one write", "ops/logs.py", 25, _gathered_lines),
    Trick("direct-line", "the line of a delivery passes structlog's logger", "ops/logs.py", 10, _direct_line),
    Trick("kept-second", "each line's time is made by datetime", "ops/logs.py", 8, _kept_second),
    Trick("gathered-commands", "each ledger call wakes the writer", "store/sqlite/ledger.py", 12, _gathered_commands),
    Trick(
        "clean-check", "(no trick: the price of checking a reused connection)", "cloud/pool.py", 0, _clean_connection
    ),
)


def switch_off(name: str) -> None:
    """Switch one trick off in this process."""
    (trick,) = [trick for trick in TRICKS if trick.name == name]
    trick.off()
