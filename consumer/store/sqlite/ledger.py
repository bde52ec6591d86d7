"""The ledger on SQLite, the default: one file, one daemon, one thread that writes.

The event loop gathers the commands of one turn; the thread takes everything that waits and makes one transaction of it.
While a commit waits for the disk, the next commands gather: the slower the disk, the larger the batches.

    loop: commands of one turn -> inbox -> thread: answers reads, commits writes -> loop: answers, one wake-up

Upkeep comes last, each in a transaction of its own: a fault in old rows must not keep a job from ending.

A connection that failed is replaced for the next batch. Files that are no longer those that were opened are left alone
until they are back: no new ones are made in their place.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Final, TypeAlias

from consumer.errors import StoreDiedError, StoreError, StoreUnsafeError
from consumer.store.commands import (
    A,
    AnyCommand,
    ClaimCommand,
    QueuedLedger,
    RenewCommand,
    Reply,
    pending,
    refuse,
    resolve,
    take,
)
from consumer.store.ledger import Standby, StoredLetter, WaitingLetters
from consumer.store.rows import SCHEMA_REVISION
from consumer.store.sqlite.access import access_refusal
from consumer.store.sqlite.database import connect, explain, is_damage, spoils_connection
from consumer.store.sqlite.files import FileOwner, OpenFiles, make_folder
from consumer.store.sqlite.schema import prepare, remove_copies
from consumer.store.sqlite.statements import (
    SqliteStatements,
    UndoStartCommand,
    UpkeepCommand,
    count_waiting,
    hook_done,
    ping,
    prune,
    take_due_hooks,
)

_READS: Final = (ClaimCommand, RenewCommand)

Execute: TypeAlias = Callable[[sqlite3.Connection, Sequence[AnyCommand]], list[Reply]]


class SqliteLedger(QueuedLedger):
    """A ``Ledger`` in a file, made when missing, with its folder.

    Links are followed, so that a file is owned once under all its names.
    """

    def __init__(self, path: Path) -> None:
        self._path = Path(os.path.realpath(path))
        self._writer: WriterThread | None = None
        self._opening: WriterThread | None = None
        self._gathered: list[AnyCommand] = []

    async def open(self) -> None:
        """See ``Ledger.open``."""
        if self._writer is not None:
            return
        writer = self._opening = WriterThread(self._path, asyncio.get_running_loop())
        writer.start()
        try:
            await writer.opened
        except BaseException:
            # Either the thread has failed and ended, or this call is cancelled and the thread must end.
            writer.stop()
            raise
        finally:
            self._opening = None
        self._writer = writer
        writer.closed.add_done_callback(partial(self._fail_unanswered, writer))

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

    async def take_due_hooks(self, queue: str, *, limit: int, least_s: float, most_s: float) -> Sequence[StoredLetter]:
        """See ``Ledger.take_due_hooks``."""
        return await self._keep_up(lambda connection: take_due_hooks(connection, queue, limit, least_s, most_s))

    async def hook_done(self, letter_id: int) -> None:
        """See ``Ledger.hook_done``."""
        await self._keep_up(lambda connection: hook_done(connection, letter_id))

    async def prune(self, *, older_than_s: float, limit: int, letters_older_than_s: float | None = None) -> int:
        """See ``Ledger.prune``."""
        return await self._keep_up(lambda connection: prune(connection, older_than_s, limit, letters_older_than_s))

    async def waiting(self) -> Sequence[WaitingLetters]:
        """See ``Ledger.waiting``."""
        return await self._keep_up(count_waiting)

    async def ping(self) -> None:
        """See ``Ledger.ping``."""
        await self._keep_up(ping)

    async def now(self) -> float:
        """See ``Ledger.now``."""
        return time.time()

    def is_migrating(self) -> bool:
        """See ``Ledger.is_migrating``."""
        return self._opening is not None and self._opening.migrating

    def busy_s(self) -> float:
        """See ``Ledger.busy_s``."""
        since = None if self._writer is None else self._writer.busy_since
        return 0.0 if since is None else max(0.0, time.monotonic() - since)

    async def watch(self) -> None:
        """See ``Ledger.watch``."""
        if self._writer is not None:
            await asyncio.shield(self._writer.closed)

    def standby(self) -> Standby:
        """See ``Ledger.standby``."""
        if self._writer is None:
            raise self._not_open()
        return SqliteStandby(self._writer)

    async def _keep_up(self, work: Callable[[sqlite3.Connection], A]) -> A:
        return await self._ask(UpkeepCommand(None, pending(), work))

    def _not_open(self) -> StoreError:
        return StoreError(f"store {self._path} is not open")

    def _enqueue(self, command: AnyCommand) -> None:
        writer = self._writer
        if writer is None:
            raise self._not_open()
        if writer.closed.done():
            raise StoreError(f"store {self._path}: its writer thread has ended; restart the daemon")
        if not self._gathered:
            # At the end of this turn of the loop: its other commands share the batch and the wake-up.
            writer.loop.call_soon(self._flush)
        self._gathered.append(command)

    def _flush(self) -> None:
        if self._gathered and self._writer is not None:
            commands, self._gathered = self._gathered, []
            self._writer.put(commands)

    def _fail_unanswered(self, writer: WriterThread, closed: asyncio.Future[None]) -> None:
        """Fail the commands that a thread which has died left behind."""
        if (error := closed.exception()) is not None:
            commands = [*writer.unanswered(), *self._gathered]
            self._gathered = []
            resolve(refuse(commands, StoreError(*error.args)))


class SqliteStandby:
    """A ``Standby``: gives commands straight to the writer's thread, which works while the loop is blocked.

    No answer is awaited, and no claim can be lost: the file has one owner.
    """

    def __init__(self, writer: WriterThread) -> None:
        self._writer = writer

    async def renew(self, keys: Sequence[str], lease_s: float) -> Sequence[str]:
        """See ``Standby.renew``."""
        self._writer.put([RenewCommand(None, self._no_caller(), tuple(keys), lease_s)])
        return ()

    async def take_back_starts(self, keys: Sequence[str]) -> None:
        """See ``Standby.take_back_starts``."""
        self._writer.put([UndoStartCommand(key, self._no_caller()) for key in keys])

    async def close(self) -> None:
        """See ``Standby.close``."""

    def _no_caller(self) -> asyncio.Future[A]:
        """Where no caller waits."""
        future: asyncio.Future[A] = self._writer.loop.create_future()
        future.cancel()
        return future


class WriterThread:
    """The one thread that touches SQLite's file, from ``start`` to ``stop``; answers go to the event loop."""

    def __init__(self, path: Path, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.opened: asyncio.Future[None] = loop.create_future()
        self.closed: asyncio.Future[None] = loop.create_future()
        """Done when the thread has ended; a ``StoreDiedError`` after a fault."""
        self.busy_since: float | None = None
        """When the call in progress began, on the monotonic clock; ``None`` between calls."""
        self.migrating = False
        self._path = path
        self._owner = FileOwner(path)
        self._files = OpenFiles(path)
        self._statements = SqliteStatements()
        self._connection: sqlite3.Connection | None = None
        self._waiting: list[AnyCommand] = []
        self._inbox: SimpleQueue[list[AnyCommand] | None] = SimpleQueue()
        # A daemon thread: a process that exits without closing its store must not hang on it.
        self._thread = Thread(target=self._run, name="mns-consumer-store", daemon=True)

    def start(self) -> None:
        """Start the thread; ``opened`` has its result."""
        self._thread.start()

    def put(self, commands: list[AnyCommand]) -> None:
        """Add the commands of one turn of the loop."""
        self._inbox.put(commands)

    def stop(self) -> None:
        """End after everything that was put before; ``closed`` has the result."""
        self._inbox.put(None)

    def join(self) -> None:
        """Wait for the thread's last instructions, once ``closed`` is done."""
        self._thread.join()

    def unanswered(self) -> list[AnyCommand]:
        """The commands that a thread which has died left unanswered."""
        while not self._inbox.empty():
            self._waiting.extend(self._inbox.get() or ())
        return self._waiting

    def _run(self) -> None:
        try:
            self._open()
        except BaseException as error:  # noqa: BLE001 - raised where open() waits
            self._owner.release()
            self._post(_finish, self.opened, error)
            return
        self._post(_finish, self.opened, None)
        died: StoreDiedError | None = None
        try:
            self._serve()
        except BaseException as error:  # noqa: BLE001 - the daemon must not wait for this thread forever
            died = StoreDiedError(f"store {self._path}: its writer thread ended by {error!r}; restart the daemon")
            died.__cause__ = error
        finally:
            self.busy_since = None
            try:
                self._disconnect()
            finally:
                self._owner.release()
                self._post(_finish, self.closed, died)

    def _open(self) -> None:
        if problem := access_refusal(self._path, by_owner=True):
            raise StoreUnsafeError(problem)
        try:
            make_folder(self._path.parent)
        except OSError as error:
            raise explain(self._path, error) from error
        self._files.own(self._owner.acquire())
        try:
            # Only where no ledger was: a file that is empty now has lost it.
            found = prepare(self._path, make=not self._owner.has_ledger, on_migration=self._migrates)
        finally:
            self.migrating = False
        self._owner.mark()
        self._connect()
        if found == SCHEMA_REVISION:
            remove_copies(self._path)

    def _migrates(self) -> None:
        self.migrating = True

    def _serve(self) -> None:
        waiting = self._waiting
        running = True
        while running or waiting:
            # With nothing to do wait for the next commands; otherwise take what is there.
            while running and (not waiting or not self._inbox.empty()):
                commands = self._inbox.get()
                running = commands is not None
                waiting.extend(commands or ())
            batch, later = take(waiting)
            self._execute_batch(batch)
            waiting[:] = later

    def _execute_batch(self, batch: Sequence[AnyCommand]) -> None:
        reads, writes, upkeep = [], [], []
        for command in batch:
            if isinstance(command, _READS):
                reads.append(command)
            elif isinstance(command, UpkeepCommand):
                upkeep.append([command])
            else:
                writes.append(command)
        statements = self._statements
        steps: list[tuple[Execute, Sequence[AnyCommand]]] = [
            (statements.read, reads),
            (statements.write, writes),
            *((statements.keep_up, one) for one in upkeep),
        ]
        for execute, commands in steps:
            if commands:
                self.busy_since = time.monotonic()
                replies = self._execute(execute, commands)
                self.busy_since = None
                self._post(resolve, replies)

    def _execute(self, execute: Execute, commands: Sequence[AnyCommand]) -> list[Reply]:
        try:
            return execute(self._connect(), commands)
        except Exception as error:  # noqa: BLE001 - a value that SQLite can't take must not end the thread
            if len(commands) == 1 or _is_about_all(error):
                return refuse(commands, self._explained(error, commands[0]))
        # Nothing is written yet. One by one, only the faulty command fails.
        return [reply for command in commands for reply in self._execute(execute, [command])]

    def _explained(self, error: Exception, command: AnyCommand) -> StoreError:
        if isinstance(error, sqlite3.Error):
            if spoils_connection(error):
                self._disconnect()
            # Writes into a damaged table would spread it. Old rows that can't be pruned keep no job from ending.
            if is_damage(error) and not isinstance(command, UpkeepCommand):
                self._files.distrust()
            return explain(self._path, error)
        if isinstance(error, StoreError):
            return error
        return StoreError(f"store {self._path}: {command.name} of {command.key!r} can't be written: {error!r}")

    def _connect(self) -> sqlite3.Connection:
        # Without a connection SQLite has removed the companions itself: then only the database is checked.
        if problem := self._files.problem():
            raise StoreError(
                f"store {self._path}: {problem} while the daemon used it; nothing is written until the same file is"
                " back as it was; to go on with what is there instead, restart the daemon"
            )
        self._owner.check()
        if self._connection is None:
            self._connection = connect(self._path)
            try:
                # The log and its index are made when they are first read.
                self._connection.execute("SELECT 1 FROM revision").fetchone()
                self._files.learn()
            except (OSError, sqlite3.Error) as error:
                self._disconnect()
                raise explain(self._path, error) from error
            except BaseException:
                self._disconnect()
                raise
        return self._connection

    def _disconnect(self) -> None:
        if self._connection is None:
            return
        if self._files.may_be_closed():
            # What was answered is in the write-ahead log; a failing last checkpoint loses nothing.
            with suppress(sqlite3.Error):
                self._connection.close()
            self._files.forget()
        else:
            # SQLite would remove other files of its companions' names, and has no way not to. So the connection is
            # never closed, neither here nor when the interpreter ends.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._connection))
            self._files.keep()
        self._connection = None

    def _post(self, function: Callable[..., None], *arguments: object) -> None:
        # The loop may be closed when a process ends without closing its store; then no caller waits.
        with suppress(RuntimeError):
            self.loop.call_soon_threadsafe(function, *arguments)


def _is_about_all(error: Exception) -> bool:
    """Whether an error is about the store; other errors are about one command's value."""
    # DatabaseError itself means a damaged file.
    return type(error) is sqlite3.DatabaseError or isinstance(
        error, StoreError | sqlite3.OperationalError | sqlite3.InternalError
    )


def _finish(future: asyncio.Future[None], error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)
