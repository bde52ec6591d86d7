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

from consumer.errors import ConsumerError, UsageError
from consumer.file_safety import sync_folder
from consumer.message.envelope import read_text
from consumer.message.notification import decode_user_data
from consumer.message.strict_json import Undecodable
from consumer.ops.sanitize import SECRETS, json_text, printable, printable_block
from consumer.store.ledger import (
    COUNT_CAP,
    JobRecord,
    LetterCount,
    LetterGroup,
    LetterOfJob,
    LetterState,
    OpenJob,
    StoredJob,
    StoredLetter,
)

WideFlag = Annotated[bool, typer.Option("--wide", help="All columns, whole, also on a narrow terminal.")]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")]

_LONGEST_CELL: Final = 60
_LEAST_WIDTH: Final = 150
_LONGEST_WIDE: Final = 2_000
_AGE_HEADS: Final = {
    "stored_at": "age",
    "oldest_at": "oldest",
    "latest_at": "latest",
    "latest_id": "id",
    "next_try_at": "next",
    "held_until": "held",
}
_TIMES: Final = frozenset({"stored_at", "oldest_at", "latest_at", "since"})
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


def print_records(
    records: Sequence[Mapping[str, Any]],
    columns: Sequence[str],
    narrow: Sequence[str],
    *,
    as_json: bool,
    wide: bool,
) -> None:
    """Print records as JSON lines, or as a list with the columns that there is room for."""
    if as_json:
        for fields in records:
            print_json(fields)
    elif records:
        is_narrow = sys.stdout.isatty() and not wide
        shown = narrow if is_narrow else columns
        heads = [_AGE_HEADS.get(name, name) if is_narrow else name for name in shown]
        print_list(
            heads, ([cell_text(name, row[name], is_narrow=is_narrow) for name in shown] for row in records), wide=wide
        )


def cell_text(name: str, value: Any, *, is_narrow: bool) -> str:
    """A cell that is never empty, so that a program finds each column; a time as its age on a terminal."""
    if is_narrow and name in {"next_try_at", "held_until"} and value:
        return until_text(datetime.fromisoformat(value).timestamp())
    if is_narrow and name in _TIMES and value:
        return age_text(datetime.fromisoformat(value).timestamp())
    if is_narrow and value == LetterState.SET_ASIDE:
        return "-"  # so that those that were replayed stand out
    return value_text(value or None) or "-"


def print_places(rows: Sequence[Sequence[str]]) -> None:
    """Print a name, perhaps a value, and a whole place a line; the place below where a terminal has no room for it."""
    console = Console(highlight=False)
    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)][:-1]
    for *first, place in rows:
        cells = [printable(cell) for cell in first]
        line = "  ".join(
            set_cell_size(cell, max(width, cell_len(cell))) for cell, width in zip(cells, widths, strict=True)
        )
        whole = f"{line}  {printable(place)}"
        fits = not console.is_terminal or cell_len(whole) <= console.width
        print(whole if fits else f"{line.rstrip()}\n    {printable(place)}")


def print_fields(fields: Mapping[str, Any]) -> None:
    """Print each known field on a line of its own; lists and objects as JSON."""
    shown = {key: value for key, value in fields.items() if value is not None}
    width = max(map(len, shown), default=0)
    for key, value in shown.items():
        print(f"{key:<{width}}  {printable(value_text(value))}")


def value_text(value: object) -> str:
    """A field's value for people: as it is, or as JSON where it has parts."""
    return json_text(value) if isinstance(value, dict | list) else str("" if value is None else value)


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


def until_text(seconds: float | None) -> str:
    """How long until UNIX seconds, as ``in 5m``; ``due`` when they are over, "" for an unknown time."""
    if not seconds:
        return ""
    left_s = seconds - time.time()
    return f"in {age_text(time.time() - left_s)}" if left_s > 0 else "due"


def count_text(count: int) -> str:
    """A number of ``count_letters``; beyond its cap it is only known that there are more."""
    return f"{count:,}" if count <= COUNT_CAP else f"more than {COUNT_CAP:,}"


def one_line(text: object, longest: int = _LONGEST_CELL) -> str:
    """A masked text, cut to fit a table's cell; "" for ``None``."""
    shown = printable(" ".join(SECRETS.mask(str("" if text is None else text)).split()))
    return shown if len(shown) <= longest else shown[: longest - 3] + "..."


