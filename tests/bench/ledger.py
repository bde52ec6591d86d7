"""CPU time a message with 5,000,000 ended jobs in the SQLite ledger, and with 10,000, while it is pruned.

Both ledgers are filled by SQL. In each the same number of the oldest rows is past its retention, so both daemons
prune the same; only the sizes of the tables differ. A daemon prunes for the first time one minute after its start:
the load begins shortly before that.
"""

from __future__ import annotations

import shutil
import sqlite3
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from consumer.store.rows import JOB_COLUMNS_SQL
from consumer.store.sqlite.database import connect
from tests.bench.contestants import SQLITE, Rig, started
from tests.bench.measurements import Measurements
from tests.bench.messages import user_data
from tests.bench.process import BenchError, NotHereError
from tests.stores import new_file

PART: Final = "ledger"
LARGE: Final = 5_000_000
SMALL: Final = 10_000
_OLD: Final = 5_000
_OLD_S: Final = 15 * 86_400
"""Older than the daemon's default, 14 days."""
_ROW_BYTES: Final = 800
"""More than a row takes, index and log included."""
_LOAD_AT_S: Final = 57.0
_REFILLED: Final = 500_000
_CACHE_KIB: Final = 512 * 1024
_AT_ONCE: Final = 100_000

# Keys and hashes are random and as long as real ones, and none belongs to a job of the run.
_FILL: Final = f"""
WITH RECURSIVE number (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < :rows)
INSERT INTO job (key_hash, dead, holder, stored_at, {JOB_COLUMNS_SQL})
SELECT random(), 0, '0123456789abcdef', :now,
  '1234567890123456/cn-hangzhou/bench-1|IProduction|' || lower(hex(randomblob(16))),
  'bench', 'IProduction', 'Cover', hex(randomblob(16)), lower(hex(randomblob(16))),
  'Success', 'Success', '', :user_data, NULL, 1, :now, :now, :now FROM number
"""  # noqa: S608 - constants only
_AGE: Final = "UPDATE job SET stored_at = :then WHERE id IN (SELECT id FROM job ORDER BY id LIMIT :rows)"
_COUNT_OLD: Final = "SELECT count(*) FROM (SELECT stored_at FROM job ORDER BY id LIMIT :rows) WHERE stored_at <= :then"


@dataclass(frozen=True, slots=True)
class Load:
    """The messages that are put into the queue while the ledger is pruned, and the most time that they take."""

    messages: int
    seconds: float


def contestant_of(jobs: int) -> str:
    """The name of the contestant with that ledger."""
    return f"{SQLITE} with {jobs} jobs"


def measure_in_turn(
    rig: Rig, load: Load, rounds: int, measurements: Measurements, sizes: tuple[int, int] = (SMALL, LARGE)
) -> None:
    """Measure A B A B ...

    Raises:
        NotHereError: The disk is too full.
        BenchError: As ``contestants.started``; or pruning did not finish during the load.
    """
    free_bytes = shutil.disk_usage(rig.folder).free
    if free_bytes < max(sizes) * _ROW_BYTES * 2:
        raise NotHereError(f"a ledger of {max(sizes)} jobs needs {max(sizes) * _ROW_BYTES * 2 >> 30} GiB free")
    ledgers = {jobs: rig.folder / f"ledger-{jobs}.db" for jobs in sizes}
    try:
        for _ in range(rounds):
            for jobs, path in ledgers.items():
                # What a run adds is little in a large ledger, but would soon be most of a small one.
                if jobs <= _REFILLED or not path.exists():
                    _remove(path)
                    fill(path, jobs)
                _measure(rig, path, jobs, load, measurements)
    finally:
        for path in ledgers.values():
            _remove(path)


def fill(path: Path, jobs: int) -> None:
    """Make a ledger with that number of ended jobs."""
    values = {"now": time.time(), "user_data": user_data(7)}
    with closing(new_file(path)) as connection:
        # If this is cut off, it is begun anew.
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        # The index is built at the end: row by row it would take hours.
        ((index,),) = connection.execute("SELECT sql FROM sqlite_schema WHERE name = 'job_key'").fetchall()
        connection.execute("DROP INDEX job_key")
        for first in range(0, jobs, _AT_ONCE):
            connection.execute(_FILL, {**values, "rows": min(_AT_ONCE, jobs - first)})
        connection.execute(index)
        connection.execute("PRAGMA wal_checkpoint (TRUNCATE)")


def _measure(rig: Rig, path: Path, jobs: int, load: Load, measurements: Measurements) -> None:
    then = time.time() - _OLD_S
    with closing(connect(path)) as connection:
        connection.execute(_AGE, {"then": then, "rows": _OLD})
    with rig.run(store=path) as run, started(SQLITE, run) as contestant:
        contestant.wait()
        time.sleep(max(0.0, contestant.process.began_at_s + _LOAD_AT_S - time.monotonic()))
        cpu_before_s = contestant.process.cpu_s
        filled = rig.server.ask("fill", queue=run.queue, count=load.messages)
        end = rig.server.ask("emptied", queue=run.queue, within_s=load.seconds)
        cpu_s = contestant.process.cpu_s - cpu_before_s
    with closing(sqlite3.connect(path)) as connection:
        old = connection.execute(_COUNT_OLD, {"then": then, "rows": _OLD}).fetchone()[0]
    if old:
        raise BenchError(f"{old} of {_OLD} old jobs were still in the ledger of {jobs}: too little load to measure")
    messages = load.messages - end.answer["left"]
    measurements.add(
        PART,
        contestant_of(jobs),
        messages_per_s=messages / (end.at_s - filled.at_s),
        cpu_us_per_message=1e6 * cpu_s / max(messages, 1),
    )


def _remove(path: Path) -> None:
    """Delete a ledger with its log and its lock."""
    for name in path.parent.glob(f"{path.name}*"):
        name.unlink()
