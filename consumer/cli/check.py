"""``mns-consumer check``: would ``run`` work, and if not, what to do. Takes no message out of any queue.

With ``--policy`` it prints the RAM policy that the keys need instead, and sends no request.

Elsewhere: the store (``cli.check_store``), the queues and rights (``cli.check_queue``), which call needs which right
(``rights``), the settings' own checks (``config``).
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Collection, Iterator
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Final

import typer

from consumer.cli.options import Said, takes_settings
from consumer.errors import ExitCode, SettingsError
from consumer.functions.catalogue import names, nearest
from consumer.rights import ALSO, COMMANDS, RUN, policy

if TYPE_CHECKING:
    from consumer.cli.findings import Finding
    from consumer.config import Settings

_STYLES: Final = {"ok": "green", "warn": "yellow", "bad": "bold red"}
_PANEL: Final = "What is checked"


class Also(StrEnum):
    """Rights beyond those of ``run``; the words of ``rights.ALSO``."""

    PEEK = "peek"
    SEND = "send"
    REPLAY = "replay"
    SUBMIT = "submit"


@takes_settings
def check(
    said: Said,
    *,
    also: Annotated[
        list[Also] | None,
        typer.Option(
            "--also",
            help="Rights beyond those of run: of queue peek, queue send, dead-letters replay, submit; may be repeated.",
            rich_help_panel=_PANEL,
        ),
    ] = None,
    as_policy: Annotated[
        bool,
        typer.Option("--policy", help="Print the RAM policy for these queues, and end.", rich_help_panel=_PANEL),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")] = False,
) -> None:
    """See whether `run` would work: settings, handlers, store, credentials, queues, rights.

    One line for each finding: ok, warn or bad, and what to do. No message is taken from a queue. Takes the flags of
    `run`. Exits with 0 unless a line is bad.
    """
    words = [word.value for word in also or ()]
    if as_policy:
        _print_policy(said, words)
        return
    import anyio  # noqa: PLC0415 - quick --help

    worst = anyio.run(_check, said, words, as_json)
    raise typer.Exit(worst)


def _print_policy(said: Said, also: Collection[str]) -> None:
    from consumer.cli.ready import missing_queue  # noqa: PLC0415 - quick --help

    settings = said.settings()
    if problems := missing_queue(settings):
        raise SettingsError(*problems)
    calls = [*RUN, *(call for word in also for call in COMMANDS[ALSO[word]])]
    print(json.dumps(policy([lane.url for lane in settings.all_lanes()], calls), indent=2))


async def _check(said: Said, also: Collection[str], as_json: bool) -> ExitCode:  # noqa: FBT001 - handed on by anyio.run
    from rich.console import Console  # noqa: PLC0415 - quick --help
    from rich.text import Text  # noqa: PLC0415 - the same

    from consumer.ops.escape import json_text, printable_block  # noqa: PLC0415 - the same

    console = Console(soft_wrap=True, highlight=False)
    worst = ExitCode.OK
    async for finding in _findings(said, also):
        if as_json:
            print(json_text(finding.fields()))
        else:
            style = _STYLES[finding.level]
            # The traceback of a handler's file keeps its lines.
            console.print(Text.assemble((f"{finding.level.value:5}", style), printable_block(finding.line).lstrip()))
        worst = max(worst, finding.code)
    return worst


async def _findings(said: Said, also: Collection[str]) -> AsyncIterator[Finding]:
    from consumer.cli.check_queue import queue_findings  # noqa: PLC0415 - quick --help
    from consumer.cli.check_store import store_findings  # noqa: PLC0415 - the same
    from consumer.cli.findings import bad, good  # noqa: PLC0415 - the same
    from consumer.cli.ready import missing_queue  # noqa: PLC0415 - the same

    try:
        settings = said.settings()
    except SettingsError as error:
        for problem in error.problems:
            yield bad("settings", problem, code=ExitCode.SETTINGS)
        return
    missing = missing_queue(settings)
    for problem in missing:
        yield bad("settings", problem, code=ExitCode.SETTINGS)
    if not missing:
        yield good("settings", f"{len(settings.all_lanes())} queue(s), {settings.slots} slots each")
    for finding in _handlers(settings):
        yield finding
    async for finding in store_findings(settings):
        yield finding
    for lane in settings.all_lanes():
        async for finding in queue_findings(settings, lane, also):
            yield finding


def _handlers(settings: Settings) -> Iterator[Finding]:
    from consumer.cli.findings import bad, good, warning  # noqa: PLC0415 - quick --help
    from consumer.daemon import sources_of  # noqa: PLC0415 - the same
    from consumer.message.notification import Kind  # noqa: PLC0415 - the same
    from consumer.plugin.handler import ANY_NAME  # noqa: PLC0415 - the same
    from consumer.plugin.registry import discover  # noqa: PLC0415 - the same

    what = "handlers"
    try:
        registry = discover(sources_of(settings))
    except SettingsError as error:
        for problem in error.problems:
            yield bad(what, problem, code=ExitCode.SETTINGS)
        return
    yield good(what, f"{len(registry.handlers)} found: {', '.join(registry.handlers)}")
    for place in registry.empty:
        yield warning(what, f"{place} holds no function marked with @handler")
    for name, handler in registry.handlers.items():
        if name not in {*names(), *Kind, ANY_NAME}:
            near = nearest(name)
            hint = f"did you mean {near!r}?" if near else "is it spelt as MPS spells it?"
            yield warning(what, f"{handler.origin}: {name!r} is no documented FunctionName or kind; {hint}")
