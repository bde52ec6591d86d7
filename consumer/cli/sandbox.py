"""``mns-consumer sandbox``: a local MNS and MPS to try things on."""

from __future__ import annotations

import inspect
import signal
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Final

import anyio
import typer
from pydantic import ValidationError

from consumer.cli.options import with_flags
from consumer.errors import ConsumerError, UsageError
from consumer.sandbox import DlqPolicy, Fault, Sandbox, SandboxSettings
from consumer.sandbox.access import check_actions
from consumer.sandbox.pipelines import PipelineSettings
from consumer.sandbox.settings import AccountKeys

QUEUE: Final = "jobs"
_KEY_PARTS: Final = ("access_key_id", "access_key_secret", "account", "region")
_LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})
_FIELDS: Final[Mapping[str, tuple[str, str | None, str]]] = {
    "host": ("--host", None, "Address to listen on."),
    "port": ("--port", None, "Port to listen on; 0 takes a free one."),
    "access_key_id": ("--access-key-id", None, "The AccessKey of its own account."),
    "access_key_secret": ("--access-key-secret", None, "Its secret."),
    "job_s": ("--job-seconds", "SECONDS", "Duration of a job."),
    "ims_event_type": ("--ims-event-type", "NAME", "EventType of the events of IMS; the real one is not known."),
    "lenient": ("--lenient", None, "Take submissions that are known to be wrong; else MPS refuses them."),
    "lenient_handles": ("--lenient-handles", None, "Replaced and expired receipt handles keep working."),
    "create_queues": (
        "--create-queues",
        None,
        "Create the queue of a NotifyUrl where it is missing; else the notification is lost, as in the cloud.",
    ),
    "plain_denials": ("--plain-denials", None, "MPS refuses with 400 and no AccessDeniedDetail, not with 403 and it."),
    "late_redelivery_s": (
        "--late-redelivery",
        "SECONDS",
        "Hidden messages come late, by half of this time to all of it.",
    ),
    "small_batches": ("--small-batches", None, "A batch receive may bring fewer messages than are there."),
    "lose": ("--lose", "SHARE", "Drop this share of the notifications, 0 to 1: those jobs end without a message."),
    "seed": ("--seed", None, "Of the chance of --fault and --lose."),
}
"""Flag, metavar and help of each setting whose type and default are the flag's own."""
_LISTS: Final[Mapping[str, tuple[str, str, str]]] = {
    "allow": ("--allow", "ACTION", "Grant this RAM action, such as mns:SendMessage, and no other that isn't named."),
    "deny": ("--deny", "ACTION", "Do not grant this RAM action."),
    "allowed_hosts": (
        "--allow-host",
        "NAME",
        "Answer to this host name too (* and ?); else to loopback and --host only.",
    ),
    "fifo_queues": ("--fifo", "QUEUE", "A queue that keeps order."),
    "dlq": ("--dlq", "QUEUE=TARGET[:MAX]", "Dead-letter queue of a queue, after MAX receives (16)."),
    "pipeline": (
        "--pipeline",
        "ID[:KEY=VALUE,...]",
        "A pipeline, as in ID:concurrency=2,state=Paused,notify_queue=films; a job for any other is then refused.",
    ),
    "key": ("--key", "ID:SECRET:ACCOUNT[:REGION]", "A further AccessKey: another account, or another region."),
    "fault": ("--fault", "KIND[:KEY=VALUE,...]", "A fault, as in error:status=503,probability=0.1."),
}


def _flags() -> Iterator[inspect.Parameter]:
    for name, (flag, metavar, text) in _FIELDS.items():
        field = SandboxSettings.model_fields[name]
        yield _parameter(name, field.annotation, field.default, typer.Option(flag, metavar=metavar, help=text))
    envelope = typer.Option("--envelope", help="Topic envelope: none, json, xml or simplified.")
    yield _parameter("envelope", str, "none", envelope)
    yield _parameter(
        "raw", bool, default=False, option=typer.Option("--raw", help="Notifications as bare JSON, not base64.")
    )
    for name, (flag, metavar, text) in _LISTS.items():
        yield _parameter(name, list[str] | None, None, typer.Option(flag, metavar=metavar, help=text))


def _parameter(name: str, kind: Any, default: object, option: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, option])


def _settings(given: dict[str, Any]) -> SandboxSettings:
    """Make the settings of the flags' values.

    Raises:
        UsageError: With each problem.
    """
    lists: dict[str, list[str]] = {name: given.pop(name) or [] for name in _LISTS}
    allow = lists["allow"]
    try:
        return SandboxSettings(
            dlq_policies=dict(_dlq(text) for text in lists["dlq"]),
            faults=tuple(Fault.parse(text) for text in lists["fault"]),
            allowed_actions=_actions("--allow", allow) if allow else None,
            denied_actions=_actions("--deny", lists["deny"]),
            pipelines=dict(_pipeline(text) for text in lists["pipeline"]) or None,
            more_keys=tuple(_key(text) for text in lists["key"]),
            allowed_hosts=tuple(lists["allowed_hosts"]),
            fifo_queues=frozenset(lists["fifo_queues"]),
            notification_encoding="raw" if given.pop("raw") else "base64",
            **given,
        )
    except ValidationError as error:
        raise UsageError("; ".join(_problem(one) for one in error.errors())) from None
    except ValueError as error:
        raise UsageError(str(error)) from None


