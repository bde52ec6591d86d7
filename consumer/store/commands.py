"""Calls of the ledger as commands that wait for a shared transaction: what both engines have in common.

A command is one call; the type of its answer is its parameter. The rule that keeps the calls about one key in order:
a transaction holds a key at most once, and a second command about the key waits for the next transaction.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from asyncio import Future, get_running_loop
from collections.abc import Container, Sequence
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar, cast

from consumer.errors import StoreError
from consumer.store.ledger import ClaimAnswer, DeadLetterRecord, JobRecord, Standby, WaitingLetters

MAX_BATCH: Final = 256  # commands in one transaction: more save nothing, and each would wait longer

# Covariant, so that a queue of ``Command[object]`` takes every command.
A_co = TypeVar("A_co", covariant=True)
C = TypeVar("C", bound="Command[object]")


@dataclass(slots=True, eq=False)
class Command(Generic[A_co]):
    """One call. An engine sets ``answer`` or ``error``; ``resolve`` passes it on to the caller."""

    future: Future[A_co] | None = field(init=False, default=None)
    """Where the caller waits, perhaps cancelled; ``None`` when no caller waits."""
    answer: A_co = field(init=False, default=cast("A_co", None))
    error: StoreError | None = field(init=False, default=None)
    key: str | None  # the one key that the command is about; ``None`` for several or none

    @property
    def name(self) -> str:
        """The call as errors name it."""
        return type(self).__name__.removesuffix("Command").lower()


@dataclass(slots=True, eq=False)
class KeyedCommand(Command[A_co]):
    """A command about one key."""

    key: str


@dataclass(slots=True, eq=False)
class UnkeyedCommand(Command[A_co]):
    """A command about several keys or none."""

    key: None = field(init=False, default=None)


@dataclass(slots=True, eq=False)
class ClaimCommand(KeyedCommand[ClaimAnswer]):
    """See ``Ledger.claim``."""

    lease_s: float


@dataclass(slots=True, eq=False)
class RenewCommand(UnkeyedCommand[Sequence[str]]):
    """See ``Ledger.renew``."""

    keys: Sequence[str]
    lease_s: float


@dataclass(slots=True, eq=False)
class StartCommand(KeyedCommand[int]):
    """See ``Ledger.start``."""


@dataclass(slots=True, eq=False)
class UndoStartCommand(KeyedCommand[None]):
    """See ``Standby.take_back_starts``."""


@dataclass(slots=True, eq=False)
class DoneCommand(KeyedCommand[bool]):
    """See ``Ledger.done``."""

    record: JobRecord


@dataclass(slots=True, eq=False)
class FailCommand(KeyedCommand[int]):
    """See ``Ledger.fail``."""

    failure: str


@dataclass(slots=True, eq=False)
class ReleaseCommand(KeyedCommand[None]):
    """See ``Ledger.release``."""


@dataclass(slots=True, eq=False)
class SetAsideCommand(KeyedCommand[bool]):
    """See ``Ledger.set_aside``."""

    letter: DeadLetterRecord


@dataclass(slots=True, eq=False)
class PruneCommand(UnkeyedCommand[int]):
    """See ``Ledger.prune``."""

    older_than_s: float
    limit: int
    letters_older_than_s: float | None


@dataclass(slots=True, eq=False)
class WaitingCommand(UnkeyedCommand[Sequence[WaitingLetters]]):
    """See ``Ledger.waiting``."""


@dataclass(slots=True, eq=False)
class NowCommand(UnkeyedCommand[float]):
    """See ``Ledger.now``."""


@dataclass(slots=True, eq=False)
class PingCommand(UnkeyedCommand[None]):
    """See ``Ledger.ping``."""


def take(
    waiting: Sequence[Command[object]],
    busy_keys: Container[str] = (),
    busy_kinds: Container[type[Command[object]]] = (),
) -> tuple[list[Command[object]], list[Command[object]]]:
    """Split the waiting commands, oldest first, into one batch without a key twice, and the rest, both in order.

    Args:
        waiting: The commands.
        busy_keys: Keys of transactions in progress.
        busy_kinds: Commands that can't be executed now.
    """
    batch: list[Command[object]] = []
    later: list[Command[object]] = []
    seen: set[str] = set()
    for command in waiting:
        key = command.key
        delayed = len(batch) >= MAX_BATCH or type(command) in busy_kinds
        if delayed or (key is not None and (key in seen or key in busy_keys)):
            later.append(command)
        else:
            batch.append(command)
        if key is not None:
            # Also a delayed one: no later command may overtake it.
            seen.add(key)
    return batch, later


def only(kind: type[C], commands: Sequence[Command[object]]) -> list[C]:
    """The commands of one kind."""
    return [command for command in commands if isinstance(command, kind)]


def refuse(commands: Sequence[Command[object]], error: StoreError) -> None:
    """Let commands fail, each with an error of its own: a shared one would collect the tracebacks of all callers."""
    for command in commands:
        command.error = type(error)(*error.args)


def resolve(commands: Sequence[Command[object]]) -> None:
    """Pass the answers on to the callers that still wait; runs in the thread of their event loop."""
    for command in commands:
        future = command.future
        if future is None or future.done():
            continue
        if command.error is not None:
            future.set_exception(command.error)
        else:
            future.set_result(command.answer)


class QueuedLedger(ABC):
    """The calls of a ``Ledger`` as commands. An engine adds ``open``, ``close`` and the queue."""

    @abstractmethod
    def _enqueue(self, command: Command[object]) -> None:
        """Add a command to the queue.

        Raises:
            StoreError: The store is not open.
        """

    @abstractmethod
    def standby(self) -> Standby:
        """See ``Ledger.standby``."""

    async def claim(self, key: str, lease_s: float) -> ClaimAnswer:
        """See ``Ledger.claim``."""
        _check_lease(lease_s)
        return await self._ask(ClaimCommand(key, lease_s))

    async def renew(self, keys: Sequence[str], lease_s: float) -> Sequence[str]:
        """See ``Ledger.renew``."""
        _check_lease(lease_s)
        return await self._ask(RenewCommand(tuple(keys), lease_s))

    async def start(self, key: str) -> int:
        """See ``Ledger.start``."""
        return await self._ask(StartCommand(key))

    async def done(self, record: JobRecord) -> bool:
        """See ``Ledger.done``."""
        return await self._ask(DoneCommand(record.key, record))

    async def fail(self, key: str, error: str) -> int:
        """See ``Ledger.fail``."""
        return await self._ask(FailCommand(key, error))

    async def release(self, key: str) -> None:
        """See ``Ledger.release``."""
        await self._ask(ReleaseCommand(key))

    async def set_aside(self, letter: DeadLetterRecord) -> bool:
        """See ``Ledger.set_aside``."""
        return await self._ask(SetAsideCommand(letter.job.key, letter))

    async def prune(self, *, older_than_s: float, limit: int, letters_older_than_s: float | None = None) -> int:
        """See ``Ledger.prune``."""
        return await self._ask(PruneCommand(older_than_s, limit, letters_older_than_s))

    async def waiting(self) -> Sequence[WaitingLetters]:
        """See ``Ledger.waiting``."""
        return await self._ask(WaitingCommand())

    async def now(self) -> float:
        """See ``Ledger.now``."""
        return await self._ask(NowCommand())

    async def ping(self) -> None:
        """See ``Ledger.ping``."""
        await self._ask(PingCommand())

    def is_migrating(self) -> bool:
        """See ``Ledger.is_migrating``."""
        return False

    def busy_s(self) -> float:
        """See ``Ledger.busy_s``."""
        return 0.0

    async def watch(self) -> None:
        """See ``Ledger.watch``."""
        await get_running_loop().create_future()

    def _ask(self, command: Command[A_co]) -> Future[A_co]:
        future: Future[A_co] = get_running_loop().create_future()
        command.future = future
        self._enqueue(command)
        return future


def _check_lease(lease_s: float) -> None:
    # PostgreSQL has no such interval, and SQLite would keep the claim forever.
    if not (math.isfinite(lease_s) and lease_s > 0):
        raise ValueError(f"lease_s is {lease_s!r}, expected a finite number of seconds above 0")
