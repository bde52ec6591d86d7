"""Open the operators' side of the store, and walk over its dead letters, missing none while others go.

The store gives pages by position, and positions move when a running daemon prunes. So each page begins at the
last letter seen before: where that one has moved, the walk steps back until it is behind it again.

Elsewhere: the pages (``store.dead_letters``).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from consumer.store.dead_letters import Operators, StoredLetter
from consumer.store.ledger import Filter
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


async def walk_letters(
    operators: Operators, wanted: Filter, *, skip: int = 0, page: int = _PAGE
) -> AsyncIterator[StoredLetter]:
    """Give each dead letter that matches once, in the order of their numbers.

    Args:
        operators: The store.
        wanted: Which ones.
        skip: How many of the first ones to leave out.
        page: How many are asked for at once; a body may have 64 KB.
    """
    last_id, at = 0, skip
    while True:
        begin = max(0, at - 1) if last_id else at
        letters = await operators.list_letters(wanted, limit=page + 1, offset=begin)
        if last_id and begin and (not letters or letters[0].id > last_id):
            # Letters before this page have gone, so some behind the last one seen may now lie before it.
            at = max(0, begin - page)
            continue
        for stored in letters:
            if stored.id > last_id:
                last_id = stored.id
                yield stored
        at = begin + len(letters)
        if len(letters) <= page:
            return
