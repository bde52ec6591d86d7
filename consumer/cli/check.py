"""``mns-consumer check``: would ``run`` work, and if not, what to do. Takes no message out of any queue.

A right is tried without touching a message, by a call that names something that does not exist. A service checks rights
before it looks for what a call names (inferred), so any answer about that thing shows that the right is there:

    BatchDeleteMessage        a receipt handle of the real form that MNS never gave out: MessageNotExist
    ChangeMessageVisibility   the same handle
    QueryIProductionJob       a JobId of zeros: an answer without a job, or InvalidParameter
    SubmitIProductionJob      a FunctionName of no algorithm: InvalidParameter, so no job is made (only with --also)
    BatchPeekMessage          harmless by itself (only with --also)

BatchReceiveMessage and SendMessage have no such form: they are never tried, and that is reported.

Source: facts/mns.md#receipt-handles, facts/mns.md#rights, facts/mns.md#order-of-checks,
facts/iproduction.md#api-error-codes.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import AsyncGenerator, Collection, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

import anyio
import typer
from anyio import to_thread
from rich.console import Console
from rich.text import Text

from consumer.cli.options import SettingsFlags, find_handlers, missing_queue, takes_settings
from consumer.cli.output import JsonFlag, count_text, print_json
from consumer.cloud import faults
from consumer.cloud.clients import Clients, open_clients
from consumer.cloud.messages import QueueAttributes
from consumer.config import QueueSettings, Settings
from consumer.errors import CloudError, ConsumerError, ExitCode, Fault, SettingsError, StoreError
from consumer.functions.catalogue import names, nearest
from consumer.instance import DaemonUser, Instance
from consumer.message.notification import Kind
from consumer.notify_url import is_loopback
from consumer.ops.sanitize import printable_block
from consumer.plugin.handler import ANY_NAME
from consumer.rights import ALSO, COMMANDS, RIGHTS, RUN, Also, ram_policy
from consumer.store.ledger import Filter
from consumer.store.open import find_revision, make_ledger, make_operators, refusal
from consumer.store.rows import SCHEMA_REVISION
from consumer.store_address import PostgresAddress, SqliteAddress

_PANEL: Final = "What is checked"
_STYLES: Final = {"ok": "green", "warn": "yellow", "bad": "bold red"}
NO_HANDLE: Final = "8-" + "0" * 34
NO_JOB: Final = "0" * 32
NO_FUNCTION: Final = "NoSuchFunction"
LEAST_VISIBILITY_S: Final = 10
_LEAST_RETENTION_S: Final = 3600

_NEVER_TRIED: Final = {"BatchReceiveMessage": "take", "SendMessage": "send"}
"""Calls without a harmless form, and what they would do to a message."""
_SAME_FOR_ALL: Final = frozenset({Fault.NETWORK, Fault.UNREADABLE, Fault.CLOCK, Fault.MISSING, Fault.CREDENTIALS})
"""Faults that every call to this queue meets, unless only one right is missing."""
_TO_DO: Final = {
    Fault.NETWORK: "see that this machine reaches the address (proxy, firewall, endpoint of the right network)",
    Fault.UNREADABLE: "see that the endpoint is the service's own and no proxy answers in its place",
    Fault.SERVER: "the service fails; try again soon",
    Fault.THROTTLED: "this account sends too many requests; try again soon",
    Fault.CLOCK: "set this machine's clock right",
    Fault.MISSING: "create the queue, or correct its name, account or region in the NotifyUrl",
}
"""What to do if the error itself does not say it (``faults.advice``)."""


class Severity(StrEnum):
    """How good a finding is."""

    GOOD = "ok"
    WARNING = "warn"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Finding:
    """What was checked, what came, and what to do unless it is good.

    ``queue`` is ``ACCOUNT/REGION/NAME``, ``code`` the exit code that a bad one asks for.
    """

    severity: Severity
    what: str
    text: str
    queue: str | None = None
    code: ExitCode = ExitCode.OK

    @property
    def line(self) -> str:
        """The finding without its severity, for people."""
        place = f"{self.queue.rpartition('/')[2]}, " if self.queue else ""
        return f"{place}{self.what}: {self.text}"

    def fields(self) -> dict[str, Any]:
        """The finding as ``--json`` prints it."""
        about = {"level": self.severity.value, "queue": self.queue, "what": self.what, "text": self.text}
        return {**about, "exit_code": int(self.code)}


def good(what: str, text: str, queue: str | None = None) -> Finding:
    """A finding that is as it should be."""
    return Finding(Severity.GOOD, what, text, queue)


def warning(what: str, text: str, queue: str | None = None) -> Finding:
    """``run`` works; something is worth knowing or could not be checked."""
    return Finding(Severity.WARNING, what, text, queue)


def bad(what: str, text: str, queue: str | None = None, code: ExitCode = ExitCode.FAILURE) -> Finding:
    """``run`` does not work."""
    return Finding(Severity.BAD, what, text, queue, code)


@takes_settings()
def check(
    flags: SettingsFlags,
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
    as_json: JsonFlag = False,
) -> None:
    """Check whether run would work: settings, handlers, store, queues, rights.

    One line for each finding: ok, warn or bad, and what to do. No message is taken from a queue. Takes the flags of
    `run`. Exits with 0 unless a line is bad.
    """
    calls = list(dict.fromkeys([*RUN, *(call for word in also or () for call in COMMANDS[ALSO[word]])]))
    if not as_policy:
        raise typer.Exit(anyio.run(_check, flags, calls, as_json))
    settings = flags.load()
    if problems := missing_queue(settings):
        raise SettingsError(*problems)
    print(json.dumps(ram_policy([lane.url for lane in settings.queues()], calls), indent=2))


async def _check(flags: SettingsFlags, calls: Collection[str], as_json: bool) -> ExitCode:  # noqa: FBT001 - handed on by anyio.run
    console = Console(soft_wrap=True, highlight=False)
    worst = ExitCode.OK
    async with aclosing(_findings(flags, calls)) as findings:
        async for finding in findings:
            if as_json:
                print_json(finding.fields())
            else:
                level, line = f"{finding.severity.value:5}", printable_block(finding.line).lstrip()
                # A traceback keeps its lines.
                console.print(Text.assemble((level, _STYLES[finding.severity]), line))
            worst = max(worst, finding.code)
    return worst


async def _findings(flags: SettingsFlags, calls: Collection[str]) -> AsyncGenerator[Finding, None]:
    try:
        settings = flags.load()
    except SettingsError as error:
        for problem in error.problems:
            yield bad("settings", problem, code=ExitCode.SETTINGS)
        return
    missing = missing_queue(settings)
    for problem in missing:
        yield bad("settings", problem, code=ExitCode.SETTINGS)
    if not missing:
        yield good("settings", f"{len(settings.queues())} queue(s), {settings.slots} slots each")
    for finding in _handlers(settings):
        yield finding
    yield await store_finding(settings, flags.find_instance())
    for lane in settings.queues():
        async with aclosing(queue_findings(settings, lane, calls)) as findings:
            async for finding in findings:
                yield finding


def _handlers(settings: Settings) -> Iterator[Finding]:
    what = "handlers"
    try:
        registry = find_handlers(settings)
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


async def store_finding(settings: Settings, instance: Instance | None = None) -> Finding:
    """Check whether `run` can open the store. Makes no file, because its owner must be the daemon's user.

    Of an installed daemon the files are judged as its user finds them, not the caller.
    """
    target = settings.store_address()
    try:
        if isinstance(target, PostgresAddress):
            ledger = make_ledger(target)
            try:
                await ledger.open()
                await ledger.ping()
            finally:
                await ledger.close()
            # Its address may hold a password, so it is not repeated.
            return good("store", "PostgreSQL answers and takes writes")
        path = target.path.expanduser().resolve()
        user = instance.user() if instance else None
        if problem := await to_thread.run_sync(_problem_of_file, path, user):
            return problem
        if instance and not instance.keeps(path):
            return _of_another_folder(path, instance, user)
        if not await to_thread.run_sync(path.exists):
            return good("store", f"{path} will be made at the first start")
        found = await find_revision(target)
        if found is not None and found < SCHEMA_REVISION:
            text = f"{path} has the tables of revision {found}; run brings them to {SCHEMA_REVISION}, after a copy"
            return warning("store", text)
        letters = count_text(await make_operators(target).count_letters(Filter()))
        whose = f" for the daemon's user {user.uid}" if user else ""
        return good("store", f"{path} is sound{whose}, {letters} dead letter(s)")
    except ConsumerError as error:
        code = ExitCode.SETTINGS if error.exit_code == ExitCode.SETTINGS else ExitCode.FAILURE
        return bad("store", str(error), code=code)


def _of_another_folder(path: Path, instance: Instance, user: DaemonUser | None) -> Finding:
    """An installed daemon's store outside its state folder: what the unit lets the daemon write is not known here."""
    who = f"its user {user.uid}" if user else "its user, who is not known before the first start,"
    return warning(
        "store",
        f"{path} is outside the state folder of the daemon {instance.name}: whether {who} may write there is up to the"
        f" unit (ReadWritePaths=) and the folders above; keep it at {instance.store}, or look at the daemon's log",
    )


