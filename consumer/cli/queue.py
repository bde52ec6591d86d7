"""``mns-consumer queue``: look into the queues without receiving a message, and send one."""

from __future__ import annotations

import base64
import os
import sys
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import anyio
import typer

from consumer.cli.options import OF_QUEUE, SettingsFlags, missing_queue, queue_named, takes_settings
from consumer.cli.output import JsonFlag, body_json, note, one_line, print_fields, print_json, readable_body, time_text
from consumer.cloud.clients import open_clients
from consumer.cloud.messages import Peeked
from consumer.cloud.mns import MnsQueue
from consumer.config import QueueSettings, Settings
from consumer.errors import CloudError, ExitCode, SettingsError, UsageError
from consumer.message.notification import decode
from consumer.message.strict_json import Undecodable
from consumer.ops.sanitize import printable
from consumer.policy import MAX_BATCH

_MOST_READ_BYTES: Final = 1024 * 1024
_LONGEST_BODY: Final = 2000
_LONGEST_DELAY_S: Final = 604_800
_LOWEST_PRIORITY: Final = 16

_T = TypeVar("_T")
_WhichFlag = Annotated[
    str | None,
    typer.Option("--queue", metavar="QUEUE", help="Which of the settings' queues: its name, or ACCOUNT/REGION/NAME."),
]


@takes_settings(*OF_QUEUE)
def stats(flags: SettingsFlags, *, which: _WhichFlag = None, as_json: JsonFlag = False) -> None:
    """Show how each queue is set up and how many messages it holds.

    MNS's counts are estimates, and it may leave them out.
    """
    settings = flags.load()
    if which is None and (problems := missing_queue(settings)):
        raise SettingsError(*problems)
    lanes = settings.queues() if which is None else [queue_named(settings, which)]
    failed = False
    for number, lane in enumerate(lanes):
        try:
            found = _ask(settings, lane, MnsQueue.attributes)
        except CloudError as error:
            # The others are shown all the same.
            note(f"error: {error}")
            failed = True
            continue
        shown = {"queue": lane.url.identity, **asdict(found)}
        shown |= {name: time_text(shown[name]) for name in ("created_at", "modified_at")}
        del shown["name"]
        if as_json:
            print_json(shown)
        else:
            print("\n" * bool(number), end="")
            print_fields({name: "unknown" if value is None else value for name, value in shown.items()})
    raise typer.Exit(ExitCode.FAILURE if failed else ExitCode.OK)


@takes_settings(*OF_QUEUE)
def peek(
    flags: SettingsFlags,
    *,
    which: _WhichFlag = None,
    count: Annotated[int, typer.Option(min=1, max=MAX_BATCH, metavar="N", help="At most N messages.")] = MAX_BATCH,
    as_json: JsonFlag = False,
) -> None:
    """Show messages that wait, decoded, without receiving them.

    MNS shows only those that could be received now, and not always all of them.
    """
    settings = flags.load()
    lane = queue_named(settings, which)

    found = _ask(settings, lane, lambda opened: opened.peek(count))
    for message in found:
        if as_json:
            print_json({"queue": lane.url.identity, **_message_json(message)})
        else:
            _print_message(message)
    if not found:
        note(f"no message waits in {lane.url.identity}")


@takes_settings(*OF_QUEUE)
def send(
    flags: SettingsFlags,
    body: Annotated[str | None, typer.Argument(metavar="[BODY]", help="The message's body, sent as it is.")] = None,
    *,
    file: Annotated[Path | None, typer.Option(metavar="FILE", help="Take the body from a file; - is stdin.")] = None,
    encode: Annotated[
        bool, typer.Option("--base64", help="Send it as base64, as MPS does; a body that is no text needs it.")
    ] = False,
    which: _WhichFlag = None,
    delay_s: Annotated[
        int, typer.Option("--delay-s", min=0, max=_LONGEST_DELAY_S, metavar="S", help="Not before S seconds.")
    ] = 0,
    priority: Annotated[
        int | None, typer.Option(min=1, max=_LOWEST_PRIORITY, metavar="N", help="1 (first) to 16; MNS's default is 8.")
    ] = None,
    group_id: Annotated[str | None, typer.Option(metavar="ID", help="MessageGroupId, for a FIFO queue.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Send one message to a queue; prints its MessageId."""
    data = _body(body, file)
    settings = flags.load()
    lane = queue_named(settings, which)
    sent = base64.b64encode(data) if encode else data

    async def put(opened: MnsQueue) -> str:
        return await opened.send(sent, delay_s=delay_s, priority=priority, group_id=group_id)

    message_id = _ask(settings, lane, put)
    if as_json:
        print_json({"message_id": message_id, "queue": lane.url.identity})
    else:
        print(printable(message_id))


def _body(text: str | None, file: Path | None) -> bytes:
    if (text is None) == (file is None):
        raise UsageError("send what? Expected either a body or --file FILE")
    data = os.fsencode(text) if text is not None else _read(file or Path())
    if not data:
        raise UsageError("send what? Expected a body, got an empty one")
    return data


def _read(file: Path) -> bytes:
    try:
        if str(file) == "-":
            data = sys.stdin.buffer.read(_MOST_READ_BYTES + 1)
        else:
            with file.open("rb") as opened:
                data = opened.read(_MOST_READ_BYTES + 1)
    except OSError as error:
        raise UsageError(f"--file {file}: it can't be read: {error.strerror}") from None
    if len(data) > _MOST_READ_BYTES:
        raise UsageError(f"--file {file}: expected a message (a queue takes 64 KB at the most), it has over 1 MiB")
    return data


def _ask(settings: Settings, lane: QueueSettings, call: Callable[[MnsQueue], Awaitable[_T]]) -> _T:
    async def ask() -> _T:
        async with open_clients(lane, ca_file=settings.ca_file) as clients:
            return await call(clients.queue)

    return anyio.run(ask)


def _message_json(message: Peeked) -> dict[str, Any]:
    first_dequeued_at = message.first_dequeued_at if message.dequeue_count else None
    times = {"enqueued_at": time_text(message.enqueued_at), "first_dequeued_at": time_text(first_dequeued_at)}
    same = {name: getattr(message, name) for name in ("message_id", "dequeue_count", "priority", "group_id")}
    return {**same, **times, **_notification_json(message.body), **body_json(message.body)}


def _notification_json(body: bytes) -> dict[str, str | None]:
    """What the daemon would read in a body, or why it could not."""
    read = decode(body)
    if isinstance(read, Undecodable):
        return {"function": None, "kind": None, "job_id": None, "job_state": None, "undecodable": str(read)}
    shown = {"function": read.function, "kind": read.kind.value, "job_id": read.job_id, "job_state": read.state or None}
    return {**shown, "undecodable": None}


def _print_message(message: Peeked) -> None:
    read = _notification_json(message.body)
    what = f"undecodable: {read['undecodable']}" if read["undecodable"] else read["function"] or read["kind"]
    job = f", job {read['job_id']}" if read["job_id"] else ""
    received = f"received {message.dequeue_count} times, priority {message.priority}"
    print(f"{printable(message.message_id)}  since {time_text(message.enqueued_at)}, {received}")
    print(f"  {one_line(what, 300)}{one_line(job, 200)}")
    print(readable_body(message.body, _LONGEST_BODY))
