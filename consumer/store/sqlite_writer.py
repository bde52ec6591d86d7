"""The one thread that touches SQLite's file: it takes everything that waits and makes one transaction of it.

While a commit waits for the disk, the next calls gather; the slower the disk, the larger the batches. Pruning comes
last and has a transaction of its own: a fault at the old end of a table must not keep an end from being written.

    loop: calls of one turn -> inbox -> thread: reads answered, writes committed -> loop: answers, one wake-up

A file that failed is opened again for the next batch, so that nobody has to be told when its cause is gone.

Elsewhere: what a batch does (``store.sqlite_book``), what may share one (``store.batch``).
"""

from __future__ import annotations

import os
import sqlite3
from asyncio import AbstractEventLoop, Future
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread

from consumer.errors import StoreError, StoreUnsafeError
from consumer.store.batch import Answer, Call, Kind, resolve, take
from consumer.store.file_access import refusal
from consumer.store.ledger import LettersHeld
from consumer.store.owner import Owner
from consumer.store.sqlite_book import Book
from consumer.store.sqlite_file import connect, explain, prepare, spoils_connection
from consumer.store.sqlite_rows import SELECT_HELD

_READS = frozenset({Kind.CLAIM, Kind.RENEW})
_NO_WRITES = _READS | {Kind.PRUNE, Kind.LETTERS}

Carry = Callable[[sqlite3.Connection, Sequence[Call]], list[Answer]]


class Writer:
    """A thread of its own, from ``launch`` to ``stop``.

    Args:
        path: The database's file.
        loop: Where those wait who are answered.
    """

    def __init__(self, path: Path, loop: AbstractEventLoop) -> None:
        self.opened: Future[None] = loop.create_future()
        self.closed: Future[None] = loop.create_future()
        self._path = path
        self._loop = loop
        self._owner = Owner(path)
        self._book = Book()
        self._connection: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None
        self._inbox: SimpleQueue[list[Call] | None] = SimpleQueue()
        # A daemon thread: a process that dies without closing its store must not hang on it.
        self._thread = Thread(target=self._run, name="mns-consumer-store", daemon=True)

    def launch(self) -> None:
        """Begin; ``opened`` says how it went."""
        self._thread.start()

    def put(self, calls: list[Call]) -> None:
        """Hand over the calls of one turn of the loop."""
        self._inbox.put(calls)

    def stop(self) -> None:
        """End after everything that was put before; ``closed`` says when."""
        self._inbox.put(None)

    def join(self) -> None:
        """Wait for the thread's last instructions, once ``closed`` is there."""
        self._thread.join()

    def _run(self) -> None:
        try:
            self._begin()
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is raised where open() waits
            self._owner.let_go()
            self._post(_settle, self.opened, error)
            return
        self._post(_settle, self.opened, None)
        try:
            self._serve()
        finally:
            self._disconnect()
            self._owner.let_go()
            self._post(_settle, self.closed, None)

    def _begin(self) -> None:
        if problem := refusal(self._path, by_owner=True):
            raise StoreUnsafeError(problem)
        try:
            prepare(self._path)
        except OSError as error:
            raise explain(self._path, error) from error
        self._owner.take()
        self._connect()

    def _serve(self) -> None:
        waiting: list[Call] = []
        going_on = True
        while going_on or waiting:
            if not waiting:
                going_on = self._gather(waiting, block=True)
            while going_on and not self._inbox.empty():
                going_on = self._gather(waiting, block=False)
            batch, waiting = take(waiting)
            reads = [call for call in batch if call.kind in _READS]
            prunes = [call for call in batch if call.kind is Kind.PRUNE]
            counts = [call for call in batch if call.kind is Kind.LETTERS]
            writes = [call for call in batch if call.kind not in _NO_WRITES]
            shares = [(reads, self._book.read), (writes, self._book.write), (counts, _count_letters)]
            for calls, carry in [*shares, *(([call], self._book.write) for call in prunes)]:
                if calls:
                    self._post(resolve, self._carry_out(carry, calls))

    def _gather(self, waiting: list[Call], *, block: bool) -> bool:
        try:
            calls = self._inbox.get(block=block)
        except Empty:
            return True
        if calls is None:
            return False
        waiting.extend(calls)
        return True

    def _carry_out(self, carry: Carry, calls: Sequence[Call]) -> list[Answer]:
        try:
            return carry(self._connect(), calls)
        except (StoreError, sqlite3.OperationalError, sqlite3.InternalError) as error:
            return self._failed(error, calls)
        except sqlite3.DatabaseError as error:
            # DatabaseError itself is said of a damaged file; its other children are about one value.
            if type(error) is sqlite3.DatabaseError or len(calls) == 1:
                return self._failed(error, calls)
        except Exception as error:  # noqa: BLE001 - one call with a value that no database takes may not end the thread
            if len(calls) == 1:
                text = f"store {self._path}: {calls[0].kind.value} of {calls[0].key!r} can't be written: {error!r}"
                return [Answer(calls[0], error=StoreError(text))]
        # Nothing is written yet. One by one, only the call that is to blame fails.
        return [answer for call in calls for answer in self._carry_out(carry, [call])]

    def _failed(self, error: StoreError | sqlite3.Error, calls: Sequence[Call]) -> list[Answer]:
        if isinstance(error, sqlite3.Error):
            if spoils_connection(error):
                self._disconnect()
            error = explain(self._path, error)
        # An error apiece: one that several tasks raise would gather all their tracebacks.
        return [Answer(call, error=type(error)(*error.args)) for call in calls]

    def _connect(self) -> sqlite3.Connection:
        if self._connection is not None:
            # A file that was removed or put in another's place still takes writes, and nobody will ever read them.
            if self._identity == _identity(self._path):
                return self._connection
            self._disconnect()
            raise StoreError(
                f"store {self._path}: the file was removed or replaced while the daemon used it;"
                " what is there now is opened for the next call"
            )
        self._connection = connect(self._path, create=True)
        self._identity = _identity(self._path)
        return self._connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            # What was answered is in the write-ahead log already; a failing last checkpoint loses nothing.
            with suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None

    def _post(self, function: Callable[..., None], *arguments: object) -> None:
        # The loop may be closed when a process ends without closing its store; nobody waits there any more.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function, *arguments)


def _count_letters(connection: sqlite3.Connection, calls: Sequence[Call]) -> list[Answer]:
    held = LettersHeld(*connection.execute(SELECT_HELD).fetchone())
    return [Answer(call, held) for call in calls]


def _settle(future: Future[None], error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)  # noqa: PTH116 - once a transaction: Path.stat takes three times as long
    except OSError:
        return None
    return found.st_dev, found.st_ino