def _problem_of_file(path: Path, user: DaemonUser | None) -> Finding | None:
    """The first problem of the file or its folder that ``run`` would meet.

    ``user`` is the installed daemon's; ``None`` for a daemon of the caller.
    """
    mode = _mode(path)
    folder = path.parent
    while (folder_mode := _mode(folder)) is None and folder != folder.parent:
        folder = folder.parent
    if mode is not None and stat.S_ISDIR(mode):
        return bad("store", f"{path} is a directory; name a file in it")
    if folder_mode is None or not stat.S_ISDIR(folder_mode):
        return bad("store", f"{path} can't be made: {folder} is no folder; set store to another path")
    if problem := refusal(SqliteAddress(path), user):
        return bad("store", problem, code=ExitCode.SETTINGS)
    if not os.access(folder, os.W_OK | os.X_OK):
        return bad(
            "store",
            f"{path} can't be used: the folder {folder} can't be written by this user, and the store's lock lies beside"
            " it; set store, or give the right to write there",
        )
    if mode is not None and not os.access(path, os.R_OK | os.W_OK):
        return bad("store", f"{path} can't be written by this user; give it the right to")
    return None


def _mode(path: Path) -> int | None:
    """The file's type and rights; ``None`` if there is no file.

    Raises:
        StoreError: It can't be looked at.
    """
    try:
        return path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise StoreError(f"store {path} can't be looked at: {why}; set store, or give this user the right to") from None


