"""Keep the claims of a ledger on PostgreSQL while its event loop is blocked, over a connection of its own.

The calls are carried out under the ledger's own holder. Nothing is changed there from this thread: what an answer says
of the claims is handed to the ledger's event loop, which takes it down when it runs again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from consumer.errors import StoreError
from consumer.store.batch import Answer, Call, Kind
from consumer.store.postgres_book import Book
from consumer.store.postgres_link import Link


class PostgresStandby:
    """A ``Standby``; belongs to the event loop that first uses it.

    Args:
        link: A connection that nothing else uses.
        book: The ledger's.
        loop: The ledger's.
    """

    def __init__(self, link: Link, book: Book, loop: asyncio.AbstractEventLoop) -> None:
        self._link = link
        self._book = book
        self._loop = loop

    async def renew(self, keys: Sequence[str], lease_s: float) -> Sequence[str]:
        """See ``Standby.renew``."""
        (answer,) = await self._carry_out(Kind.RENEW, [(None, (tuple(keys), lease_s))])
        # Closed: nobody is left who asks for claims.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._book.remember, [answer])
        gone: Sequence[str] = answer.result
        return gone

    async def take_back_starts(self, keys: Sequence[str]) -> None:
        """See ``Standby.take_back_starts``."""
        await self._carry_out(Kind.TAKE_BACK, [(key, None) for key in keys])

    async def close(self) -> None:
        """See ``Standby.close``."""
        await self._link.close()

    async def _carry_out(self, kind: Kind, about: Sequence[tuple[str | None, Any]]) -> list[Answer]:
        loop = asyncio.get_running_loop()
        calls = [Call(kind, key, value, loop.create_future()) for key, value in about]
        try:
            return await self._link.run(lambda connection: self._book.carry_out(connection, kind, calls))
        except RuntimeError as error:
            raise StoreError(f"store {self._link.address}: no connection could be made ({error})") from error
