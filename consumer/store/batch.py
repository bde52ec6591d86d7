"""Hold the calls that wait for a store, and say which of them may share one transaction.

Both engines answer many tasks at once from few transactions. The rule that keeps the calls about one key
in their order stands here: a transaction holds a key at most once; a second call about it waits for the next.

Elsewhere: carrying a batch out (``store.sqlite_book``, ``store.postgres``).
"""

from __future__ import annotations

from asyncio import Future
from collections.abc import Container, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

MAX_BATCH: Final = 256
"""Calls in one transaction: enough that their number no longer costs, few enough that none waits long."""


class Kind(StrEnum):
    """What is asked."""

    CLAIM = "claim"
    RENEW = "renew"
    START = "start"
    TAKE_BACK = "take back"
    """A start that was written down; the claim stays."""
    DONE = "done"
    FAIL = "fail"
    RELEASE = "release"
    BURY = "bury"
    PRUNE = "prune"
    LETTERS = "letters"
    PING = "ping"
    NOW = "now"


@dataclass(frozen=True, slots=True)
class Ages:
    """How old is old; as ``Ledger.prune`` is given it."""

    older_than_s: float
    limit: int
    letters_older_than_s: float | None


@dataclass(slots=True, eq=False)
class Call:
    """One call that waits.

    Args:
        kind: What is asked.
        key: The one key it is about; ``None`` when it is about several or none.
        value: The rest of what was given, by kind.
        answer: Where the caller waits; it may be cancelled, the call runs all the same.
    """

    kind: Kind
    key: str | None
    value: Any
    answer: Future[Any]


@dataclass(slots=True)  # not frozen: that costs 0.1 us a field, for every message
class Answer:
    """What came of one call.

    Args:
        call: The call.
        result: What it returns.
        error: What it raises instead.
    """

    call: Call
    result: Any = None
    error: BaseException | None = None


def take(
    waiting: Sequence[Call], busy_keys: Container[str] = (), busy_kinds: Container[Kind] = ()
) -> tuple[list[Call], list[Call]]:
    """Split what waits into what may run now and what must wait on.

    Args:
        waiting: The calls, oldest first.
        busy_keys: Keys that a transaction under way holds.
        busy_kinds: What can't be carried out just now.

    Returns:
        The calls of one batch, in order, no key twice; and the others, in order.
    """
    batch: list[Call] = []
    later: list[Call] = []
    seen: set[str] = set()
    for call in waiting:
        key = call.key
        held_up = len(batch) >= MAX_BATCH or call.kind in busy_kinds
        if held_up or (key is not None and (key in seen or key in busy_keys)):
            later.append(call)
        else:
            batch.append(call)
        if key is not None:
            # Also when it must wait: what comes after it may not overtake it.
            seen.add(key)
    return batch, later


def resolve(answers: Sequence[Answer]) -> None:
    """Hand answers to those who still wait for them; runs in the loop's own thread."""
    for answer in answers:
        future = answer.call.answer
        if future.done():
            continue
        if answer.error is not None:
            future.set_exception(answer.error)
        else:
            future.set_result(answer.result)
