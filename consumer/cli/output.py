"""What commands print: JSON lines for programs, tables and plain lines for people.

Texts of messages and services are foreign. Control characters are escaped (``ops.sanitize``), so that a terminal does
not obey them and no line break fakes a line of ours. Known secrets are masked, also if they were stored unmasked.
"""

from __future__ import annotations

import base64
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final, TextIO

import typer
from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.table import Table
from rich.text import Text

from consumer.errors import ConsumerError, UsageError
from consumer.file_safety import sync_folder
from consumer.message.envelope import read_text
from consumer.message.notification import job_of
from consumer.message.strict_json import Undecodable
from consumer.ops.sanitize import SECRETS, json_text, printable, printable_block
from consumer.store.ledger import COUNT_CAP, JobRecord, LetterGroup, OpenJob, StoredJob, StoredLetter

WideFlag = Annotated[bool, typer.Option("--wide", help="All columns, whole, also on a narrow terminal.")]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")]

_NAMES: Final = {"id", "job", "fingerprint"}
_LONGEST_CELL: Final = 60
_LEAST_WIDTH: Final = 150
_LONGEST_WIDE: Final = 2_000
_AGES: Final = ((86_400, "d"), (3_600, "h"), (60, "m"))


def print_json(value: Mapping[str, Any], out: TextIO | None = None) -> None:
    """Print one object on one line; hidden characters as JSON escapes, so that the values stay what they were."""
    print(json_text(value), file=out or sys.stdout)


def note(text: str) -> None:
    """Print one line for people, to stderr."""
    print(printable(text), file=sys.stderr)


def wide_console() -> Console:
    """A console on stdout; a file or pipe is wide enough for every row."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=max(console.width, _LEAST_WIDTH))


def print_table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table of single-line cells; those that name a record are never cut."""
    table = Table(box=None, pad_edge=False)
    for name in head:
        table.add_column(name, no_wrap=name in _NAMES, min_width=None)
    for row in rows:
        # Text takes no markup: square brackets in an error are square brackets.
        table.add_row(*(Text(one_line(cell)) for cell in row))
    wide_console().print(table)


def print_list(head: Sequence[str], rows: Iterable[Sequence[object]], *, wide: bool) -> None:
    """Print a line for each record: its last cell is cut where the terminal ends; a file or a pipe gets it whole."""
    console = Console(highlight=False)
    cut = console.is_terminal and not wide
    lines = [[*head], *([one_line(cell, _LONGEST_CELL if cut else _LONGEST_WIDE) for cell in row] for row in rows)]
    widths = [max(map(cell_len, column)) for column in zip(*lines, strict=True)]
    for *first, last in lines:
        line = "".join(f"{set_cell_size(cell, width)}  " for cell, width in zip(first, widths, strict=False)) + last
        too_long = cut and cell_len(line) > console.width
        print(f"{set_cell_size(line, console.width - 1)}\u2026" if too_long else line.rstrip())


def print_fields(fields: Mapping[str, Any]) -> None:
    """Print each known field on a line of its own; those of an inner object, too."""
    flat = {key: value for key, value in fields.items() if not isinstance(value, dict)}
    for value in fields.values():
        if isinstance(value, dict):
            flat |= {key if key not in flat else f"job_{key}": inner for key, inner in value.items()}
    shown = {key: value for key, value in flat.items() if value is not None}
    width = max(map(len, shown), default=0)
    for key, value in shown.items():
        print(f"{key:<{width}}  {printable(str(value))}")


def time_text(seconds: float | None) -> str | None:
    """UNIX seconds as an ISO time in UTC; ``None`` for an unknown time or one beyond the calendar."""
    if not seconds:
        return None
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):
        return None


def age_text(seconds: float | None) -> str:
    """How long ago UNIX seconds were: ``7s``, ``5m``, ``3h``, ``12d``; "" for an unknown time."""
    if not seconds:
        return ""
    age_s = max(0.0, time.time() - seconds)
    unit_s, unit = next((one for one in _AGES if age_s >= one[0]), (1, "s"))
    return f"{int(age_s // unit_s)}{unit}"


def count_text(count: int) -> str:
    """A number of ``count_letters``; beyond its cap it is only known that there are more."""
    return f"{count:,}" if count <= COUNT_CAP else f"more than {COUNT_CAP:,}"


def one_line(text: object, longest: int = _LONGEST_CELL) -> str:
    """A masked text, cut to fit a table's cell; "" for ``None``."""
    shown = printable(" ".join(SECRETS.mask(str("" if text is None else text)).split()))
    return shown if len(shown) <= longest else shown[: longest - 3] + "..."


