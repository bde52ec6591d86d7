"""Which records of the store an operator means: the flags that choose, and the filter that comes of them.

What can't be meant is refused here, before the store is asked.

Elsewhere: how records are shown (``cli.record_view``), what a filter matches (``store.ledger``).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Final

import typer

from consumer.errors import UsageError
from consumer.notify_url import EXPECTED, NotifyUrl
from consumer.policy import Reason
from consumer.store.ledger import Filter, LetterState

if TYPE_CHECKING:
    from consumer.config import QueueSettings, Settings

WHICH: Final = "Which ones"
MOST_ID: Final = 2**63 - 1
"""The largest number that either engine gives."""
_UNITS_S: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_AGE: Final = re.compile(r"(\d{1,9})([smhdw])")
_IDENTITY: Final = re.compile(r"[^/\s]+/[^/\s]+/[^/\s]+")

FunctionFlag = Annotated[
    str | None,
    typer.Option("--function", metavar="NAME", help="Of this FunctionName or kind.", rich_help_panel=WHICH),
]
ReasonFlag = Annotated[
    Reason | None, typer.Option("--reason", help="Set aside for this reason.", rich_help_panel=WHICH)
]
SinceFlag = Annotated[
    str | None,
    typer.Option(
        "--since", metavar="TIME", help="Stored since: 30m, 2h, 7d, or an ISO time (UTC).", rich_help_panel=WHICH
    ),
]
JobIdFlag = Annotated[
    str | None, typer.Option("--job-id", metavar="ID", help="Of this JobId or RunId.", rich_help_panel=WHICH)
]
QueueFlag = Annotated[
    str | None,
    typer.Option(
        "--queue",
        metavar="QUEUE",
        help="Of this queue: ACCOUNT/REGION/NAME, its NotifyUrl, or the name of one in the settings.",
        rich_help_panel=WHICH,
    ),
]
StateFlag = Annotated[
    LetterState | None, typer.Option("--state", help="This far on the way back.", rich_help_panel=WHICH)
]
AllFlag = Annotated[bool, typer.Option("--all", help="All of them, where nothing else is said.", rich_help_panel=WHICH)]
LimitFlag = Annotated[int, typer.Option("--limit", min=0, help="The latest N; 0 means all.", metavar="N")]
DryRunFlag = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")]
IdsArgument = Annotated[
    list[int] | None, typer.Argument(metavar="[ID]...", min=1, max=MOST_ID, help="Numbers, as list shows them.")
]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")]


def wanted_records(
    settings: Settings,
    *,
    function: str | None = None,
    reason: Reason | None = None,
    since: str | None = None,
    job_id: str | None = None,
    queue: str | None = None,
    state: LetterState | None = None,
) -> Filter:
    """Make a filter of what the flags say.

    Raises:
        UsageError: A time or a queue is not what is expected, or a text can't be stored.
    """
    for flag, text in (("--function", function), ("--job-id", job_id)):
        _check_text(flag, text)
    return Filter(
        queue=None if queue is None else queue_identity(settings, queue),
        function=function,
        reason=reason,
        job_id=job_id,
        since=None if since is None else parse_since(since, datetime.now(UTC)),
        state=state,
    )


def parse_since(text: str, now: datetime) -> float:
    """Read a time: an age such as ``2h``, or an ISO time, UTC where it names no zone.

    Args:
        text: ``30s``, ``30m``, ``2h``, ``7d``, ``2w``, ``2026-01-31`` or ``2026-01-31T12:00:00+08:00``.
        now: What an age is counted back from.

    Returns:
        UNIX seconds.

    Raises:
        UsageError: It is neither.
    """
    found = _AGE.fullmatch(text.strip())
    try:
        if found is not None:
            return (now - timedelta(seconds=int(found[1]) * _UNITS_S[found[2]])).timestamp()
        time = datetime.fromisoformat(text.strip())
        return (time if time.tzinfo is not None else time.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise UsageError(
            f"--since {text[:80]!r}: expected an age such as 30m, 2h or 7d, or a time such as 2026-01-31T12:00:00Z"
        ) from None


def queue_identity(settings: Settings, text: str) -> str:
    """Say which queue is meant, by the name under which its records are stored.

    Returns:
        ``ACCOUNT/REGION/NAME``.

    Raises:
        UsageError: It is no address and no name of the settings' queues, or of several of them.
    """
    _check_text("--queue", text)
    if text.startswith("mns:"):
        return NotifyUrl.parse(text).identity
    if _IDENTITY.fullmatch(text):
        return text
    return lane_of(settings, text).url.identity


def lane_of(settings: Settings, text: str | None) -> QueueSettings:
    """Find one of the settings' queues.

    Args:
        settings: The settings.
        text: Its name, ``ACCOUNT/REGION/NAME`` or NotifyUrl; ``None`` means the only one there is.

    Raises:
        UsageError: There is none of this name, or more than one.
    """
    lanes = settings.all_lanes()
    if text is not None and text.startswith("mns:"):
        text = NotifyUrl.parse(text).identity
    found = [lane for lane in lanes if text is None or text in (lane.url.queue, lane.url.identity)]
    if len(found) == 1:
        return found[0]
    known = ", ".join(lane.url.identity for lane in lanes) or f"none; say --notify-url {EXPECTED}"
    if text is None:
        raise UsageError(f"expected one queue; those in the settings: {known}" + ("; say --queue" if lanes else ""))
    told = "names several of the settings' queues" if found else "is none of the settings' queues"
    raise UsageError(f"queue {text[:200]!r} {told}: {known}; expected ACCOUNT/REGION/NAME, a NotifyUrl or one's name")


def demand_choice(verb: str, ids: Sequence[int], wanted: Filter, *, everything: bool) -> None:
    """See that a command which changes things was told which records it is for.

    Raises:
        UsageError: Neither numbers nor flags nor ``--all`` were said, or more than one of them.
    """
    filtered = wanted != Filter()
    if not ids and not filtered and not everything:
        raise UsageError(f"{verb} what? Expected numbers of dead letters, a flag such as --reason, or --all")
    if (ids and (filtered or everything)) or (filtered and everything):
        raise UsageError(f"{verb} what? Expected either numbers, or flags such as --reason, or --all, not several")


def _check_text(flag: str, text: str | None) -> None:
    try:
        (text or "").encode()
    except UnicodeEncodeError:
        raise UsageError(f"{flag} {text!r}: expected UTF-8") from None
