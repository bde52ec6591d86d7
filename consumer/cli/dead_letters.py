"""``mns-consumer dead-letters``: look at messages that were set aside, send them again, take them out, throw them away.

All of it works while the daemon runs.

Elsewhere: sending again (``cli.dead_letters_replay``), choosing (``cli.records``), the store's side
(``store.queries``).
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TextIO

import typer

from consumer.cli.dead_letters_replay import replay
from consumer.cli.letter_pages import latest_letters, open_operators, walk_letters
from consumer.cli.options import Said, takes_settings
from consumer.cli.record_view import letter_json, note, print_fields, print_json, print_letters, readable_body
from consumer.cli.records import (
    MOST_ID,
    AllFlag,
    DryRunFlag,
    FunctionFlag,
    IdsArgument,
    JobIdFlag,
    JsonFlag,
    LimitFlag,
    QueueFlag,
    ReasonFlag,
    SinceFlag,
    StateFlag,
    demand_choice,
    wanted_records,
)
from consumer.errors import ConsumerError, UsageError
from consumer.ops.escape import printable_block
from consumer.ops.redact import SECRETS
from consumer.store.ledger import Filter

if TYPE_CHECKING:
    from collections.abc import Iterator

    from consumer.store.queries import StoredLetter

dead_letters = typer.Typer(help="Look after messages that were set aside.", no_args_is_help=True)

_NONE: Final = "no dead letter matches"


@dead_letters.command(name="list")
@takes_settings
def list_letters(
    said: Said,
    *,
    function: FunctionFlag = None,
    reason: ReasonFlag = None,
    since: SinceFlag = None,
    job_id: JobIdFlag = None,
    queue: QueueFlag = None,
    state: StateFlag = None,
    limit: LimitFlag = 100,
    as_json: JsonFlag = False,
) -> None:
    """List the messages that were set aside, the latest last."""
    settings = said.settings()
    wanted = wanted_records(
        settings, function=function, reason=reason, since=since, job_id=job_id, queue=queue, state=state
    )

    async def look() -> tuple[list[dict[str, Any]], int]:
        async with open_operators(settings.store_target()) as operators:
            count = await operators.count_letters(wanted)
            letters = latest_letters(operators, wanted, limit) if limit else walk_letters(operators, wanted)
            # Without their bodies, which may have 64 KB each.
            shown = [letter_json(stored, whole=False) async for stored in letters]
            return (shown[::-1] if limit else shown), count

    found, count = _run(look)
    if as_json:
        for fields in found:
            print_json(fields)
    elif found:
        print_letters(found)
    if not count:
        note(_NONE)
    elif 0 < limit < count:
        note(f"the latest {limit} of {count} are shown; say --limit for more")


@dead_letters.command(name="show")
@takes_settings
def show_letter(
    said: Said,
    letter_id: Annotated[int, typer.Argument(metavar="ID", min=1, max=MOST_ID, help="Its number, as list shows it.")],
    *,
    as_json: JsonFlag = False,
) -> None:
    """Show one dead letter with its error, traceback and body."""
    settings = said.settings()

    async def look() -> StoredLetter:
        async with open_operators(settings.store_target()) as operators:
            return await operators.get_letter(letter_id)

    stored = _run(look)
    if as_json:
        print_json(letter_json(stored, whole=True))
        return
    print_fields(letter_json(stored, whole=False))
    if stored.letter.traceback:
        print(f"\n{printable_block(SECRETS.mask(stored.letter.traceback.rstrip()))}")
    print(f"\n{readable_body(stored.letter.body)}")


dead_letters.command(name="replay")(replay)


@dead_letters.command(name="export")
@takes_settings
def export(
    said: Said,
    ids: IdsArgument = None,
    *,
    function: FunctionFlag = None,
    reason: ReasonFlag = None,
    since: SinceFlag = None,
    job_id: JobIdFlag = None,
    queue: QueueFlag = None,
    state: StateFlag = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="A new file, readable by its owner only; else stdout.")
    ] = None,
) -> None:
    """Write dead letters as JSON lines, bodies included; without any choice all of them.

    A line has body_base64 (the bytes as they lay in the queue), body_text (the same as text, where it is UTF-8) and
    body_decoded (what its base64 holds). Known secrets are masked in all texts, but never in body_base64: a changed
    copy could not be sent again.
    """
    settings = said.settings()
    wanted = wanted_records(
        settings, function=function, reason=reason, since=since, job_id=job_id, queue=queue, state=state
    )
    if ids:
        demand_choice("export", ids, wanted, everything=False)

    async def write(file: TextIO | None) -> int:
        count = 0
        async with open_operators(settings.store_target()) as operators:
            if ids:
                for letter_id in dict.fromkeys(ids):
                    print_json(letter_json(await operators.get_letter(letter_id), whole=True, exact=True), file)
                    count += 1
            else:
                async for stored in walk_letters(operators, wanted):
                    print_json(letter_json(stored, whole=True, exact=True), file)
                    count += 1
        return count

    if out is None:
        count = _run(write, None)
    else:
        with _new_file(out) as file:
            count = _run(write, file)
    note(f"{count} exported{'' if out is None else f' to {out}'}")


@dead_letters.command(name="purge")
@takes_settings
def purge(
    said: Said,
    ids: IdsArgument = None,
    *,
    function: FunctionFlag = None,
    reason: ReasonFlag = None,
    since: SinceFlag = None,
    job_id: JobIdFlag = None,
    queue: QueueFlag = None,
    state: StateFlag = None,
    everything: AllFlag = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do it: what is purged is gone.")] = False,
    dry_run: DryRunFlag = False,
) -> None:
    """Remove dead letters for good; their jobs stay ended."""
    settings = said.settings()
    wanted = wanted_records(
        settings, function=function, reason=reason, since=since, job_id=job_id, queue=queue, state=state
    )
    demand_choice("purge", ids or (), wanted, everything=everything)

    async def remove() -> None:
        async with open_operators(settings.store_target()) as operators:
            for letter_id in ids or ():
                await operators.get_letter(letter_id)
            which = Filter(ids=tuple(ids)) if ids else wanted
            if dry_run:
                note(f"dry run: {await operators.count_letters(which)} would be purged")
                return
            if not yes:
                count = await operators.count_letters(which)
                raise UsageError(f"purge: {count} would be gone for good; say --yes, or --dry-run; nothing was purged")
            note(f"{await operators.purge(which)} purged")

    _run(remove)


def _run(work: Any, *values: Any) -> Any:
    import anyio  # noqa: PLC0415 - quick --help

    return anyio.run(work, *values)


@contextmanager
def _new_file(path: Path) -> Iterator[TextIO]:
    """A file of its owner's alone, on disk when the block is left, gone again when it can't be finished."""
    try:
        # Never one that is there: it might be readable by others, or be the last export before a purge.
        number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        os.fchmod(number, 0o600)  # Whatever the umask took away.
    except FileExistsError:
        raise UsageError(f"--out {path}: expected a new file, this one is there already; name another") from None
    except OSError as error:
        raise UsageError(f"--out {path}: it can't be made: {error.strerror}") from None
    try:
        with open(number, "w", encoding="utf-8") as file:  # noqa: PTH123 - a descriptor, no path
            yield file
            file.flush()
            os.fsync(file.fileno())
    except BaseException as error:
        path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise ConsumerError(f"--out {path}: it can't be written: {error.strerror}; nothing is kept of it") from None
        raise
