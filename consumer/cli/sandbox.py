"""``mns-consumer sandbox``: a local MNS and MPS to try things on.

Elsewhere: the server (``sandbox``).
"""

from __future__ import annotations

import signal
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from consumer.errors import ConsumerError, UsageError

if TYPE_CHECKING:
    from consumer.sandbox import SandboxSettings

QUEUE: Final = "jobs"
_LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})


_Allow = Annotated[
    list[str] | None,
    typer.Option(
        metavar="ACTION", help="Grant this RAM action, such as mns:SendMessage, and no other that isn't named."
    ),
]
_Deny = Annotated[list[str] | None, typer.Option(metavar="ACTION", help="Do not grant this RAM action.")]
_PlainDenials = Annotated[
    bool, typer.Option("--plain-denials", help="MPS refuses with 400 and no AccessDeniedDetail, not with 403 and it.")
]
_AllowHost = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="Answer to this host name too (* and ?); else to loopback and --host only."),
]
_LateRedelivery = Annotated[
    float, typer.Option(metavar="SECONDS", help="Hidden messages come late, by half of this time to all of it.")
]
_SmallBatches = Annotated[
    bool, typer.Option("--small-batches", help="A batch receive may bring fewer messages than are there.")
]


def sandbox(
    *,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.")] = 8420,
    access_key_id: Annotated[str, typer.Option(help="The only AccessKey that it knows.")] = "sandbox",
    access_key_secret: Annotated[str, typer.Option(help="Its secret.")] = "sandbox",  # noqa: S107 - known to all on purpose
    job_seconds: Annotated[float, typer.Option(help="For how long a job runs.")] = 1.0,
    envelope: Annotated[str, typer.Option(help="Topic envelope: none, json, xml or simplified.")] = "none",
    raw: Annotated[bool, typer.Option("--raw", help="Notifications as bare JSON, not base64.")] = False,
    lenient_handles: Annotated[
        bool, typer.Option("--lenient-handles", help="Replaced and expired receipt handles go on working.")
    ] = False,
    allow: _Allow = None,
    deny: _Deny = None,
    plain_denials: _PlainDenials = False,
    allow_host: _AllowHost = None,
    late_redelivery: _LateRedelivery = 0.0,
    small_batches: _SmallBatches = False,
    fifo: Annotated[list[str] | None, typer.Option(metavar="QUEUE", help="A queue that keeps order.")] = None,
    dlq: Annotated[
        list[str] | None,
        typer.Option(metavar="QUEUE=TARGET[:MAX]", help="Dead-letter queue of a queue, after MAX receives (16)."),
    ] = None,
    fault: Annotated[
        list[str] | None,
        typer.Option(metavar="KIND[:KEY=VALUE,...]", help="A fault, as in error:status=503,probability=0.1."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the faults' chance.")] = 0,
) -> None:
    """Serve a local MNS and MPS: no account, nothing leaves this machine.

    Alibaba's own SDKs work against it unchanged. Faults can be changed while it runs, over HTTP under /_sandbox.
    """
    import anyio  # noqa: PLC0415 - quick --help

    settings = _settings(
        host=host,
        port=port,
        access_key_id=access_key_id,
        access_key_secret=access_key_secret,
        job_s=job_seconds,
        envelope=envelope,
        notification_encoding="raw" if raw else "base64",
        lenient_handles=lenient_handles,
        allow=allow,
        deny=deny or (),
        plain_denials=plain_denials,
        allowed_hosts=tuple(allow_host or ()),
        late_redelivery_s=late_redelivery,
        small_batches=small_batches,
        fifo_queues=frozenset(fifo or ()),
        dlq=dlq or (),
        fault=fault or (),
        seed=seed,
    )
    anyio.run(_serve, settings)


def _settings(
    *, dlq: Sequence[str], fault: Sequence[str], allow: Sequence[str] | None, deny: Sequence[str], **values: Any
) -> SandboxSettings:
    """Check what was said.

    Raises:
        UsageError: With one line for each problem.
    """
    from pydantic import ValidationError  # noqa: PLC0415 - quick --help

    from consumer.sandbox import Fault, SandboxSettings  # noqa: PLC0415 - the same

    try:
        return SandboxSettings(
            dlq_policies=dict(_dlq(text) for text in dlq),
            faults=tuple(Fault.parse(text) for text in fault),
            allowed_actions=None if allow is None else _actions("--allow", allow),
            denied_actions=_actions("--deny", deny),
            **values,
        )
    except ValidationError as error:
        lines = (f"{'.'.join(map(str, one['loc']))}: {one['msg']}, got {one['input']!r}" for one in error.errors())
        raise UsageError("; ".join(lines)) from None
    except ValueError as error:
        raise UsageError(str(error)) from None


def _actions(flag: str, names: Sequence[str]) -> tuple[str, ...]:
    from consumer.sandbox.authentication import check_actions  # noqa: PLC0415 - quick --help

    try:
        return tuple(check_actions(names))
    except ValueError as error:
        raise UsageError(f"{flag}: {error}") from None


def _dlq(text: str) -> tuple[str, Any]:
    from consumer.sandbox import DlqPolicy  # noqa: PLC0415 - quick --help

    queue, _, rest = text.partition("=")
    target, colon, most = rest.partition(":")
    if not queue or not target or (colon and not most.isdecimal()):
        raise UsageError(f"--dlq {text!r}: expected QUEUE=TARGET or QUEUE=TARGET:MAX, such as jobs=dead:5")
    count = {"max_receive_count": int(most)} if colon else {}
    return queue, DlqPolicy(dead_letter_target_queue=target, **count)


async def _serve(settings: SandboxSettings) -> None:
    import anyio  # noqa: PLC0415 - quick --help

    from consumer.sandbox import Sandbox  # noqa: PLC0415 - the same

    # Before the server is announced: who reads the line may send the signal at once.
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
            # The queues that were named are there from the start: a daemon may come before the first job.
            for name in (QUEUE, *settings.dlq_policies, *settings.fifo_queues):
                server.account.ensure(name)
            print(_announcement(server.url, server.notify_url(QUEUE), settings), flush=True)
            async for _ in signals:
                break
        finally:
            await server.__aexit__(None, None, None)


def _announcement(url: str, notify_url: str, settings: SandboxSettings) -> str:
    lines = [
        f"MNS and MPS are at {url}",
        "",
        "In another terminal:",
        f"  export MNS_CONSUMER_ENDPOINT={url} \\",
        f"         MNS_CONSUMER_ACCESS_KEY_ID={settings.access_key_id} \\",
        f"         MNS_CONSUMER_ACCESS_KEY_SECRET={settings.access_key_secret}",
        "",
        "Then try:",
        f"  mns-consumer run --shipped --notify-url {notify_url}",
        f"  mns-consumer submit --function Cover --input oss://demo.oss-{settings.region}.aliyuncs.com/film.mp4 \\",
        f"    --output 'oss://demo.oss-{settings.region}.aliyuncs.com/{{source}}-{{sequenceId}}.jpg' \\",
        f"    --notify-url {notify_url}",
        f"  curl {url}/_sandbox/state",
        "",
        "Ctrl-C ends it; queues and jobs are gone then.",
    ]
    if settings.host not in _LOOPBACK:
        lines.insert(1, "warning: whoever reaches it from outside may change its faults and queues: no keys are asked.")
        lines.insert(2, "It answers to loopback names and to --host; add the name that others use by --allow-host.")
    return "\n".join(lines)
