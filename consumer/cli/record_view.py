"""How records and messages are shown: as JSON for programs, as tables and plain lines for people.

Texts of messages are strangers' texts: what a terminal would obey is shown escaped (``ops.escape``), and their line
breaks begin no line at the margin. Known secrets are masked in all of them, also where they were stored before they
were known; only an export has the bytes of a body as they are.

    ended jobs      job_json, print_jobs
    dead letters    letter_json, print_letters
    single records  print_fields

Elsewhere: which records (``cli.records``).
"""

from __future__ import annotations

import base64
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, TextIO

from consumer.ops.escape import json_text, printable, printable_block
from consumer.ops.redact import SECRETS

if TYPE_CHECKING:
    from consumer.store.ledger import JobRecord
    from consumer.store.queries import StoredJob, StoredLetter

_LONGEST_CELL: Final = 60


def print_json(value: Mapping[str, Any], out: TextIO | None = None) -> None:
    """Print one object on one line; hidden characters as JSON's escapes, so that the values are what they were."""
    print(json_text(value), file=out or sys.stdout)


def note(text: str) -> None:
    """Tell a person in one line what no program reads."""
    print(printable(text), file=sys.stderr)


def time_text(seconds: float | None) -> str | None:
    """UNIX seconds as an ISO time in UTC; ``None`` for a time that is not known."""
    if not seconds:
        return None
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):
        return None  # Beyond the calendar: no clock said so.


def one_line(text: object, longest: int = _LONGEST_CELL) -> str:
    """A text cut to fit a table's cell, without known secrets; "" for ``None``."""
    shown = printable(" ".join(SECRETS.mask(str("" if text is None else text)).split()))
    return shown if len(shown) <= longest else shown[: longest - 3] + "..."


def body_json(body: bytes, *, exact: bool = False) -> dict[str, Any]:
    """A body in all its readings, without known secrets.

    Args:
        body: The bytes as they lay in the queue.
        exact: Give the bytes also where they hold a secret: without it ``body_base64`` is ``None`` then.

    Returns:
        ``body_base64``: the bytes; ``body_text``: the same as text, where it is UTF-8, and ``None`` where a secret is
        in it under base64; ``body_decoded``: the text that its base64 holds, where it is such.
    """
    from consumer.message.envelope import read_text  # noqa: PLC0415 - quick --help
    from consumer.message.strict_json import Unreadable  # noqa: PLC0415 - the same

    try:
        text: str | None = body.decode()
    except UnicodeDecodeError:
        text = None
    try:
        decoded: str | None = read_text(body)[0]
    except Unreadable:
        decoded = None
    shown_text, shown_decoded = (one and SECRETS.mask(one) for one in (text, decoded))
    readable = body.decode("utf-8", "replace")
    hidden = SECRETS.mask(readable) != readable or shown_decoded != decoded
    return {
        "body_base64": base64.b64encode(body).decode() if exact or not hidden else None,
        "body_text": None if shown_text == text and shown_decoded != decoded else shown_text,
        "body_decoded": shown_decoded,
    }


def readable_body(body: bytes, longest: int | None = None) -> str:
    """A body as a person wants it: decoded, else as text, else as Python would write it; its lines are indented.

    Args:
        body: The bytes as they lay in the queue.
        longest: Characters after which it is cut.
    """
    readings = body_json(body)
    shown = readings["body_decoded"] or readings["body_text"]
    text: str = SECRETS.mask(repr(body)[2:-1]) if shown is None else shown
    if longest is not None and len(text) > longest:
        text = f"{text[:longest]}... ({len(text) - longest} characters more; --json prints them)"
    return printable_block(text)