def masked(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Mask known secrets in every text, also of inner values."""
    return {SECRETS.mask(name): _masked(value) for name, value in fields.items()}


def _masked(value: Any) -> Any:
    match value:
        case str():
            return SECRETS.mask(value)
        case dict():
            return masked(value)
        case list():
            return [_masked(each) for each in value]
        case _:
            return value


def job_json(stored: StoredJob, letter: LetterOfJob | None = None) -> dict[str, Any]:
    """An ended job as JSON, masked, with what its latest dead letter says."""
    state = "dead" if stored.dead else "done"
    why = {
        "dead_letters": [] if letter is None else [letter.id],
        "reason": None if letter is None else letter.reason.value,
        "error": None if letter is None else letter.error,
    }
    return masked({"state": state, "stored_at": time_text(stored.stored_at), **_record_json(stored.record), **why})


def open_json(job: OpenJob) -> dict[str, Any]:
    """A job that runs or retries as JSON, masked."""
    return masked(
        {
            "state": "retrying" if job.held_until is None else "running",
            "since": time_text(job.since),
            "attempt": job.attempt,
            "queue": job.queue,
            "function": job.function,
            "job_id": job.job_id,
            "next_try_at": time_text(job.retry_at),
            "held_until": time_text(job.held_until),
            "holder": job.holder,
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
            **_record_json(letter.job),
        }
    )


def group_json(group: LetterGroup) -> dict[str, Any]:
    """A group of dead letters as JSON, masked."""
    about = {"fingerprint": group.error_fingerprint or None, "error": group.error}
    return masked(_count_json(group) | about)


def letter_count_json(row: LetterCount) -> dict[str, Any]:
    """The dead letters of one function and reason as JSON, masked."""
    return masked(_count_json(row) | {"errors": row.errors})


def _count_json(row: LetterGroup | LetterCount) -> dict[str, Any]:
    return {
        "count": row.count,
        "function": row.function,
        "reason": row.reason.value,
        "oldest_at": time_text(row.first_at),
        "latest_at": time_text(row.last_at),
        "latest_id": row.latest,
    }


def whole_letter_json(stored: StoredLetter) -> dict[str, Any]:
    """As ``letter_json``, with traceback and body."""
    return letter_json(stored) | masked({"traceback": stored.letter.traceback}) | body_json(stored.letter.body)


def exported_letter_json(stored: StoredLetter) -> dict[str, Any]:
    """As ``letter_json``, with traceback and the exact body as base64: a masked copy could not be sent again."""
    body = {"body_base64": base64.b64encode(stored.letter.body).decode()}
    return letter_json(stored) | masked({"traceback": stored.letter.traceback}) | body


def _record_json(record: JobRecord) -> dict[str, Any]:
    """What jobs and dead letters have in common: MPS's state is ``job_state``, UserData and result are decoded."""
    fields = asdict(record)
    fields["job_state"], fields["attempt"] = fields.pop("state") or None, fields.pop("attempts")
    # Masked before they are decoded too: a secret may be a part of JSON text alone.
    for name in ("user_data", "result"):
        text = fields[name]
        fields[name] = None if text is None else decode_user_data(SECRETS.mask(text))
    return fields | {name: time_text(fields[name]) for name in ("enqueued_at", "started_at", "ended_at")}


def body_json(body: bytes) -> dict[str, Any]:
    """A message body once, masked.

    Returns:
        ``body``: its text, decoded from base64 where it is that; ``body_base64``: the bytes, if they are no text and
        hold no secret. The other one is ``None``.
    """
    text, is_text = _text_of(body)
    shown = SECRETS.mask(text)
    has_text = is_text or shown != text
    return {
        "body": shown if has_text else None,
        "body_base64": None if has_text else base64.b64encode(body).decode(),
    }


def _text_of(body: bytes) -> tuple[str, bool]:
    """A body's text, and whether it has one: else bytes that are no UTF-8 are replaced."""
    try:
        return read_text(body)[0], True
    except Undecodable:
        pass
    try:
        return body.decode(), True
    except UnicodeDecodeError:
        return body.decode("utf-8", "replace"), False


def readable_body(body: bytes, longest: int | None = None) -> str:
    """A body for people, masked and indented: decoded, else as text, else as Python writes bytes.

    Args:
        body: The bytes as MNS stores them.
        longest: Characters after which it is cut.
    """
    shown = body_json(body)["body"]
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
