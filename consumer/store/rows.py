"""How records become rows, for both engines.

The columns, the hashes of keys, and text of a size and of characters that both can store. ``tables`` has the types.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from operator import attrgetter
from typing import Any, Final

from consumer.errors import NoStoreError, StoreError, StoreSchemaError
from consumer.policy import Reason
from consumer.store.ledger import (
    DeadLetterRecord,
    Ended,
    JobRecord,
    LetterState,
    RunRecord,
    StoredLetter,
    WaitingLetters,
)

SCHEMA_REVISION: Final = "0005"
"""The newest revision in ``migrations``: these are its tables."""
REVISION_TABLES: Final = {"sqlite": "revision", "postgresql": "mns_consumer_revision"}
"""By dialect, the table whose one row names the revision of the others."""

JOB_COLUMNS: Final = tuple(field.name for field in fields(JobRecord))
LETTER_COLUMNS: Final = tuple(field.name for field in fields(DeadLetterRecord) if field.name != "job")
JOB_COLUMNS_SQL: Final = ", ".join(JOB_COLUMNS)
LETTER_COLUMNS_SQL: Final = ", ".join(LETTER_COLUMNS)
STORED_LETTER_COLUMNS: Final = ("id", "replay", "stored_at", "replayed_at", *LETTER_COLUMNS, *JOB_COLUMNS)
"""Those of ``read_letter``."""
STORED_LETTER_COLUMNS_SQL: Final = ", ".join(STORED_LETTER_COLUMNS)
ENDED_COLUMNS: Final = tuple(field.name for field in fields(Ended))
ENDED_COLUMNS_SQL: Final = ", ".join(ENDED_COLUMNS)
RUN_COLUMNS: Final = tuple(field.name for field in fields(RunRecord))
OPEN_COLUMNS: Final = ("error", "function", "job_id", "retry_at", "trace_parent")
"""What the row of an open key says of its last run."""
RUNS_KEPT: Final = 20
"""The most runs that are stored of a key."""

job_values: Final[Callable[[JobRecord], tuple[object, ...]]] = attrgetter(*JOB_COLUMNS)
letter_values: Final[Callable[[DeadLetterRecord], tuple[object, ...]]] = attrgetter(*LETTER_COLUMNS)
run_values: Final[Callable[[RunRecord], tuple[object, ...]]] = attrgetter(*RUN_COLUMNS)
open_values: Final[Callable[[RunRecord], tuple[object, ...]]] = attrgetter(*OPEN_COLUMNS)

MAX_ERROR_BYTES: Final = 2 * 1024
MAX_TRACEBACK_BYTES: Final = 16 * 1024

_UNFIT: Final = re.compile("[\x00\ud800-\udfff]")
_CUT: Final = "\n[...]\n"
_TEXTS: Final = tuple(field.name for field in fields(JobRecord) if "str" in str(field.type) and field.name != "key")
_texts_of: Final[Callable[[JobRecord], tuple[str | None, ...]]] = attrgetter(*_TEXTS)


def key_hash(key: str) -> int:
    """A key's hash as SQLite's integers hold it: 64 bits, signed. Rows keep the whole key, so equal hashes are safe."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big", signed=True)


def key_id(key: str) -> bytes:
    """A key's hash as PostgreSQL holds it: 16 bytes, taken for the key."""
    return hashlib.blake2b(key.encode(), digest_size=16).digest()


def count_waiting_sql(letters: str) -> str:
    """The query of ``Ledger.waiting``, by the table's name."""
    return f"""SELECT queue, reason, count(*), CAST(sum(bytes) AS bigint), min(stored_at)
FROM {letters} WHERE replay <> 'replayed' GROUP BY queue, reason ORDER BY queue, reason"""  # noqa: S608 - a constant


def read_waiting(row: Sequence[Any]) -> WaitingLetters:
    """The group in a row of its fields."""
    queue, reason, count, size_bytes, oldest_at = row
    return WaitingLetters(queue, Reason(reason), count, size_bytes, oldest_at)


