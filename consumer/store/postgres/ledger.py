"""The ledger on PostgreSQL, for several daemons on one queue.

Commands gather while a statement is in progress and go out together. Two lanes have a connection each, so that claims
don't wait for ends. Upkeep has a third: nothing waits for it.

    claims   claim, renew, release
    ends     start, done, fail, release of a run, set_aside
    upkeep   prune, waiting, take_due_hooks, hook_done, ping, now
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import asyncpg

from consumer.errors import StoreError
from consumer.store.commands import (
    AnyCommand,
    ClaimCommand,
    DoneCommand,
    EndRunCommand,
    QueuedLedger,
    ReleaseCommand,
    RenewCommand,
    Reply,
    SetAsideCommand,
    StartCommand,
    refuse,
    resolve,
    take,
)
from consumer.store.ledger import Standby, StoredLetter, WaitingLetters
from consumer.store.postgres.connection import LOCK_TIMEOUT_S, PLANS, Link, RefusedError
from consumer.store.postgres.database import MAKE_SETTINGS, has_tables, make_tables
from consumer.store.postgres.statements import (
    HOOK_DONE,
    PING,
    PostgresStatements,
    ask_now,
    count_waiting,
    prune,
    take_due_hooks,
)
from consumer.store_address import PostgresAddress

T = TypeVar("T")

_SETTINGS: Final = {**PLANS, "lock_timeout": str(int(LOCK_TIMEOUT_S * 1000))}
_ALONE: Final = {"lock_timeout": "100"}
"""For a command that is tried alone, in milliseconds: it has waited in its batch already."""
_ALONE_S: Final = 8.0  # how long commands of a failed batch may fail one by one; then the others fail with them


@dataclass(slots=True, eq=False)
class _CommandLane:
    """Kinds of commands that share a connection, and so come one after another."""

    kinds: frozenset[type[AnyCommand]]
    link: Link
    busy: bool = False


class PostgresLedger(QueuedLedger):
    """A ``Ledger`` in a database."""

    def __init__(self, address: PostgresAddress) -> None:
        self._to = address
        self._address = str(address)
        self._statements = PostgresStatements()
        self._ends = Link(address, _SETTINGS)
        self._lanes = (
            _CommandLane(frozenset({ClaimCommand, RenewCommand, ReleaseCommand}), Link(address, _SETTINGS)),
            _CommandLane(frozenset({StartCommand, DoneCommand, EndRunCommand, SetAsideCommand}), self._ends),
        )
        self._upkeep = Link(address, _SETTINGS)
        self._loop: asyncio.AbstractEventLoop | None = None
        """``None`` while the store is not open."""
        self._waiting: list[AnyCommand] = []
        self._busy_keys: set[str] = set()
        self._scheduled = False
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """See ``Ledger.open``."""
        if self._loop is not None:
            return
        try:
            if not await self._ends.run(lambda connection: has_tables(connection, self._address)):
                await self._ends.run(lambda connection: make_tables(connection, self._address), settings=MAKE_SETTINGS)
        except BaseException:
            await self._ends.close()
            raise
        self._loop = asyncio.get_running_loop()

    async def close(self) -> None:
        """See ``Ledger.close``."""
        if self._loop is None:
            return
        self._dispatch()
        self._loop = None
        while self._tasks:
            # Not gather(): a cancelled caller must not cancel the writes.
            await asyncio.wait(self._tasks)
        for link in (*(lane.link for lane in self._lanes), self._upkeep):
            await link.close()

    def standby(self) -> Standby:
        """See ``Ledger.standby``."""
        self._open_loop()
        return PostgresStandby(Link(self._to, _SETTINGS), self._statements)

    async def take_due_hooks(self, queue: str, *, limit: int, least_s: float, most_s: float) -> Sequence[StoredLetter]:
        """See ``Ledger.take_due_hooks``."""
        return await self._keep_up(lambda connection: take_due_hooks(connection, queue, limit, least_s, most_s))

    async def hook_done(self, letter_id: int) -> None:
        """See ``Ledger.hook_done``."""
        await self._keep_up(lambda connection: connection.execute(HOOK_DONE, letter_id))

    async def prune(self, *, older_than_s: float, limit: int, letters_older_than_s: float | None = None) -> int:
        """See ``Ledger.prune``."""
        return await self._keep_up(lambda connection: prune(connection, older_than_s, limit, letters_older_than_s))

    async def waiting(self) -> Sequence[WaitingLetters]:
        """See ``Ledger.waiting``."""
        return await self._keep_up(count_waiting)

    async def now(self) -> float:
        """See ``Ledger.now``."""
        return await self._keep_up(ask_now)

    async def ping(self) -> None:
        """See ``Ledger.ping``."""
        await self._keep_up(lambda connection: connection.execute(PING))

    async def _keep_up(self, work: Callable[[asyncpg.Connection], Awaitable[T]]) -> T:
        self._open_loop()
        return await self._upkeep.run(work)

    def _open_loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            raise StoreError(f"store {self._address} is not open")
        return self._loop

    def _enqueue(self, command: AnyCommand) -> None:
        loop = self._open_loop()
        self._waiting.append(command)
        if not self._scheduled:
            # At the end of this turn of the loop: its other commands share the statement.
            self._scheduled = True
            loop.call_soon(self._dispatch)

    def _dispatch(self) -> None:
        """Start what may start now, a batch for each lane."""
        self._scheduled = False
        busy_kinds = {kind for lane in self._lanes if lane.busy for kind in lane.kinds}
        batch, self._waiting = take(self._waiting, self._busy_keys, busy_kinds)
        for lane in self._lanes:
            commands = [command for command in batch if type(command) in lane.kinds]
            if commands:
                lane.busy = True
                self._busy_keys.update(_keys_of(commands))
                # A task of its own: a cancelled caller harms neither its command nor the others.
                task = asyncio.get_running_loop().create_task(self._execute_batch(lane, commands))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _execute_batch(self, lane: _CommandLane, commands: Sequence[AnyCommand]) -> None:
        """Execute one lane's batch, kind by kind."""
        by_kind: defaultdict[type[AnyCommand], list[AnyCommand]] = defaultdict(list)
        for command in commands:
            by_kind[type(command)].append(command)
        # Each key is freed once: another lane may have it the next moment.
        busy = _keys_of(commands)
        try:
            for some in by_kind.values():
                resolve(await self._execute(lane, some))
                freed = busy & _keys_of(some)
                busy -= freed
                self._busy_keys -= freed
        except BaseException:
            # An event loop that is being torn down.
            resolve(refuse(commands, StoreError(f"store {self._address} was closed")))
            raise
        finally:
            self._busy_keys -= busy
            lane.busy = False
            if self._waiting:
                self._dispatch()

    async def _execute(self, lane: _CommandLane, commands: Sequence[AnyCommand]) -> list[Reply]:
        try:
            return await self._try(lane, commands)
        except RefusedError as error:
            if len(commands) == 1:
                return [_blame(commands[0], error)]
            # Nothing was written. One by one, only the faulty command fails.
            return await self._execute_one_by_one(lane, commands, error)
        except StoreError as error:
            return refuse(commands, error)

    async def _execute_one_by_one(
        self, lane: _CommandLane, commands: Sequence[AnyCommand], error: StoreError
    ) -> list[Reply]:
        replies: list[Reply] = []
        failing_s = 0.0
        for command in commands:
            if failing_s >= _ALONE_S:
                replies.append(command.refused(error))
                continue
            started_at = time.monotonic()
            try:
                replies += await self._try(lane, [command], alone=True)
            except StoreError as its_own:
                replies.append(_blame(command, its_own))
                failing_s += time.monotonic() - started_at
        return replies

    async def _try(self, lane: _CommandLane, commands: Sequence[AnyCommand], *, alone: bool = False) -> list[Reply]:
        try:
            return await lane.link.run(
                lambda connection: self._statements.execute(connection, commands), settings=_ALONE if alone else {}
            )
        except StoreError:
            raise
        except Exception as error:  # a value that can't be sent counts as refused by the server
            raise RefusedError(f"store {self._address}: it can't be written ({error!r})") from error


