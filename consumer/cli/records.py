"""``mns-consumer jobs`` and ``mns-consumer dead-letters``: look at what the store holds, replay, export, purge.

All of it works while the daemon runs. Flags are checked here, before the store is asked.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

import anyio
import typer

from consumer.cli.history import history_json, print_history
from consumer.cli.options import (
    JOBS,
    LETTERS,
    LONGEST_JOB_ID,
    MOST_ID,
    OF_QUEUE,
    OF_STORE,
    Ending,
    Selection,
    SettingsFlags,
    WhichJobs,
    demand_text,
    selects,
    takes_settings,
)
from consumer.cli.output import (
    JsonFlag,
    WideFlag,
    count_text,
    exported_letter_json,
    group_json,
    job_json,
    letter_count_json,
    letter_json,
    new_file,
    note,
    open_json,
    print_fields,
    print_json,
    print_records,
    readable_body,
    whole_letter_json,
)
from consumer.cli.submissions import list_submissions, show_unended
from consumer.config import Settings
from consumer.errors import ConsumerError, ExitCode, UsageError
from consumer.ops.control import ask
from consumer.ops.sanitize import SECRETS, printable, printable_block
from consumer.store.ledger import COUNT_CAP, Filter, LetterOfJob, OpenJob, RunRecord, StoredJob, StoredLetter
from consumer.store.open import open_operators
from consumer.store.queries import Operators
from consumer.store_address import SqliteAddress

if TYPE_CHECKING:
    from consumer.replay import Candidate, Replayed

_T = TypeVar("_T")
_PAGE: Final = 200
_MOST_OPEN: Final = 100_000
_OPEN_COLUMNS: Final = (
    *("since", "state", "attempt", "function", "job_id", "queue", "next_try_at", "held_until", "holder", "error"),
)
_NARROW_RUNNING: Final = ("since", "attempt", "function", "held_until", "job_id")
_NARROW_RETRYING: Final = ("since", "attempt", "job_id", "next_try_at", "error")
_NARROW_JOB: Final = ("stored_at", "state", "function", "job_id", "code", "reason")
_NARROW_DEAD: Final = ("stored_at", "function", "job_id", "reason", "error")
_NARROW_LETTER: Final = ("id", "stored_at", "state", "reason", "function", "error")
_NARROW_GROUP: Final = ("count", "latest_at", "reason", "function", "latest_id", "error")
_NARROW_COUNT: Final = ("function", "reason", "count", "errors", "oldest_at", "latest_at")
"""What a terminal of 80 columns has room for: ages instead of times."""
_JOB_COLUMNS: Final = (
    *("stored_at", "state", "function", "job_id", "queue", "job_state", "code", "attempt", "dead_letters", "reason"),
    *("error", "user_data"),
)
_LETTER_COLUMNS: Final = ("id", "stored_at", "state", "reason", "function", "job_id", "queue", "attempt", "error")
_GROUP_COLUMNS: Final = (
    *("count", "reason", "function", "fingerprint", "oldest_at", "latest_at", "latest_id", "error"),
)
_COUNT_COLUMNS: Final = ("function", "reason", "count", "errors", "oldest_at", "latest_at", "latest_id")
_NO_LETTER: Final = "no dead letter matches"

LimitFlag = Annotated[int, typer.Option("--limit", min=0, help="The latest N; 0 means all.", metavar="N")]
DryRunFlag = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")]


def _ask(settings: Settings, call: Callable[[Operators], Awaitable[_T]]) -> _T:
    """Make one call to the store."""

    async def ask() -> _T:
        async with open_operators(settings.store_address()) as operators:
            return await call(operators)

    return anyio.run(ask)


@selects(*JOBS)
def list_jobs(
    selection: Selection,
    *,
    is_open: Annotated[bool, typer.Option("--open", help="The recorded submissions that have not ended.")] = False,
    limit: LimitFlag = 100,
    wide: WideFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """List the jobs that have ended, or by --state those that run or retry.

    The latest come first. A running job of a store in a file is known to its daemon alone, which is asked. A job that
    waits for its first run is in its queue, and in the list of --open if it was submitted by mns-consumer.
    """
    if is_open:
        list_submissions(selection, limit=limit, wide=wide, as_json=as_json)
        return
    if selection.job_state in {WhichJobs.RUNNING, WhichJobs.RETRYING}:
        _list_open(selection, limit=limit, as_json=as_json, wide=wide)
        return
    dead = None if selection.ended is None else selection.ended is Ending.DEAD

    async def look(operators: Operators) -> tuple[list[StoredJob], Mapping[str, LetterOfJob]]:
        found: list[StoredJob] = []
        letters: dict[str, LetterOfJob] = {}
        # One job more than asked for shows whether there are more.
        while size := min(_PAGE, limit + 1 - len(found)) if limit else _PAGE:
            after = found[-1].cursor if found else None
            page = await operators.list_jobs(selection.wanted, limit=size, dead=dead, after=after)
            found += page
            letters |= await operators.letters_of(*(one.record for one in page if one.dead))
            if len(page) < size:
                break
        return found, letters

    found, letters = _ask(selection.settings, look)
    shown = found[:limit] if limit else found
    narrow = _NARROW_DEAD if dead else _NARROW_JOB
    rows = [job_json(stored, letters.get(stored.record.key)) for stored in shown]
    print_records(rows, _JOB_COLUMNS, narrow, as_json=as_json, wide=wide)
    if not found:
        note("no job that has ended matches")
    elif len(found) > len(shown):
        note(f"the latest {len(shown)} are shown; say --limit for more")


def _list_open(selection: Selection, *, limit: int, as_json: bool, wide: bool) -> None:
    wanted, is_running = selection.wanted, selection.job_state is WhichJobs.RUNNING
    asked = {"queue": wanted.queue, "function": wanted.function, "job_id": wanted.job_id}
    if wanted != Filter(queue=wanted.queue, function=wanted.function, job_id=wanted.job_id):
        raise UsageError(
            "--state running and --state retrying: expected no other flag than --queue, --function and --job-id"
        )
    settings = selection.settings
    if is_running and isinstance(settings.store_address(), SqliteAddress):
        found = _running_here(settings)
    else:
        which: dict[str, Any] = {"running": is_running, **asked}
        most = limit + 1 if limit else _MOST_OPEN
        found = [open_json(job) for job in _ask(settings, lambda operators: operators.list_open(limit=most, **which))]
    for name, value in asked.items():
        found = [one for one in found if value in {None, one[name]}]
    shown = found[:limit] if limit else found
    narrow = _NARROW_RUNNING if is_running else _NARROW_RETRYING
    print_records(shown, _OPEN_COLUMNS, narrow, as_json=as_json, wide=wide)
    if not found:
        note(f"no job that is {selection.job_state} matches")
    elif len(found) > len(shown):
        note(f"the latest {len(shown)} are shown; say --limit for more")


def _running_here(settings: Settings) -> list[dict[str, Any]]:
    """The jobs that the daemon of a store in a file runs, as ``open_json``."""
    path = settings.socket_path()
    if path is None:
        raise UsageError("--state running: the daemon of a store in a file is asked, and control_socket is not set")
    answer = ask(path, {"command": "status"})
    return [
        {**{name: one.get(name) for name in _OPEN_COLUMNS}, "queue": queue["queue"]}
        for queue in answer["queues"]
        for one in queue["in_flight"]
        if one["state"] == WhichJobs.RUNNING
    ]


def _running_beside(settings: Settings) -> list[dict[str, Any]]:
    """As ``_running_here``; none where no daemon can be asked."""
    try:
        return _running_here(settings) if isinstance(settings.store_address(), SqliteAddress) else []
    except ConsumerError:
        return []


@selects("queue")
def show_job(
    selection: Selection,
    job_id: Annotated[str, typer.Argument(metavar="JOBID", help="JobId or RunId.")],
    *,
    as_json: JsonFlag = False,
) -> None:
    """Show one job: its runs, its end with UserData and result, or its next try."""
    demand_text("JOBID", job_id, LONGEST_JOB_ID)
    queue, settings = selection.wanted.queue, selection.settings
    queues = [lane.url.identity for lane in settings.queues()]

    async def look(
        operators: Operators,
    ) -> tuple[Sequence[StoredJob], Sequence[StoredLetter], Sequence[OpenJob], Sequence[RunRecord]]:
        jobs, letters = await operators.find_job(job_id, queue=queue, queues=queues)
        began = [] if jobs else await operators.list_open(limit=_PAGE, queue=queue, job_id=job_id)
        began = [one for one in began if one.job_id == job_id]
        keys = {one.record.key for one in jobs} | {one.letter.job.key for one in letters} | {one.key for one in began}
        return jobs, letters, began, await operators.list_runs(*keys)

    jobs, letters, began, runs = _ask(settings, look)
    if not (jobs or letters or began):
        show_unended(settings, job_id, queue, _running_beside(settings), as_json=as_json)
        return
    of_key = {one.letter.job.key: LetterOfJob(one.id, one.letter.reason, one.letter.error) for one in letters}
    shown = [(one.record.queue, one.record.key, job_json(one, of_key.get(one.record.key))) for one in jobs]
    shown += [(one.queue, one.key, open_json(one)) for one in began]
    if not shown:
        # The job was replayed and no run has ended since: its letters are all there is.
        shown = [(one.letter.job.queue, one.letter.job.key, letter_json(one)) for one in letters]
    for number, (of_queue, key, fields) in enumerate(shown):
        history = history_json(of_queue, runs, jobs, letters)
        if as_json:
            numbers = [one.id for one in letters if one.letter.job.key == key]
            print_json({**fields, "dead_letters": numbers, "history": history})
        else:
            print("\n" * bool(number), end="")
            print_fields(fields)
            print_history(history)
    if not as_json:
        for one in letters:
            note(
                f"dead letter {one.id} ({one.letter.reason.value}, {one.state.value}):"
                f" mns-consumer dead-letters show {one.id}"
            )


@selects(*LETTERS)
def list_letters(
    selection: Selection, *, limit: LimitFlag = 100, wide: WideFlag = False, as_json: JsonFlag = False
) -> None:
    """List dead letters, the latest last."""

    async def look(operators: Operators) -> tuple[list[dict[str, Any]], int]:
        # Kept without their bodies, which may have 64 KB each.
        shown: list[dict[str, Any]] = []
        async for one in operators.walk_letters(selection.wanted, page=min(limit, _PAGE) or _PAGE, latest_first=True):
            shown.append(letter_json(one))
            if len(shown) == limit:
                return shown[::-1], await operators.count_letters(selection.wanted)
        return shown[::-1], len(shown)

    shown, count = _ask(selection.settings, look)
    print_records(shown, _LETTER_COLUMNS, _NARROW_LETTER, as_json=as_json, wide=wide)
    if not count:
        note(_NO_LETTER)
    elif 0 < limit < count:
        note(f"the latest {limit} of {count_text(count)} are shown; say --limit for more")


@selects(*LETTERS)
def group_letters(
    selection: Selection, *, limit: LimitFlag = 100, wide: WideFlag = False, as_json: JsonFlag = False
) -> None:
    """Group dead letters by the cause of their error, the largest group first.

    Each has its number of letters, the number of the latest one, and that one's reason, function and error.
    """
    found = _ask(
        selection.settings, lambda operators: operators.group_letters(selection.wanted, limit=limit or MOST_ID)
    )
    print_records([group_json(group) for group in found], _GROUP_COLUMNS, _NARROW_GROUP, as_json=as_json, wide=wide)
    if not found:
        note(_NO_LETTER)
    elif len(found) == limit:
        note(f"the largest {limit} are shown; say --limit for more")


@selects(*LETTERS)
def count_letters(
    selection: Selection, *, limit: LimitFlag = 100, wide: WideFlag = False, as_json: JsonFlag = False
) -> None:
    """Count dead letters by function and reason, with the age of the oldest and the latest.

    Each has the number of its different errors too; groups shows them.
    """
    found = _ask(
        selection.settings, lambda operators: operators.count_by_reason(selection.wanted, limit=limit or MOST_ID)
    )
    counts = [letter_count_json(row) for row in found]
    print_records(counts, _COUNT_COLUMNS, _NARROW_COUNT, as_json=as_json, wide=wide)
    if not found:
        note(_NO_LETTER)
    elif len(found) == limit:
        note(f"the largest {limit} are shown; say --limit for more")


@takes_settings(*OF_STORE)
def show_letter(
    flags: SettingsFlags,
    letter_id: Annotated[int, typer.Argument(metavar="ID", min=1, max=MOST_ID, help="Its number, as list shows it.")],
    *,
    as_json: JsonFlag = False,
) -> None:
    """Show one dead letter with its error, traceback and body."""
    stored = _ask(flags.load(), lambda operators: operators.get_letter(letter_id))
    if as_json:
        print_json(whole_letter_json(stored))
        return
    print_fields(letter_json(stored))
    if stored.letter.traceback:
        print(f"\n{printable_block(SECRETS.mask(stored.letter.traceback.rstrip()))}")
    print(f"\n{readable_body(stored.letter.body)}")


@selects("ids", *LETTERS, "everything", shown=(*OF_STORE, *OF_QUEUE))
def replay(
    selection: Selection,
    *,
    force: Annotated[bool, typer.Option("--force", help="Also those replayed before or done meanwhile.")] = False,
    rate: Annotated[float | None, typer.Option(metavar="N", help="At most N a second.", show_default=False)] = None,
    group_id: Annotated[str | None, typer.Option(metavar="ID", help="MessageGroupId, for a FIFO queue.")] = None,
    dry_run: DryRunFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Send dead letters to their queues again.

    Their jobs are handled as if they were new. Flags choose only letters that were never replayed; numbers, or
    --state replaying, also choose those whose replay was interrupted, so that it is unknown whether they were sent. If
    the job of such a letter was done meanwhile, nothing is sent and the letter is marked as replayed.
    """
    # `list` and `show` do not load what calls the cloud.
    from consumer.replay import choose, queues_of, replay_letters  # noqa: PLC0415

    if rate is not None and not (rate > 0 and math.isfinite(rate)):
        raise UsageError(f"--rate {rate}: expected a number of letters a second above 0")
    selection.demand("replay")
    settings = selection.settings

    async def send(operators: Operators) -> int:
        chosen = await choose(operators, selection.wanted, force=force)
        if chosen.replayed:
            note(f"{chosen.replayed} left alone that were replayed before; say --force to send them once more")
        if chosen.unknown:
            note(
                f"{chosen.unknown} left alone whose replay was interrupted: they may have been sent;"
                " say --state replaying for them"
            )
        if dry_run:
            queues_of(chosen.letters, settings.queues())
            for one in chosen.letters:
                _print_replayed(one, "would_replay", as_json=as_json)
            note(f"dry run: {len(chosen.letters)} would be replayed")
            return ExitCode.OK
        counts: Counter[str] = Counter()
        lanes, ca_file = settings.queues(), settings.ca_file
        async for result in replay_letters(
            operators, chosen.letters, lanes, force=force, rate=rate, group_id=group_id, ca_file=ca_file
        ):
            counts[result.outcome.value] += 1
            _print_result(result, as_json=as_json)
        summary = ", ".join(f"{count} {word.replace('_', ' ')}" for word, count in counts.items())
        note(summary or "no dead letter matches that could be replayed")
        return ExitCode.OK if counts.keys() <= {"replayed", "handled"} else ExitCode.FAILURE

    raise typer.Exit(_ask(settings, send))