def read_letter(row: Sequence[Any]) -> StoredLetter:
    """The dead letter in a row of ``STORED_LETTER_COLUMNS``."""
    letter_id, state, stored_at, replayed_at, *values = row
    letter = dict(zip(LETTER_COLUMNS, values, strict=False))
    record = DeadLetterRecord(job=JobRecord(*values[len(letter) :]), **{**letter, "reason": Reason(letter["reason"])})
    return StoredLetter(letter_id, record, LetterState(state), stored_at, replayed_at)


def _is_fit(text: str) -> bool:
    """Whether a text can be stored as it is."""
    # Nearly all text is ASCII without NUL: two scans in C.
    return (text.isascii() and "\x00" not in text) or not _UNFIT.search(text)


def fit(text: str) -> str:
    """Replace what can't be stored (NUL, halves of surrogate pairs) by U+FFFD."""
    return text if _is_fit(text) else _UNFIT.sub("\ufffd", text)


def cut(text: str, limit_bytes: int) -> str:
    """Keep the start and the end of a text within ``limit_bytes`` of UTF-8, at least 32; the result can be stored."""
    # A character has at least one byte, so a huge text is cut before it is encoded.
    raw = fit(text if len(text) <= 2 * limit_bytes else text[:limit_bytes] + text[-limit_bytes:]).encode()
    if len(raw) <= limit_bytes and len(text) <= 2 * limit_bytes:
        return raw.decode()
    room = limit_bytes - len(_CUT)
    head, tail = raw[: room // 3], raw[-(room - room // 3) :]
    return f"{head.decode(errors='ignore')}{_CUT}{tail.decode(errors='ignore')}"


def fit_record(record: JobRecord) -> JobRecord:
    """A record whose texts can be stored; the same object when nothing changes."""
    # One look at all texts: hardly any has to change.
    texts = _texts_of(record)
    if _is_fit("".join(filter(None, texts))):
        return record
    fitting: dict[str, Any] = {name: text and fit(text) for name, text in zip(_TEXTS, texts, strict=True)}
    return replace(record, **fitting)


def fit_letter(letter: DeadLetterRecord) -> DeadLetterRecord:
    """A letter whose texts can be stored, with its error and traceback cut."""
    traceback = None if letter.traceback is None else cut(letter.traceback, MAX_TRACEBACK_BYTES)
    return replace(letter, job=fit_record(letter.job), error=cut(letter.error, MAX_ERROR_BYTES), traceback=traceback)


def fit_run(run: RunRecord) -> RunRecord:
    """A run whose texts can be stored, with its error and traceback cut."""
    texts: dict[str, Any] = {name: fit(text) for name in RUN_COLUMNS if isinstance(text := getattr(run, name), str)}
    texts |= {"key": run.key, "error": cut(run.error, MAX_ERROR_BYTES)}
    traceback = None if run.traceback is None else cut(run.traceback, MAX_TRACEBACK_BYTES)
    return replace(run, **texts | {"traceback": traceback})


def too_slow(store: str, limit_s: float) -> StoreError:
    """The error for an operator's query that was stopped after ``limit_s`` seconds."""
    return StoreError(
        f"store {store}: the query took longer than {limit_s:g} s and was stopped; narrow it by --reason,"
        " --job-id, --since or numbers"
    )


def check_revision(store: str, found: str | None) -> None:
    """Check that a store has the tables of this program.

    Raises:
        StoreError: It has none yet.
        StoreSchemaError: They are of an earlier or a later revision.
    """
    if found is None:
        raise NoStoreError(f"store {store} has no tables yet; the daemon makes them when it first runs")
    if found != SCHEMA_REVISION:
        newer = "run the newer mns-consumer that wrote it, or name another store"
        raise StoreSchemaError(
            f"store {store} has the tables of revision {found}, this program those of {SCHEMA_REVISION};"
            f" {newer if found > SCHEMA_REVISION else 'run: mns-consumer migrate'}"
        )


def unreleased(store: str, replace_it: str) -> StoreSchemaError:
    """The error for tables of before the first release; ``replace_it`` says how to make room for new ones."""
    return StoreSchemaError(
        f"store {store} has tables of before the first release, expected revision {SCHEMA_REVISION}; save its dead"
        " letters by the mns-consumer that made it (mns-consumer dead-letters export --out FILE), then"
        f" {replace_it} and start again"
    )