async def queue_findings(
    settings: Settings, lane: QueueSettings, calls: Collection[str] = RUN
) -> AsyncGenerator[Finding, None]:
    """Check one queue, and MPS with its keys; ``calls`` are those whose rights are tried (``rights.RIGHTS``)."""
    queue = lane.url.identity
    for finding in _unencrypted(lane):
        yield finding
    try:
        async with open_clients(lane, ca_file=settings.ca_file) as clients:
            try:
                await clients.credentials.keys()
            except CloudError as error:
                yield bad("credentials", explained(error), queue)
                return
            yield good("credentials", "found", queue)
            reached = True
            try:
                attributes = await clients.queue.attributes()
            except CloudError as error:
                if lacks_right := faults.lacks_a_right(error.code):
                    without = "without it the daemon works with MNS's default retention of 4 days"
                    yield warning(RIGHTS["GetQueueAttributes"].name, f"{explained(error)}; {without}", queue)
                else:
                    yield bad("queue", explained(error), queue)
                reached = lacks_right or error.fault not in _SAME_FOR_ALL
            else:
                for finding in _of_attributes(settings, lane, attributes):
                    yield finding
            for call in calls:
                if call != "GetQueueAttributes":
                    yield await _right(call, lane, clients, reached=reached)
    except SettingsError as error:
        for problem in error.problems:
            yield bad("settings", problem, queue, ExitCode.SETTINGS)


def _unencrypted(lane: QueueSettings) -> Iterator[Finding]:
    for setting, endpoint in dict.fromkeys((("endpoint", lane.endpoint), ("mps_endpoint", lane.mps_endpoint))):
        parts = urlsplit(endpoint)
        if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
            text = f"{endpoint} is not encrypted, so everyone on the path can read and change messages; use https://"
            yield warning(setting, text, lane.url.identity)


def _of_attributes(settings: Settings, lane: QueueSettings, attributes: QueueAttributes) -> Iterator[Finding]:
    queue = lane.url.identity
    waiting = "unknown" if attributes.active_messages is None else str(attributes.active_messages)
    yield good("queue", f"reached at {lane.endpoint}, {waiting} message(s) waiting", queue)
    yield _visibility(queue, attributes.visibility_timeout_s)
    yield _retention(settings, queue, attributes.retention_s)
    policy = attributes.dlq_policy
    if policy and not re.search(r"enabled\W*false", policy, re.IGNORECASE):
        yield warning(
            "DlqPolicy",
            f"the queue has a dead-letter policy of its own ({policy}): after MaxReceiveCount receives MNS moves a"
            " message away, also one that is to be retried; remove the policy, or set max_failures below its count",
            queue,
        )


