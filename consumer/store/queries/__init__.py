"""What operators ask of a store, by SQLAlchemy, once for both engines.

engine      what differs between the engines
reader      jobs and dead letters: filters, pages, counts, groups
operators   what changes dead letters: replay and purge
"""

from consumer.store.queries.engine import PostgresEngine, SqliteEngine
from consumer.store.queries.operators import Operators, replayed_already
from consumer.store.queries.reader import unknown_letter

__all__ = [
    "Operators",
    "PostgresEngine",
    "SqliteEngine",
    "replayed_already",
    "unknown_letter",
]
