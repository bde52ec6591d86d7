"""Calls of the ledger as commands that wait for a shared transaction: what both engines have in common.

A command is one call; the type of its answer is its parameter. An engine makes a reply of each answer, and carries the
replies out once their transaction is committed. The rule that keeps the calls about one key in order: a transaction
holds a key at most once, and a second command about the key waits for the next transaction.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from asyncio import Future, get_running_loop
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, Generic, TypeAlias, TypeVar

from consumer.errors import StoreError
from consumer.store.ledger import ClaimAnswer, DeadLetterRecord, JobRecord, RunRecord, Standby

MAX_BATCH: Final = 256  # commands in one transaction: more save nothing, and each would wait longer

A = TypeVar("A")
C = TypeVar("C", bound="AnyCommand")

Reply: TypeAlias = Callable[[], None]
"""Passes an answer or an error on to a caller that still waits; called in the thread of its event loop."""


@dataclass(frozen=True, slots=True, eq=False)
class AnyCommand(ABC):
    """One call, whatever its answer is."""

    key: str | None  # the one key that the command is about; ``None`` for several or none

    @property
    def name(self) -> str:
        """The call as errors name it."""
        return re.sub(r"\B(?=[A-Z])", "_", type(self).__name__.removesuffix("Command")).lower()

    @abstractmethod
    def refused(self, error: StoreError) -> Reply:
        """The reply that raises an error of this command's own: a shared one would collect all callers' tracebacks."""


@dataclass(frozen=True, slots=True, eq=False)
class Command(AnyCommand, Generic[A]):
    """One call, and the type of its answer."""

    future: Future[A]  # where its caller waits; done when no caller does

    def answered(self, answer: A) -> Reply:
        """The reply with its answer."""
        return partial(_answer, self.future, answer)

    def refused(self, error: StoreError) -> Reply:
        """See ``AnyCommand.refused``."""
        return partial(_raise, self.future, type(error)(*error.args))


@dataclass(frozen=True, slots=True, eq=False)
class KeyedCommand(Command[A]):
    """A command about one key."""

    key: str


@dataclass(frozen=True, slots=True, eq=False)
class ClaimCommand(KeyedCommand[ClaimAnswer]):
    """See ``Ledger.claim``."""

    lease_s: float


@dataclass(frozen=True, slots=True, eq=False)
class RenewCommand(Command[Sequence[str]]):
    """See ``Ledger.renew``."""

    keys: Sequence[str]
    lease_s: float


@dataclass(frozen=True, slots=True, eq=False)
class StartCommand(KeyedCommand[int]):
    """See ``Ledger.start``."""


@dataclass(frozen=True, slots=True, eq=False)
class DoneCommand(KeyedCommand[bool]):
    """See ``Ledger.done``."""

    record: JobRecord


@dataclass(frozen=True, slots=True, eq=False)
class EndRunCommand(KeyedCommand[int]):
    """See ``Ledger.fail``, and ``Ledger.release`` of a run, which is not counted."""

    run: RunRecord
    is_counted: bool


@dataclass(frozen=True, slots=True, eq=False)
class ReleaseCommand(KeyedCommand[None]):
    """See ``Ledger.release``, without a run."""


@dataclass(frozen=True, slots=True, eq=False)
class SetAsideCommand(KeyedCommand[bool]):
    """See ``Ledger.set_aside``."""

    letter: DeadLetterRecord


def take(
    waiting: Sequence[AnyCommand],
    busy_keys: Container[str] = (),
    busy_kinds: Container[type[AnyCommand]] = (),
) -> tuple[list[AnyCommand], list[AnyCommand]]:
    """Split the waiting commands, oldest first, into one batch without a key twice, and the rest, both in order.

    Args:
        waiting: The commands.
        busy_keys: Keys of transactions in progress.
        busy_kinds: Commands that can't be executed now.
    """
    batch: list[AnyCommand] = []
    later: list[AnyCommand] = []
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


def only(kind: type[C], commands: Sequence[AnyCommand]) -> list[C]:
    """The commands of one kind."""
    return [command for command in commands if isinstance(command, kind)]


def refuse(commands: Iterable[AnyCommand], error: StoreError) -> list[Reply]:
    """The replies that let commands fail."""
    return [command.refused(error) for command in commands]


def resolve(replies: Iterable[Reply]) -> None:
    """Carry replies out; runs in the thread of their event loop."""
    for reply in replies:
        reply()


def _answer(future: Future[A], answer: A) -> None:
    if not future.done():
        future.set_result(answer)


def _raise(future: Future[A], error: StoreError) -> None:
    if not future.done():
        future.set_exception(error)


def pending() -> Future[A]:
    """Where a caller of the running event loop waits."""
    return get_running_loop().create_future()


class QueuedLedger(ABC):
    """The calls of a ``Ledger`` as commands. An engine adds ``open``, ``close`` and the queue."""

    @abstractmethod
    def _enqueue(self, command: AnyCommand) -> None:
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
        return await self._ask(ClaimCommand(key, pending(), lease_s))

    async def renew(self, keys: Sequence[str], lease_s: float) -> Sequence[str]:
        """See ``Ledger.renew``."""
        _check_lease(lease_s)
        return await self._ask(RenewCommand(None, pending(), tuple(keys), lease_s))

    async def start(self, key: str) -> int:
        """See ``Ledger.start``."""
        return await self._ask(StartCommand(key, pending()))

    async def done(self, record: JobRecord) -> bool:
        """See ``Ledger.done``."""
        return await self._ask(DoneCommand(record.key, pending(), record))

    async def fail(self, run: RunRecord) -> int:
        """See ``Ledger.fail``."""
        return await self._ask(EndRunCommand(run.key, pending(), run, is_counted=True))

    async def release(self, key: str, run: RunRecord | None = None) -> None:
        """See ``Ledger.release``."""
        if run is None:
            await self._ask(ReleaseCommand(key, pending()))
        else:
            await self._ask(EndRunCommand(key, pending(), run, is_counted=False))

    async def set_aside(self, letter: DeadLetterRecord) -> bool:
        """See ``Ledger.set_aside``."""
        return await self._ask(SetAsideCommand(letter.job.key, pending(), letter))

    def is_migrating(self) -> bool:
        """See ``Ledger.is_migrating``."""
        return False

    def busy_s(self) -> float:
        """See ``Ledger.busy_s``."""
        return 0.0

    async def watch(self) -> None:
        """See ``Ledger.watch``."""
        await get_running_loop().create_future()

    def _ask(self, command: Command[A]) -> Future[A]:
        self._enqueue(command)
        return command.future


def _check_lease(lease_s: float) -> None:
    # PostgreSQL has no such interval, and SQLite would keep the claim forever.
    if not (math.isfinite(lease_s) and lease_s > 0):
        raise ValueError(f"lease_s is {lease_s!r}, expected a finite number of seconds above 0")
