"""``mns-consumer dead-letters replay``: which letters go back, and what is told of each.

Elsewhere: sending them (``cli.replay``), the other commands (``cli.dead_letters``).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from consumer.cli.letter_pages import open_operators, walk_letters
from consumer.cli.options import Said, takes_settings
from consumer.cli.record_view import note, print_json
from consumer.cli.records import (
    AllFlag,
    DryRunFlag,
    FunctionFlag,
    IdsArgument,
    JobIdFlag,
    JsonFlag,
    QueueFlag,
    ReasonFlag,
    SinceFlag,
    StateFlag,
    demand_choice,
    wanted_records,
)
from consumer.errors import ExitCode, UsageError
from consumer.ops.escape import printable
from consumer.store.ledger import Filter, LetterState
from consumer.store.queries import Operators, replayed_already

if TYPE_CHECKING:
    from consumer.cli.replay import Chosen, Replayed


@takes_settings
def replay(
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
    force: Annotated[bool, typer.Option("--force", help="Also those replayed before or done meanwhile.")] = False,
    rate: Annotated[float | None, typer.Option(metavar="N", help="At most N a second.", show_default=False)] = None,
    group_id: Annotated[str | None, typer.Option(metavar="ID", help="MessageGroupId, for a FIFO queue.")] = None,
    dry_run: DryRunFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Send dead letters to their queues again, where their jobs are handled as if they were new.

    Flags choose only those that were never sent again; numbers, or --state replaying, also choose those whose replay
    was cut off, so that nobody knows whether they were sent. Where the job of such a one was done meanwhile, nothing is
    sent and it is marked as replayed.
    """
    if rate is not None and not (rate > 0 and math.isfinite(rate)):
        raise UsageError(f"--rate {rate}: expected a number of letters a second above 0")
    settings = said.settings()
    wanted = wanted_records(
        settings, function=function, reason=reason, since=since, job_id=job_id, queue=queue, state=state
    )
    demand_choice("replay", ids or (), wanted, everything=everything)

    async def send_again() -> int:
        from consumer.cli.replay import lanes_for, replay_letters  # noqa: PLC0415 - quick --help

        async with open_operators(settings.store_target()) as operators:
            chosen = await _chosen(operators, ids or (), wanted, force=force)
            if dry_run:
                lanes_for(settings, chosen)
                for one in chosen:
                    _tell_chosen(one, "would_replay", as_json=as_json)
                note(f"dry run: {len(chosen)} would be replayed")
                return ExitCode.OK
            outcomes: Counter[str] = Counter()
            replayed = replay_letters(operators, settings, chosen, force=force, rate=rate, group_id=group_id)
            async for ended in replayed:
                outcomes[ended.outcome.value] += 1
                _tell_replayed(ended, as_json=as_json)
            told = ", ".join(f"{count} {word.replace('_', ' ')}" for word, count in outcomes.items())
            note(told or "no dead letter matches that could be replayed")
            return ExitCode.OK if set(outcomes) <= {"replayed", "handled"} else ExitCode.FAILURE

    import anyio  # noqa: PLC0415 - quick --help

    raise typer.Exit(anyio.run(send_again))


async def _chosen(operators: Operators, ids: Sequence[int], wanted: Filter, *, force: bool) -> list[Chosen]:
    """The letters to replay.

    Raises:
        UsageError: A number is unknown, or was replayed and ``force`` is not said; nothing was begun.
    """
    from consumer.cli.replay import Chosen  # noqa: PLC0415 - quick --help

    if ids:
        found = [await operators.get_letter(letter_id) for letter_id in dict.fromkeys(ids)]
        for stored in found:
            if stored.state is LetterState.REPLAYED and not force:
                raise replayed_already(stored.id, stored.replayed_at)
        return [Chosen.of(stored) for stored in found]
    every = [Chosen.of(stored) async for stored in walk_letters(operators, wanted)]
    meant = {LetterState.SET_ASIDE, wanted.state or LetterState.SET_ASIDE} - {LetterState.REPLAYED}
    chosen = [one for one in every if force or one.progress.state in meant]
    left = Counter(one.progress.state for one in every if not force and one.progress.state not in meant)
    if left[LetterState.REPLAYED]:
        note(f"{left[LetterState.REPLAYED]} left alone that were replayed before; say --force to send them once more")
    if left[LetterState.REPLAYING]:
        note(
            f"{left[LetterState.REPLAYING]} left alone whose replay was cut off: they may have been sent;"
            " say --state replaying for them"
        )
    return chosen


def _tell_chosen(one: Chosen, word: str, *, as_json: bool, **more: str | None) -> None:
    if as_json:
        print_json(
            {
                "id": one.id,
                "outcome": word,
                "function": one.function,
                "job_id": one.job_id,
                "queue": one.queue,
                "reason": one.reason,
                **more,
            }
        )
        return
    told = f"dead letter {one.id} ({one.function}, job {one.job_id or 'none'}, {one.reason}, queue {one.queue})"
    print(printable(f"{word.replace('_', ' ')}: {told}{''.join(f' {text}' for text in more.values() if text)}"))


def _tell_replayed(one: Replayed, *, as_json: bool) -> None:
    if as_json:
        _tell_chosen(one.chosen, one.outcome.value, as_json=True, message_id=one.message_id, error=one.error)
    elif one.error is None:
        handled = "whose job was done meanwhile: nothing was sent, it is marked as replayed"
        sent = handled if one.message_id is None else f"as message {one.message_id}"
        _tell_chosen(one.chosen, one.outcome.value, as_json=False, sent=sent)
    else:
        note(f"error: dead letter {one.chosen.id}: {one.error}")
