"""A way to carry out statements beside a running daemon, on either engine; each engine's ``database`` implements it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Session(Protocol):
    """A connection, perhaps in a transaction."""

    async def fetch(self, statement: str, values: Sequence[object]) -> Sequence[Sequence[Any]]:
        """The rows of a query.

        Raises:
            StoreError: It took too long and was stopped.
        """

    async def execute(self, statement: str, values: Sequence[object]) -> int:
        """The number of rows that a statement has changed."""

    async def now(self) -> float:
        """UNIX seconds by the store's clock."""


class Database(Protocol):
    """An engine's way to run work in a session."""

    async def run(self, work: Callable[[Session], Awaitable[T]], *, atomic: bool = False) -> T:
        """Run the work, in one transaction if ``atomic``. It may run a second time when a connection is lost.

        Raises:
            StoreError: The store can't be reached or refuses.
        """

    async def close(self) -> None:
        """Close what is open."""
