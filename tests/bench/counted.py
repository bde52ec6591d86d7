"""Count what a message costs a daemon, without a clock: requests, ledger transactions, Python function calls.

    python -m tests.bench.counted MESSAGES

It is a process of its own, because it profiles all its threads and configures the logs. The daemon runs in the main
thread as in production: ledger on SQLite, leases, metrics, the admin server, one log line a message into a file. The
sandbox runs in another thread, whose calls are not counted. After some messages to get warm the queue is filled at
once; the counts until it is empty are printed as one line of JSON, divided by the number of messages.
``test_bench_guard`` has the ceilings.
"""

from __future__ import annotations

import asyncio
import functools
import json
import sqlite3
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import Any, Final

import anyio
import uvloop
from pydantic import SecretStr

import consumer
from consumer.app import App
from consumer.config import Settings
from consumer.ops.logs import configure
from consumer.plugin.registry import Sources, discover
from consumer.sandbox import Sandbox
from tests.bench.messages import body

_OWN: Final = str(Path(consumer.__file__).parent)
_QUEUE: Final = "bench"
_WARM: Final = 160
_MOST_S: Final = 15.0
_LOOK_S: Final = 0.002


class Counts:
    """The counts of the daemon."""

    def __init__(self) -> None:
        self._calls: Counter[str] = Counter()
        self._commits = 0

    def profile(self, frame: FrameType, event: str, _argument: object) -> None:
        """Count a function call, or a coroutine that is resumed: for ``sys.setprofile``."""
        if event == "call":
            self._calls[frame.f_code.co_filename] += 1

    def statement(self, text: str) -> None:
        """Count a commit: for SQLite's trace callback."""
        self._commits += text == "COMMIT"

    def clear(self) -> None:
        """Set the counts to 0."""
        self._calls.clear()
        self._commits = 0

    def a_message(self, messages: int, requests: Mapping[str, int]) -> dict[str, Any]:
        """The counts for one message."""
        calls = dict(self._calls)
        return {
            "requests": {name: count / messages for name, count in requests.items()},
            "transactions": self._commits / messages,
            "own_calls": sum(count for name, count in calls.items() if name.startswith(_OWN)) / messages,
            "all_calls": sum(calls.values()) / messages,
        }


async def _conduct(counts: Counts, messages: int, listens: Future[Sandbox]) -> dict[str, Any]:
    """Serve the sandbox in its thread, let the daemon get warm, then count."""
    async with Sandbox.on_free_port() as sandbox:
        sandbox.account.ensure(_QUEUE)
        listens.set_result(sandbox)
        await _handled(sandbox, 0)
        await _handled(sandbox, _WARM)
        counts.clear()
        before = Counter(sandbox.log.by_operation)
        await _handled(sandbox, messages)
        return counts.a_message(messages, sandbox.log.by_operation - before)


async def _handled(sandbox: Sandbox, messages: int) -> None:
    """Put messages into the queue and wait until they are deleted and the daemon is back in its long poll."""
    mailbox = sandbox.account.get(_QUEUE)
    for number in range(messages):
        sandbox.put(_QUEUE, body(number))
    with anyio.fail_after(_MOST_S):
        while len(mailbox.queue) or not len(mailbox.polls):  # noqa: ASYNC110 - the queue has no event
            await anyio.sleep(_LOOK_S)


async def _serve(app: App, counts: Counts, conducted: Future[dict[str, Any]]) -> None:
    loop = asyncio.get_running_loop()
    conducted.add_done_callback(lambda _: loop.call_soon_threadsafe(app.stop))
    sys.setprofile(counts.profile)
    try:
        await app.serve()
    finally:
        sys.setprofile(None)


def _app(sandbox: Sandbox, folder: Path) -> App:
    handlers = folder / "handlers"
    handlers.mkdir()
    text = (Path(__file__).resolve().parent / "handler_nothing.py").read_text()
    (handlers / "nothing.py").write_text(text)
    settings = Settings(
        notify_url=(sandbox.notify_url(_QUEUE),),
        endpoint=sandbox.url,
        access_key_id=SecretStr("sandbox"),
        access_key_secret=SecretStr("sandbox"),
        store=str(folder / "ledger.db"),
        admin_port=0,
    )
    return App(settings, discover(Sources(directory=handlers, use_entry_points=False)))


def _tracing(counts: Counts) -> type[sqlite3.Connection]:
    class Traced(sqlite3.Connection):
        """Counts its statements."""

        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self.set_trace_callback(counts.statement)

    return Traced


def main(messages: int) -> None:
    """Count, and print the counts."""
    counts = Counts()
    listens: Future[Sandbox] = Future()
    with (
        tempfile.TemporaryDirectory() as made,
        (Path(made) / "log").open("w") as log,
        ThreadPoolExecutor(1) as beside,
    ):
        conducted = beside.submit(lambda: uvloop.run(_conduct(counts, messages, listens)))
        app = _app(listens.result(_MOST_S), Path(made))
        configure("info", json=True, stream=log)
        # Threads that start from here on are counted: the one that writes to the ledger.
        threading.setprofile(counts.profile)
        sqlite3.connect = functools.partial(sqlite3.connect, factory=_tracing(counts))  # type: ignore[assignment]
        uvloop.run(_serve(app, counts, conducted))
        sys.stdout.write(f"{json.dumps(conducted.result())}\n")


if __name__ == "__main__":
    main(int(sys.argv[1]))