class PostgresStandby:
    """A ``Standby`` with a connection of its own; belongs to the event loop that first uses it.

    The commands are those of the ledger's holder. The ledger learns of a lost claim by its own next renewal.
    """

    def __init__(self, link: Link, statements: PostgresStatements) -> None:
        self._link = link
        self._statements = statements

    async def renew(self, keys: Sequence[str], lease_s: float) -> Sequence[str]:
        """See ``Standby.renew``."""
        leases = dict.fromkeys(keys, lease_s)
        return list(await self._run(lambda connection: self._statements.renew(connection, leases)))

    async def take_back_starts(self, keys: Sequence[str]) -> None:
        """See ``Standby.take_back_starts``."""
        if keys:
            await self._run(lambda connection: self._statements.undo_starts(connection, keys))

    async def close(self) -> None:
        """See ``Standby.close``."""
        await self._link.close()

    async def _run(self, work: Callable[[asyncpg.Connection], Awaitable[T]]) -> T:
        try:
            return await self._link.run(work)
        except RuntimeError as error:
            raise StoreError(f"store {self._link.address}: no connection could be made ({error})") from error


def _keys_of(commands: Sequence[AnyCommand]) -> set[str]:
    return {command.key for command in commands if command.key is not None}


def _blame(command: AnyCommand, error: StoreError) -> Reply:
    about = ", ".join(command.keys) if isinstance(command, RenewCommand) else command.key
    return command.refused(type(error)(f"{error}; met by {command.name} of {about!r}"))