def _problem(error: Mapping[str, Any]) -> str:
    if not error["loc"]:
        # Its input is all the settings, secrets among them.
        return str(error["msg"])
    return f"{'.'.join(map(str, error['loc']))}: {error['msg']}, got {error['input']!r}"


def _actions(flag: str, names: Sequence[str]) -> tuple[str, ...]:
    try:
        return tuple(check_actions(names))
    except ValueError as error:
        raise UsageError(f"{flag}: {error}") from None


def _pipeline(text: str) -> tuple[str, PipelineSettings]:
    name, _, rest = text.partition(":")
    values = dict(part.partition("=")[::2] for part in rest.split(",") if part)
    if not name:
        raise UsageError(f"--pipeline {text!r}: expected ID or ID:KEY=VALUE,..., such as films:concurrency=2")
    return name, PipelineSettings.model_validate(values)


def _key(text: str) -> AccountKeys:
    parts = text.split(":")
    if not 3 <= len(parts) <= len(_KEY_PARTS):  # noqa: PLR2004 - the region may be left out
        raise UsageError("--key: expected ID:SECRET:ACCOUNT or ID:SECRET:ACCOUNT:REGION")
    return AccountKeys.model_validate(dict(zip(_KEY_PARTS, parts, strict=False)))


def _dlq(text: str) -> tuple[str, DlqPolicy]:
    queue, _, rest = text.partition("=")
    target, colon, most = rest.partition(":")
    if not queue or not target or (colon and not most.isdecimal()):
        raise UsageError(f"--dlq {text!r}: expected QUEUE=TARGET or QUEUE=TARGET:MAX, such as jobs=dead:5")
    count = {"max_receive_count": int(most)} if colon else {}
    return queue, DlqPolicy(dead_letter_target_queue=target, **count)


def _serve_until_signal(settings: SandboxSettings) -> None:
    """Serve a local MNS and MPS: no account, nothing leaves this machine.

    Alibaba's own SDKs work against it unchanged. Faults can be changed while it runs, over HTTP under /_sandbox.
    """
    anyio.run(_serve, settings)


sandbox: Final = with_flags(_serve_until_signal, list(_flags()), _settings)


async def _serve(settings: SandboxSettings) -> None:
    # Before the address is printed: its reader may send the signal at once.
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        server = Sandbox(settings)
        try:
            await server.__aenter__()
        except OSError as error:
            raise ConsumerError(
                f"can't listen on {settings.host}:{settings.port}: {error.strerror or error};"
                " expected a free port of this machine, choose another one by --port"
            ) from None
        try:
            # A daemon may come before the first job: the named queues exist from the start.
            for name in (QUEUE, *settings.dlq_policies, *settings.fifo_queues):
                server.account.ensure(name)
            print(_announcement(server.url, server.notify_url(QUEUE), settings), flush=True)
            async for _ in signals:
                break
        finally:
            await server.__aexit__(None, None, None)


def _about_queues(url: str, settings: SandboxSettings) -> str:
    if settings.create_queues:
        return "The queue of a NotifyUrl is created where it is missing (--create-queues)."
    return f"""The queue '{QUEUE}' exists. Create any other before a job names it in its NotifyUrl,
or the notification is lost:
  curl -X PUT {url}/_sandbox/queues/NAME"""


def _announcement(url: str, notify_url: str, settings: SandboxSettings) -> str:
    bucket = f"oss://demo.oss-{settings.region}.aliyuncs.com"
    warning = (
        "\nwarning: other machines can reach it and change its faults and queues: it asks for no keys."
        "\nIt answers to loopback names and to --host; add the name that others use by --allow-host."
    )
    return f"""MNS, MPS and IMS are at {url}{"" if settings.host in _LOOPBACK else warning}

In another terminal:
  export MNS_CONSUMER_ENDPOINT={url} \\
         MNS_CONSUMER_ACCESS_KEY_ID={settings.access_key_id} \\
         MNS_CONSUMER_ACCESS_KEY_SECRET={settings.access_key_secret}

Then try:
  mns-consumer run --shipped --notify-url {notify_url}
  mns-consumer submit --function Cover --input {bucket}/film.mp4 \\
    --output '{bucket}/{{source}}-{{sequenceId}}.jpg' \\
    --notify-url {notify_url}
  curl {url}/_sandbox/state

{_about_queues(url, settings)}

Ctrl-C ends it; queues and jobs are gone then."""
