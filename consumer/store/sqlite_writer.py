"""The one thread that touches SQLite's file: it takes everything that waits and makes one transaction of it.

While a commit waits for the disk, the next calls gather; the slower the disk, the larger the batches. Pruning comes
last and has a transaction of its own: a fault at the old end of a table must not keep an end from being written.

    loop: calls of one turn -> inbox -> thread: reads answered, writes committed -> loop: answers, one wake-up

A connection that failed is made anew for the next batch, so that nobody has to be told when its cause is gone. But
files that are no longer those that were opened are left alone until they are back: nothing is made in their place.

Elsewhere: what a batch does (``store.sqlite_book``), what may share one (``store.batch``), which files are meant
(``store.owner``, ``store.open_files``).
"""

from __future__ import annotations

import ctypes
import sqlite3
import time
from asyncio import AbstractEventLoop, Future
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread

from consumer.errors import StoreDiedError, StoreError, StoreUnsafeError
from consumer.store.batch import Answer, Call, Kind, resolve, take
from consumer.store.file_access import make_folder, refusal
from consumer.store.open_files import OpenFiles
from consumer.store.owner import Owner
from consumer.store.sqlite_book import Book
from consumer.store.sqlite_file import connect, explain, spoils_connection
from consumer.store.sqlite_rows import SELECT_WAITING, waiting_letters

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
        """Done when the thread has ended; a ``StoreDiedError`` when that was by a fault."""
        self._path = path
        self._loop = loop
        self._owner = Owner(path)
        self._book = Book()
        self._connection: sqlite3.Connection | None = None
        self._files = OpenFiles(path)
        self._unanswered: list[Call] = []
        self.busy_since: float | None = None
        """When the call that the thread is carrying out began, on the monotonic clock; ``None`` between two."""
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

    def left(self) -> list[Call]:
        """The calls that a thread which has died left unanswered."""
        while not self._inbox.empty():
            self._unanswered.extend(self._inbox.get() or ())
        return self._unanswered

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
        died: StoreDiedError | None = None
        try:
            self._serve()
        except BaseException as error:  # noqa: BLE001 - whatever it is, the daemon must not wait for this thread for ever
            died = StoreDiedError(f"store {self._path}: its writer thread ended by {error!r}; restart the daemon")
            died.__cause__ = error
        finally:
            self.busy_since = None
            try:
                self._disconnect()
            finally:
                self._owner.let_go()
                self._post(_settle, self.closed, died)

    def _begin(self) -> None:
        if problem := refusal(self._path, by_owner=True):
            raise StoreUnsafeError(problem)
        try:
            make_folder(self._path.parent)
        except OSError as error:
            raise explain(self._path, error) from error
        self._files.own(self._owner.take())
        self._connect()

    def _serve(self) -> None:
        # Kept where ``left`` finds them.
        waiting = self._unanswered
        going_on = True
        while going_on or waiting:
            if not waiting:
                going_on = self._gather(waiting, block=True)
            while going_on and not self._inbox.empty():
                going_on = self._gather(waiting, block=False)
            batch, later = take(waiting)
            reads = [call for call in batch if call.kind in _READS]
            prunes = [call for call in batch if call.kind is Kind.PRUNE]
            counts = [call for call in batch if call.kind is Kind.LETTERS]
            writes = [call for call in batch if call.kind not in _NO_WRITES]
            shares = [(reads, self._book.read), (writes, self._book.write), (counts, _count_letters)]
            for calls, carry in [*shares, *(([call], self._book.write) for call in prunes)]:
                if calls:
                    self.busy_since = time.monotonic()
                    answers = self._carry_out(carry, calls)
                    self.busy_since = None
                    self._post(resolve, answers)
            waiting[:] = later

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
        self._owner.check()
        # Without a connection SQLite has removed the companions itself, and only the database is looked at.
        if problem := self._files.problem():
            raise StoreError(
                f"store {self._path}: {problem} while the daemon used it; nothing is written until the same file is"
                " back as it was; to go on with what is there instead, restart the daemon"
            )
        if self._connection is None:
            self._connection = connect(self._path, create=False)
            try:
                self._learn(self._connection)
            except BaseException:
                self._disconnect()
                raise
        return self._connection

    def _learn(self, connection: sqlite3.Connection) -> None:
        # The log and its index are made when they are first read.
        connection.execute("PRAGMA user_version").fetchone()
        try:
            self._files.learn()
        except OSError as error:
            raise explain(self._path, error) from error

    def _disconnect(self) -> None:
        if self._connection is None:
            return
        if self._files.may_be_closed():
            # What was answered is in the write-ahead log already; a failing last checkpoint loses nothing.
            with suppress(sqlite3.Error):
                self._connection.close()
            self._files.forget()
        else:
            # SQLite would remove files of these names that are not its own. It has no other way not to, so the
            # connection is never closed: neither here nor when the interpreter ends.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._connection))
            self._files.keep()
        self._connection = None

    def _post(self, function: Callable[..., None], *arguments: object) -> None:
        # The loop may be closed when a process ends without closing its store; nobody waits there any more.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function, *arguments)


def _count_letters(connection: sqlite3.Connection, calls: Sequence[Call]) -> list[Answer]:
    groups = [waiting_letters(row) for row in connection.execute(SELECT_WAITING)]
    return [Answer(call, groups) for call in calls]


def _settle(future: Future[None], error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)
