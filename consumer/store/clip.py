"""Make text fit for a database: of bounded size, and without the characters that one engine refuses.

Both engines store the same text, so that a message that one can keep is never one that the other can't.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any, Final

from consumer.store.ledger import DeadLetter, JobRecord

MAX_ERROR_BYTES: Final = 2 * 1024
MAX_TRACEBACK_BYTES: Final = 16 * 1024

_UNFIT = re.compile("[\x00\ud800-\udfff]")
_CUT: Final = "\n[...]\n"
_TEXTS: Final = ("queue", "kind", "function", "message_id", "job_id", "state", "code", "message", "user_data", "result")


def is_fit(text: str) -> bool:
    """Whether a text can be stored as it is."""
    # Nearly all text is plain ASCII without NUL, where this costs two scans in C.
    return (text.isascii() and "\x00" not in text) or not _UNFIT.search(text)


def fit(text: str) -> str:
    """Replace what can't be stored (NUL, halves of surrogate pairs) by U+FFFD."""
    return text if is_fit(text) else _UNFIT.sub("\ufffd", text)


def cut(text: str, limit_bytes: int) -> str:
    """Keep the beginning and the end of a text, which say most, within a number of UTF-8 bytes.

    Args:
        text: Any text.
        limit_bytes: The most that is kept, the mark of the cut included; at least 32.

    Returns:
        Text that can be stored.
    """
    # A character is at least one byte, so longer text is cut before it is encoded: it may be huge.
    raw = fit(text if len(text) <= 2 * limit_bytes else text[:limit_bytes] + text[-limit_bytes:]).encode()
    if len(raw) <= limit_bytes and len(text) <= 2 * limit_bytes:
        return raw.decode()
    room = limit_bytes - len(_CUT)
    head, tail = raw[: room // 3], raw[-(room - room // 3) :]
    return f"{head.decode(errors='ignore')}{_CUT}{tail.decode(errors='ignore')}"


def fit_record(record: JobRecord) -> JobRecord:
    """A record whose every text can be stored; the same object where nothing had to change."""
    # All of them at once: there is hardly ever anything to change.
    if is_fit(
        f"{record.queue}{record.kind}{record.function}{record.message_id}{record.job_id}{record.state}"
        f"{record.code}{record.message}{record.user_data}{record.result}"
    ):
        return record
    changed: dict[str, Any] = {}
    for name in _TEXTS:
        text = getattr(record, name)
        if text is not None and (fitting := fit(text)) is not text:
            changed[name] = fitting
    return replace(record, **changed) if changed else record


def letter_bytes(letter: DeadLetter) -> int:
    """What a letter counts towards the limit: its body and its longer texts, in bytes."""
    job = letter.job
    texts = (letter.error, letter.traceback, job.message, job.user_data, job.result)
    return len(letter.body) + sum(len(text.encode(errors="replace")) for text in texts if text)


def fit_letter(letter: DeadLetter) -> DeadLetter:
    """A letter whose texts can be stored; its error and traceback cut."""
    traceback = None if letter.traceback is None else cut(letter.traceback, MAX_TRACEBACK_BYTES)
    return replace(letter, job=fit_record(letter.job), error=cut(letter.error, MAX_ERROR_BYTES), traceback=traceback)