def masked(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Mask known secrets in every text, also of inner objects."""
    shown = {name: masked(value) if isinstance(value, dict) else value for name, value in fields.items()}
    return {name: SECRETS.mask(value) if isinstance(value, str) else value for name, value in shown.items()}


def job_json(stored: StoredJob) -> dict[str, Any]:
    """An ended job as JSON, masked."""
    ended = "dead" if stored.dead else "done"
    return masked({"ended": ended, "stored_at": time_text(stored.stored_at), **_record_json(stored.record)})


def open_json(job: OpenJob) -> dict[str, Any]:
    """A job that runs or retries as JSON, masked."""
    queue, job_id = job_of(job.key)
    return masked(
        {
            "state": "retrying" if job.held_until is None else "running",
            "since": time_text(job.since),
            "attempt": job.failures + 1,
            "queue": queue,
            "function": None,
            "job_id": job_id,
            "held_until": time_text(job.held_until),
            "error": job.error,
        }
    )


def letter_json(stored: StoredLetter) -> dict[str, Any]:
    """A dead letter as JSON, masked, with the size of its body alone."""
    letter = stored.letter
    return masked(
        {
            "id": stored.id,
            "state": stored.state.value,
            "reason": letter.reason.value,
            "error": letter.error,
            "fingerprint": letter.error_fingerprint or None,
            "stored_at": time_text(stored.stored_at),
            "replayed_at": time_text(stored.replayed_at),
            "hook_due_at": None if letter.hook_at is None else time_text(max(letter.hook_at, stored.stored_at)),
            "dequeue_count": letter.dequeue_count,
            "first_dequeued_at": time_text(letter.first_dequeued_at),
            "body_bytes": len(letter.body),
            "job": _record_json(letter.job),
        }
    )


def group_json(group: LetterGroup) -> dict[str, Any]:
    """A group of dead letters as JSON, masked."""
    times = {"first_at": time_text(group.first_at), "last_at": time_text(group.last_at)}
    names = ("count", "reason", "function", "error", "latest")
    return masked(
        {"fingerprint": group.error_fingerprint or None, **{name: getattr(group, name) for name in names}, **times}
    )


def whole_letter_json(stored: StoredLetter, *, exact: bool = False) -> dict[str, Any]:
    """As ``letter_json``, with traceback and body; ``exact`` as for ``body_json``."""
    traceback = masked({"traceback": stored.letter.traceback})
    return letter_json(stored) | traceback | body_json(stored.letter.body, exact=exact)


def _record_json(record: JobRecord) -> dict[str, Any]:
    times = {name: time_text(getattr(record, name)) for name in ("enqueued_at", "started_at", "ended_at")}
    return asdict(record) | times


def body_json(body: bytes, *, exact: bool = False) -> dict[str, Any]:
    """A message body in all its readings, masked.

    Args:
        body: The bytes as MNS stores them.
        exact: Give ``body_base64`` also if the body holds a secret, for a copy that can be sent again.

    Returns:
        ``body_base64``: the bytes, or ``None`` if they hold a secret; ``body_text``: the same as text, or ``None`` if
        they are not UTF-8 or hold a secret under base64; ``body_decoded``: the text that their base64 holds, if any.
    """
    try:
        text: str | None = body.decode()
    except UnicodeDecodeError:
        text = None
    try:
        decoded: str | None = read_text(body)[0]
    except Undecodable:
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
    """A body for people, masked and indented: decoded, else as text, else as Python writes bytes.

    Args:
        body: The bytes as MNS stores them.
        longest: Characters after which it is cut.
    """
    readings = body_json(body)
    shown = readings["body_decoded"] or readings["body_text"]
    text: str = SECRETS.mask(repr(body)[2:-1]) if shown is None else shown
    if longest is not None and len(text) > longest:
        text = f"{text[:longest]}... ({len(text) - longest} characters more; --json prints them)"
    return printable_block(text)


@contextmanager
def new_file(path: Path) -> Iterator[TextIO]:
    """A new file for its owner alone; synced at the end of the block, removed if it can't be finished."""
    try:
        # Never an existing one: it might be readable by others, or be the last export before a purge.
        number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        os.fchmod(number, 0o600)  # Also if the umask took these rights away.
    except FileExistsError:
        raise UsageError(f"--out {path}: expected a new file, this one is there already; name another") from None
    except OSError as error:
        raise UsageError(f"--out {path}: it can't be made: {error.strerror}") from None
    try:
        with open(number, "w", encoding="utf-8") as file:  # noqa: PTH123 - a descriptor, no path
            yield file
            file.flush()
            os.fsync(file.fileno())
        sync_folder(path.parent)
    except BaseException as error:
        path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise ConsumerError(f"--out {path}: it can't be written: {error.strerror}; nothing is kept of it") from None
        raise
