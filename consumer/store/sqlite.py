"""The ledger on SQLite, the default: one file, one daemon.

Here is only the loop's side: each call becomes an entry in a list, the list of one turn of the loop goes to
the writer's thread, and the answers come back together.

Elsewhere: the thread (``store.sqlite_writer``), what is decided and written (``store.sqlite_book``).
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from consumer.errors import StoreError
from consumer.store.batch import Answer, Call, Kind, resolve
from consumer.store.calls import Calls
from consumer.store.ledger import Standby
from consumer.store.sqlite_writer import Writer


class SqliteStandby:
    """A ``Standby``: hands calls straight to the writer's thread, which works on while the loop is blocked.

    Nobody waits for their answers. No other daemon can have taken a claim: the file has one owner.

    Args:
        writer: The ledger's.
        loop: The ledger's.
    """

    def __init__(self, writer: Writer, loop: asyncio.AbstractEventLoop) -> None:
        self._writer = writer
        self._loop = loop

    async def renew(self, keys: Sequence[str], lease_s: float) -> Sequence[str]:
        """See ``Standby.renew``."""
        self._writer.put([self._call(Kind.RENEW, None, (tuple(keys), lease_s))])
        return ()

    async def take_back_starts(self, keys: Sequence[str]) -> None:
        """See ``Standby.take_back_starts``."""
        self._writer.put([self._call(Kind.TAKE_BACK, key) for key in keys])

    async def close(self) -> None:
        """See ``Standby.close``."""

    def _call(self, kind: Kind, key: str | None, value: Any = None) -> Call:
        answer: asyncio.Future[Any] = self._loop.create_future()
        # Done already: the answer is dropped when it comes.
        answer.cancel()
        return Call(kind, key, value, answer)


class SqliteLedger(Calls):
    """A ``Ledger`` in a file.

    Args:
        path: The file; made when missing, with its directory. Links are followed, so that a file is owned once
            under all its names.
    """

    def __init__(self, path: Path) -> None:
        self._path = Path(os.path.realpath(path))
        self._writer: Writer | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._gathered: list[Call] = []

    async def open(self) -> None:
        """See ``Ledger.open``."""
        if self._writer is not None:
            return
        loop = asyncio.get_running_loop()
        writer = Writer(self._path, loop)
        writer.launch()
        try:
            await writer.opened
        except BaseException:
            # It failed, and the thread is gone; or nobody waits any more, and then it must go.
            writer.stop()
            raise
        self._writer, self._loop = writer, loop
        writer.closed.add_done_callback(self._end)

    async def close(self) -> None:
        """See ``Ledger.close``."""
        writer = self._writer
        if writer is None:
            return
        self._flush()
        self._writer = None
        writer.stop()
        await asyncio.wait([writer.closed])
        writer.join()

    async def now(self) -> float:
        """See ``Ledger.now``."""
        return time.time()

    def busy_s(self) -> float:
        """See ``Ledger.busy_s``."""
        since = None if self._writer is None else self._writer.busy_since
        return 0.0 if since is None else max(0.0, time.monotonic() - since)

    async def watch(self) -> None:
        """See ``Ledger.watch``."""
        if self._writer is not None:
            await asyncio.shield(self._writer.closed)

    def _end(self, closed: asyncio.Future[None]) -> None:
        """Fail the calls that a thread which has died will never answer."""
        if self._writer is not None and (error := closed.exception()) is not None:
            calls = [*self._writer.left(), *self._gathered]
            self._gathered = []
            resolve([Answer(call, error=StoreError(*error.args)) for call in calls])

    def standby(self) -> Standby:
        """See ``Ledger.standby``."""
        if self._writer is None or self._loop is None:
            raise StoreError(f"store {self._path} is not open")
        return SqliteStandby(self._writer, self._loop)

    def _ask(self, kind: Kind, key: str | None, value: Any = None) -> asyncio.Future[Any]:
        loop = self._loop
        if self._writer is None or loop is None:
            raise StoreError(f"store {self._path} is not open")
        if self._writer.closed.done():
            raise StoreError(f"store {self._path}: its writer thread has ended; restart the daemon")
        call = Call(kind, key, value, loop.create_future())
        if not self._gathered:
            # At the end of this turn of the loop: whoever asks until then shares the batch and the hop.
            loop.call_soon(self._flush)
        self._gathered.append(call)
        return call.answer

    def _flush(self) -> None:
        if self._gathered and self._writer is not None:
            calls, self._gathered = self._gathered, []
            self._writer.put(calls)