def letter_json(stored: StoredLetter, *, whole: bool, exact: bool = False) -> dict[str, Any]:
    """A dead letter as JSON, without known secrets.

    Args:
        stored: The letter.
        whole: With body and traceback; else with the body's size alone.
        exact: With the body's bytes also where they hold a secret: for a copy that can be sent again.
    """
    letter = stored.letter
    found = {
        "id": stored.id,
        "state": stored.state.value,
        "reason": letter.reason.value,
        "error": letter.error,
        "stored_at": time_text(stored.stored_at),
        "replayed_at": time_text(stored.replayed_at),
        "dequeue_count": letter.dequeue_count,
        "first_dequeued_at": time_text(letter.first_dequeued_at),
        "body_bytes": len(letter.body),
        "job": _record_json(letter.job),
    }
    if not whole:
        return _masked(found)
    return _masked(found | {"traceback": letter.traceback}) | body_json(letter.body, exact=exact)


def job_json(stored: StoredJob) -> dict[str, Any]:
    """An ended job as JSON, without known secrets."""
    return _masked(
        {
            "ended": "dead" if stored.dead else "done",
            "stored_at": time_text(stored.stored_at),
            **_record_json(stored.record),
        }
    )


def _masked(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Mask known secrets in each text."""
    shown = {name: _masked(value) if isinstance(value, dict) else value for name, value in fields.items()}
    return {name: SECRETS.mask(value) if isinstance(value, str) else value for name, value in shown.items()}


def _record_json(record: JobRecord) -> dict[str, Any]:
    return {
        "function": record.function,
        "kind": record.kind,
        "job_id": record.job_id,
        "queue": record.queue,
        "message_id": record.message_id,
        "state": record.state,
        "code": record.code,
        "message": record.message,
        "user_data": record.user_data,
        "result": record.result,
        "attempts": record.attempts,
        "enqueued_at": time_text(record.enqueued_at),
        "started_at": time_text(record.started_at),
        "ended_at": time_text(record.ended_at),
        "key": record.key,
    }


def print_letters(letters: Iterable[Mapping[str, Any]]) -> None:
    """Print dead letters, as ``letter_json`` gives them, as a table."""
    _print_table(
        ("id", "stored at (UTC)", "state", "reason", "function", "job", "queue", "runs", "error"),
        [
            (
                letter["id"],
                _minute(letter["stored_at"]),
                letter["state"],
                letter["reason"],
                letter["job"]["function"],
                letter["job"]["job_id"],
                letter["job"]["queue"].rpartition("/")[2],
                letter["job"]["attempts"],
                letter["error"],
            )
            for letter in letters
        ],
    )


def print_jobs(jobs: Iterable[StoredJob]) -> None:
    """Print ended jobs as a table."""
    _print_table(
        ("stored at (UTC)", "ended", "function", "job", "queue", "state", "code", "runs", "UserData"),
        [
            (
                _minute(time_text(stored.stored_at)),
                "dead" if stored.dead else "done",
                stored.record.function,
                stored.record.job_id,
                stored.record.queue.rpartition("/")[2],
                stored.record.state,
                stored.record.code,
                stored.record.attempts,
                stored.record.user_data,
            )
            for stored in jobs
        ],
    )


def print_fields(fields: Mapping[str, Any], skipped: Sequence[str] = ()) -> None:
    """Print each field on a line of its own; what is not known is left out, so are those that are named."""
    flat = {key: value for key, value in fields.items() if not isinstance(value, dict)}
    for value in fields.values():
        if isinstance(value, dict):
            flat |= {key if key not in flat else f"job_{key}": inner for key, inner in value.items()}
    shown = {key: value for key, value in flat.items() if value is not None and key not in skipped}
    width = max(map(len, shown), default=0)
    for key, value in shown.items():
        print(f"{key:<{width}}  {printable(str(value))}")


def _minute(time: str | None) -> str:
    return (time or "")[:19].replace("T", " ")


def _print_table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    from rich.table import Table  # noqa: PLC0415 - quick --help
    from rich.text import Text  # noqa: PLC0415 - the same

    from consumer.cli.consoles import wide_console  # noqa: PLC0415 - the same

    table = Table(box=None, pad_edge=False)
    for name in head:
        # A number that is cut is another number: ids are never folded away.
        table.add_column(name, no_wrap=name in {"id", "job"}, min_width=None)
    for row in rows:
        # Text takes no markup: square brackets in an error are square brackets.
        table.add_row(*(Text(one_line(cell)) for cell in row))
    wide_console().print(table)
