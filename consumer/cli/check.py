"""``mns-consumer check``: would ``run`` work, and if not, what to do. Takes no message out of any queue.

Each finding is one line: what was looked at, what came, what to do. What costs a message to try - receive, delete and
hide - is not tried; peeking asks for rights of the same resource.

Elsewhere: the calls (``cloud``), the settings' own checks (``config``).
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import typer

from consumer.cli.options import Said, takes_settings
from consumer.errors import CloudError, ConsumerError, ExitCode, Fault, SettingsError

if TYPE_CHECKING:
    from consumer.cloud.clients import Clients
    from consumer.config import Lane, Settings

_NO_JOB: Final = "0" * 32
_LEAST_VISIBILITY_S: Final = 10
_LEAST_RETENTION_S: Final = 3600

_TO_DO: Final = {
    Fault.NETWORK: "see that this machine reaches the address (proxy, firewall, endpoint of the right network)",
    Fault.UNREADABLE: "see that the endpoint is the service's own and no proxy answers in its place",
    Fault.SERVER: "the service fails; try again soon",
    Fault.THROTTLED: "others ask a lot with this account; try again soon",
    Fault.CLOCK: "set this machine's clock right",
    Fault.CREDENTIALS: "give right keys, and the rights to this user or role",
    Fault.MISSING: "create the queue, or correct its name, account or region in the NotifyUrl",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """What came of one look.

    Args:
        good: Green or red.
        what: What was looked at.
        told: What came, and for a red one what to do.
        code: The exit code that a red one asks for.
    """

    good: bool
    what: str
    told: str
    code: ExitCode = ExitCode.FAILURE


def _good(what: str, told: str) -> Finding:
    return Finding(good=True, what=what, told=told)


def _bad(what: str, told: str, code: ExitCode = ExitCode.FAILURE) -> Finding:
    return Finding(good=False, what=what, told=told, code=code)


@takes_settings
def check(said: Said) -> None:
    """See whether `run` would work: settings, handlers, store, credentials, queues, rights.

    A green or red line each, and what to do. No message is taken from a queue. Takes the flags of `run`.
    """
    import anyio  # noqa: PLC0415 - quick --help

    worst = anyio.run(_check, said)
    raise typer.Exit(worst)


async def _check(said: Said) -> ExitCode:
    from rich.console import Console  # noqa: PLC0415 - quick --help
    from rich.text import Text  # noqa: PLC0415 - the same

    console = Console(soft_wrap=True, highlight=False)
    worst = ExitCode.OK
    async for finding in _findings(said):
        word, style = ("ok", "green") if finding.good else ("bad", "bold red")
        console.print(Text.assemble((f"{word:4}", style), f"{finding.what}: {finding.told}"))
        worst = worst if finding.good else max(worst, finding.code)
    return worst


async def _findings(said: Said) -> AsyncIterator[Finding]:
    from consumer.cli.ready import missing_queue  # noqa: PLC0415 - quick --help

    try:
        settings = said.settings()
    except SettingsError as error:
        for problem in error.problems:
            yield _bad("settings", problem, ExitCode.SETTINGS)
        return
    missing = missing_queue(settings)
    for problem in missing:
        yield _bad("settings", problem, ExitCode.SETTINGS)
    if not missing:
        yield _good("settings", f"{len(settings.all_lanes())} queue(s), {settings.slots} slots each")
    for finding in _handlers(settings):
        yield finding
    yield await _store(settings)
    for lane in settings.all_lanes():
        async for finding in _queue(settings, lane):
            yield finding


def _handlers(settings: Settings) -> Iterator[Finding]:
    from consumer.daemon import sources_of  # noqa: PLC0415 - quick --help
    from consumer.plugin.registry import discover  # noqa: PLC0415 - the same

    try:
        registry = discover(sources_of(settings))
    except SettingsError as error:
        for problem in error.problems:
            yield _bad("handlers", problem, ExitCode.SETTINGS)
        return
    yield _good("handlers", f"{len(registry.handlers)} found: {', '.join(registry.handlers)}")
    for place in registry.empty:
        yield _good("handlers", f"{place} holds no function marked with @handler")


async def _store(settings: Settings) -> Finding:
    from anyio import to_thread  # noqa: PLC0415 - quick --help

    from consumer.store.ledger import Filter  # noqa: PLC0415 - quick --help
    from consumer.store.open import make_ledger, make_operators  # noqa: PLC0415 - the same
    from consumer.store_address import PostgresAddress  # noqa: PLC0415 - the same

    target = settings.store_target()
    what = "store"
    try:
        if isinstance(target, PostgresAddress):
            ledger = make_ledger(target)
            try:
                await ledger.open()
                await ledger.ping()
            finally:
                await ledger.close()
            return _good(what, "PostgreSQL answers and takes writes")
        operators = make_operators(target)
        path = target.path.resolve()
        if await to_thread.run_sync(path.exists):
            letters = await operators.count_letters(Filter())
            if not os.access(path, os.W_OK):
                return _bad(what, f"{path} can't be written by this user; give it the right to")
            return _good(what, f"{path} is sound, {letters} dead letter(s)")
    except ConsumerError as error:
        return _bad(what, str(error), ExitCode.SETTINGS if error.exit_code == ExitCode.SETTINGS else ExitCode.FAILURE)
    # Not made here: a file made by whoever checks might not be the daemon's to write.
    folder = next(parent for parent in path.parents if parent.exists())
    if folder.is_dir() and os.access(folder, os.W_OK | os.X_OK):
        return _good(what, f"{path} will be made at the first start")
    return _bad(what, f"{path} can't be made: {folder} can't be written by this user; set store, or the right")


async def _queue(settings: Settings, lane: Lane) -> AsyncIterator[Finding]:
    from consumer.cloud.clients import open_clients  # noqa: PLC0415 - quick --help

    name = lane.url.queue
    try:
        async with open_clients(lane, ca_file=settings.ca_file) as clients:
            try:
                await clients.credentials.keys()
            except CloudError as error:
                yield _red(f"{name}, credentials", error)
                return
            yield _good(f"{name}, credentials", "found")
            async for finding in _rights(settings, lane, clients):
                yield finding
    except SettingsError as error:
        for problem in error.problems:
            yield _bad(name, problem, ExitCode.SETTINGS)


async def _rights(settings: Settings, lane: Lane, clients: Clients) -> AsyncIterator[Finding]:
    name = lane.url.queue
    try:
        attributes = await clients.queue.attributes()
    except CloudError as error:
        yield _red(f"{name}, queue", error)
    else:
        waiting = "unknown" if attributes.active_messages is None else str(attributes.active_messages)
        yield _good(f"{name}, queue", f"reached at {lane.endpoint}, {waiting} message(s) waiting")
        yield _visibility(name, attributes.visibility_timeout_s)
        yield _retention(settings, name, attributes.retention_s)
    try:
        await clients.queue.peek(1)
        yield _good(f"{name}, right to look at messages", "given")
    except CloudError as error:
        yield _red(f"{name}, right to look at messages", error)
    try:
        await clients.mps.query(_NO_JOB)
        yield _good(f"{name}, right to query jobs", f"given by MPS at {lane.mps_endpoint}")
    except CloudError as error:
        if error.fault is Fault.REQUEST:
            # It was let in and found no such job, which is as it should be.
            yield _good(f"{name}, right to query jobs", f"given by MPS at {lane.mps_endpoint}")
        else:
            yield _red(f"{name}, right to query jobs (mts:QueryIProductionJob)", error)


def _red(what: str, error: CloudError) -> Finding:
    to_do = _TO_DO.get(error.fault)
    return _bad(what, f"{error}{f'; {to_do}' if to_do else ''}")


def _visibility(name: str, seconds: int) -> Finding:
    what = f"{name}, visibility timeout"
    if seconds < _LEAST_VISIBILITY_S:
        return _bad(
            what,
            f"{seconds} s; expected at least {_LEAST_VISIBILITY_S} s, or a lease is lost before it is renewed",
        )
    return _good(what, f"{seconds} s, renewed while a handler runs")


def _retention(settings: Settings, name: str, seconds: int) -> Finding:
    least_s = max(_LEAST_RETENTION_S, round(2 * settings.retry_cap_s))
    what = f"{name}, retention"
    if seconds < least_s:
        return _bad(
            what,
            f"{seconds} s; expected at least {least_s} s (twice retry_cap_s), since MNS drops older messages silently;"
            " raise the queue's MessageRetentionPeriod or lower retry_cap_s",
        )
    return _good(what, f"{seconds} s")
