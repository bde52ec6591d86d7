"""Open the operators' side of the store, and walk over its dead letters page by page.

Elsewhere: the pages (``store.queries``).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from consumer.store.ledger import Filter
from consumer.store.queries import Operators, StoredLetter
from consumer.store_address import StoreAddress

_PAGE: Final = 100


@asynccontextmanager
async def open_operators(target: StoreAddress | str) -> AsyncIterator[Operators]:
    """The operators' side of a store; its connections end with the block.

    Args:
        target: The setting ``store``, or its text.

    Raises:
        SettingsError: It names no store.
    """
    from consumer.store.open import make_operators  # noqa: PLC0415 - quick --help

    operators = make_operators(target)
    try:
        yield operators
    finally:
        await operators.close()


async def walk_letters(operators: Operators, wanted: Filter, *, page: int = _PAGE) -> AsyncIterator[StoredLetter]:
    """Give each dead letter that matches once, in the order of their numbers.

    Args:
        operators: The store.
        wanted: Which ones.
        page: How many are read at once; a body may have 64 KB.
    """
    after: int | None = None
    while letters := await operators.list_letters(wanted, limit=page, after=after):
        for stored in letters:
            yield stored
        after = letters[-1].id


async def latest_letters(operators: Operators, wanted: Filter, limit: int) -> AsyncIterator[StoredLetter]:
    """Give the latest ``limit`` dead letters that match, the latest first."""
    after, left = None, limit
    while left and (
        letters := await operators.list_letters(wanted, limit=min(_PAGE, left), after=after, latest_first=True)
    ):
        for stored in letters:
            yield stored
        after, left = letters[-1].id, left - len(letters)
