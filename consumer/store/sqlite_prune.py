"""Forget on SQLite what is old, a small step at a time, from the old end of each table.

Rows are added in the order of time, so the oldest are those with the smallest numbers: no index by time is
needed, and looking costs as much with ten rows as with five million.
"""

from __future__ import annotations

import sqlite3
import time
from typing import Final

from consumer.store.batch import Ages

_JOBS: Final = "DELETE FROM job WHERE id IN (SELECT id FROM job ORDER BY id LIMIT ?) AND stored_at <= ?"
_ATTEMPTS: Final = "DELETE FROM attempt WHERE key IN (SELECT key FROM attempt WHERE stored_at <= ?2 LIMIT ?1)"
_REPLAYED: Final = (
    "DELETE FROM letter WHERE id IN"
    " (SELECT id FROM letter WHERE replay = 'replayed' AND replayed_at <= ?2 ORDER BY replayed_at LIMIT ?1)"
)
_LETTERS: Final = "DELETE FROM letter WHERE id IN (SELECT id FROM letter ORDER BY id LIMIT ?) AND stored_at <= ?"
_STEPS: Final = ((_JOBS, False), (_ATTEMPTS, False), (_REPLAYED, False), (_LETTERS, True))
"""What goes, and whether it goes by the letters' age."""


def prune(connection: sqlite3.Connection, ages: Ages) -> int:
    """One step; returns how many rows went, at most ``ages.limit``."""
    now = time.time()
    gone = 0
    for statement, by_letters_age in _STEPS:
        age_s = ages.letters_older_than_s if by_letters_age else ages.older_than_s
        if age_s is not None and gone < ages.limit:
            gone += connection.execute(statement, (ages.limit - gone, now - age_s)).rowcount
    return gone