@selects("ids", *LETTERS)
def export(
    selection: Selection,
    *,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="A new file, readable by its owner only; else stdout.")
    ] = None,
) -> None:
    """Export dead letters as JSON lines, bodies included.

    Without numbers and flags all of them. A line has the fields of show, and body_base64: the body's bytes as MNS
    stores them. Known secrets are masked in all texts, but not in body_base64: a changed copy could not be sent again.
    """
    ids, wanted = selection.wanted.ids, selection.wanted
    if ids:
        selection.demand("export")

    async def write(operators: Operators) -> int:
        count = 0
        for letter_id in dict.fromkeys(ids):
            print_json(exported_letter_json(await operators.get_letter(letter_id)), file)
            count += 1
        if not ids:
            async for stored in operators.walk_letters(wanted):
                print_json(exported_letter_json(stored), file)
                count += 1
        return count

    with nullcontext(sys.stdout) if out is None else new_file(out) as file:
        count = _ask(selection.settings, write)
    note(f"{count} exported{'' if out is None else f' to {out}'}")


@selects("ids", *LETTERS, "everything")
def purge(
    selection: Selection,
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Do it: what is purged is gone.")] = False,
    dry_run: DryRunFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Remove dead letters for good; their jobs stay ended."""
    selection.demand("purge")

    def report(outcome: str, count: int, text: str) -> None:
        if as_json:
            print_json({"outcome": outcome, "count": min(count, COUNT_CAP) if dry_run else count})
        note(text)

    async def remove(operators: Operators) -> None:
        for letter_id in selection.wanted.ids:
            await operators.get_letter(letter_id)
        if yes and not dry_run:
            purged = await operators.purge(selection.wanted)
            report("purged", purged, f"{purged} purged")
            return
        count = await operators.count_letters(selection.wanted)
        if not dry_run:
            raise UsageError(
                f"purge: dead letters to be removed for good: {count_text(count)}; say --yes, or --dry-run;"
                " nothing was purged"
            )
        report("would_purge", count, f"dry run: {count_text(count)} would be purged")

    _ask(selection.settings, remove)


def _print_replayed(letter: Candidate, word: str, *, as_json: bool, sent: str = "", **more: str | None) -> None:
    if as_json:
        about = {"function": letter.function, "job_id": letter.job_id, "queue": letter.queue, "reason": letter.reason}
        print_json({"id": letter.id, "outcome": word, **about, "message_id": None, "error": None, **more})
        return
    about_it = f"{letter.function}, job {letter.job_id or 'none'}, {letter.reason}, queue {letter.queue}"
    print(printable(f"{word.replace('_', ' ')}: dead letter {letter.id} ({about_it}){sent}"))


def _print_result(result: Replayed, *, as_json: bool) -> None:
    if result.error is not None and not as_json:
        note(f"error: dead letter {result.letter.id}: {result.error}")
        return
    handled = " whose job was done meanwhile: nothing was sent, it is marked as replayed"
    sent = handled if result.message_id is None else f" as message {result.message_id}"
    more = {"message_id": result.message_id, "error": result.error}
    _print_replayed(result.letter, result.outcome.value, as_json=as_json, sent=sent, **more)
