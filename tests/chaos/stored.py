"""Read what a store holds with SQL of our own, so that the book does not rest on the daemon's own reading.

Elsewhere: what is compared with it (``book``).
"""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any, Final

import anyio.to_thread
import asyncpg


@dataclass(frozen=True, slots=True)
class Ended:
    """A job whose end is written down.

    Args:
        dead: Whether it ended as a dead letter.
        at: When, UNIX seconds.
    """

    dead: bool
    at: float


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter.

    Args:
        job: The job's id, or the message's where there is none.
        message_id: The message's.
        reason: Why.
        body: The bytes that were kept.
        at: When it was stored, UNIX seconds.
    """

    job: str
    message_id: str
    reason: str
    body: bytes
    at: float


@dataclass(frozen=True, slots=True)
class Stored:
    """Everything that a store held at one moment.

    Args:
        ended: Ended jobs.
        letters: Dead letters, in the order of their storing.
    """

    ended: Mapping[str, Ended]
    letters: Sequence[Letter]


_JOBS: Final = (
    "SELECT key, coalesce(job_id, message_id), dead, stored_at FROM {job} WHERE dead IS NOT NULL ORDER BY stored_at"
)
_LETTERS: Final = "SELECT coalesce(job_id, message_id), message_id, reason, body, stored_at FROM {letter} ORDER BY id"
_SQLITE: Final = {"job": "job", "letter": "letter"}
_POSTGRES: Final = {"job": "mns_consumer_job", "letter": "mns_consumer_letter"}


def _as_it_is(at: float) -> float:
    return at


async def read_store(store: str, true: Callable[[float], float] = _as_it_is) -> Stored:
    """Read a store: a file that no daemon has open, or a PostgreSQL database.

    Args:
        store: Its path or address.
        true: Makes the true time from the time that a daemon wrote into a file; PostgreSQL takes its own server's.
    """
    if "://" not in store:
        return await anyio.to_thread.run_sync(_read_file, Path(store), true)
    connection = await asyncpg.connect(store, timeout=5)
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            return _stored(
                await connection.fetch(_JOBS.format(**_POSTGRES)), await connection.fetch(_LETTERS.format(**_POSTGRES))
            )
    finally:
        await connection.close()


def _read_file(path: Path, true: Callable[[float], float]) -> Stored:
    # A copy: opening the file itself would recover it from the kill, which is the next daemon's task.
    with tempfile.TemporaryDirectory() as folder:
        for each in (path, path.with_name(path.name + "-wal")):
            if each.exists():
                shutil.copy(each, folder)
        with closing(sqlite3.connect(Path(folder) / path.name)) as connection:
            if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'letter'").fetchone():
                # Its daemon was killed before it had made its tables.
                return Stored({}, [])
            jobs = [(*rest, true(at)) for *rest, at in connection.execute(_JOBS.format(**_SQLITE))]
            letters = [(*rest, true(at)) for *rest, at in connection.execute(_LETTERS.format(**_SQLITE))]
            return _stored(sorted(jobs, key=itemgetter(-1)), letters)


def _stored(jobs: Sequence[Any], letters: Sequence[Any]) -> Stored:
    assert len({key for key, *_ in jobs}) == len(jobs), "a key has ended twice in the store"
    # Several messages of one job may have been set aside, each for itself: the last one counts.
    ended = {job: Ended(bool(dead), at) for _, job, dead, at in jobs}
    return Stored(
        ended, [Letter(job, message_id, reason, bytes(body), at) for job, message_id, reason, body, at in letters]
    )