def _visibility(queue: str, seconds: int) -> Finding:
    what = "visibility timeout"
    if seconds < LEAST_VISIBILITY_S:
        text = f"{seconds} s; expected at least {LEAST_VISIBILITY_S} s, or a lease is lost before it is renewed"
        return bad(what, text, queue)
    return good(what, f"{seconds} s, renewed while a handler runs", queue)


def _retention(settings: Settings, queue: str, seconds: int) -> Finding:
    least_s = max(_LEAST_RETENTION_S, round(2 * settings.retry_cap_s))
    if seconds >= least_s:
        return good("retention", f"{seconds} s", queue)
    return bad(
        "retention",
        f"{seconds} s; expected at least {least_s} s (twice retry_cap_s), since MNS drops older messages silently;"
        " raise the queue's MessageRetentionPeriod or lower retry_cap_s",
        queue,
    )


async def _right(call: str, lane: QueueSettings, clients: Clients, *, reached: bool) -> Finding:
    """Try one right, or say why not."""
    right, queue = RIGHTS[call], lane.url.identity
    needs = " and ".join(right.actions)
    is_mps = right.service == "mts"
    if call in _NEVER_TRIED:
        text = f"not tried, since that would {_NEVER_TRIED[call]} a message; it needs {needs}"
        return warning(right.name, text, queue)
    if not (reached or is_mps):
        return warning(right.name, f"not tried, since the queue could not be asked; it needs {needs}", queue)
    try:
        problem = await _try(call, clients)
    except CloudError as error:
        is_open = call == "SubmitIProductionJob" and not faults.surely_not_sent(error)
        return bad(right.name, f"{explained(error)}{'; a job may have been made' if is_open else ''}", queue)
    if problem:
        return warning(right.name, problem, queue)
    return good(right.name, f"given, by MPS at {lane.mps_endpoint}" if is_mps else "given", queue)


async def _try(call: str, clients: Clients) -> str:
    """Try a right; returns a warning, or ``""`` where it is given.

    Raises:
        CloudError: The call was refused, or its answer does not show that the right is there.
    """
    try:
        match call:
            case "BatchDeleteMessage":
                await _try_delete(clients)
            case "ChangeMessageVisibility":
                await clients.queue.hide(NO_HANDLE, 1)
            case "QueryIProductionJob":
                await clients.mps.query(NO_JOB)
            case "BatchPeekMessage":
                await clients.queue.peek(1)
            case "SubmitIProductionJob":
                submitted = await clients.mps.submit({"FunctionName": NO_FUNCTION, "JobParams": "{}"})
                return (
                    f"given, but MPS accepted the FunctionName {NO_FUNCTION!r}, which no algorithm has: job"
                    f" {submitted.job_id} was made and may be billed; no message will say that it ended"
                )
    except CloudError as error:
        if not _is_about_the_object(call, error):
            raise
    return ""


async def _try_delete(clients: Clients) -> None:
    for failure in await clients.queue.delete([NO_HANDLE]):
        if not failure.gone:
            operation, fault = "BatchDeleteMessage", faults.mns_fault(failure.code, 500)
            to_do = faults.advice(operation, fault, failure.code)
            detail = f"{failure.detail}{f'; {to_do}' if to_do else ''}"
            raise CloudError(fault, operation=operation, target=clients.queue.name, code=failure.code, detail=detail)


def _is_about_the_object(call: str, error: CloudError) -> bool:
    """Whether an error says that what the call names does not exist, which is asked after the right."""
    match call:
        case "BatchDeleteMessage" | "ChangeMessageVisibility":
            return error.fault is Fault.GONE
        case "QueryIProductionJob":
            return error.fault is Fault.REQUEST and faults.is_about_the_job(error.code)
        case "SubmitIProductionJob":
            return error.fault is Fault.REQUEST and error.code.startswith("InvalidParameter")
        case _:
            return False


def explained(error: CloudError) -> str:
    """An error of a service, and what to do."""
    known = faults.advice(error.operation, error.fault, error.code)
    to_do = "" if known else _TO_DO.get(error.fault, "")
    return f"{error}; {to_do}" if to_do else str(error)
