"""``mns-consumer submit``: submit one job, and wait for its result if asked to.

What is wrong with the arguments is reported before anything is sent. The job is sent once: MPS has no ClientToken, so a
second submission would be a second job and a second bill. When the answer is lost, that is said, with an exit code of
its own. Texts of MPS are printed escaped.

Elsewhere: the call (``cloud.mps``), unfolding a result (``message.result``).
"""

from __future__ import annotations

import json
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from consumer.errors import CloudError, ConsumerError, ExitCode, UncertainError, UsageError
from consumer.functions.catalogue import names, nearest
from consumer.job_state import ENDED, JobState
from consumer.ops.escape import json_text, printable

if TYPE_CHECKING:
    from consumer.cloud.mps import JobStatus, Mps, Submitted
    from consumer.config import QueueSettings, Settings

_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,127}")
_FIRST_LOOK_S: Final = 0.2
_LONGEST_LOOK_S: Final = 5.0
_CLOUD: Final = "Where to"
_MAY_EXIST: Final = (
    "the job may exist and be billed, and MPS can't be asked for it without its JobId. Nothing was sent again. Look for"
    " its notification, by its UserData, and for its output; submit it again only if a second job does no harm"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Order:
    """One job to submit; the parameters of SubmitIProductionJob (facts/iproduction.md#submit-a-job)."""

    function: str
    params: str
    input: str | None
    output: str | None
    user_data: str | None
    notify_url: str | None
    pipeline_id: str | None
    model_id: str | None
    schedule_params: str | None


def _cloud(text: str, metavar: str | None = None) -> Any:
    return typer.Option(help=text, metavar=metavar, rich_help_panel=_CLOUD, show_default=False)


def submit(
    *,
    function: Annotated[str, typer.Option(metavar="NAME", help="FunctionName, such as Cover.")],
    params: Annotated[str, typer.Option(metavar="JSON", help="JobParams: a JSON object.")] = "{}",
    input_url: Annotated[str | None, typer.Option("--input", metavar="OSS_URL", help="Input.")] = None,
    output_url: Annotated[
        str | None, typer.Option("--output", metavar="OSS_URL", help="Output; may hold {source}, {sequenceId}, ...")
    ] = None,
    user_data: Annotated[str | None, typer.Option(metavar="TEXT", help="UserData: text or JSON, given back.")] = None,
    notify_url: Annotated[str | None, typer.Option(metavar="MNS_URL", help="Queue that is told of the end.")] = None,
    pipeline_id: Annotated[str | None, typer.Option(metavar="ID", help="PipelineId: the MPS queue.")] = None,
    model_id: Annotated[str | None, typer.Option(metavar="ID", help="ModelId: the algorithm's model.")] = None,
    schedule_params: Annotated[str | None, typer.Option(metavar="JSON", help="ScheduleParams.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the job's end and print its typed result.")] = False,
    wait_seconds: Annotated[float, typer.Option(metavar="SECONDS", help="For how long at the most.")] = 600.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    endpoint: Annotated[str | None, _cloud("Address of MPS in place of the region's own.", "URL")] = None,
    region: Annotated[str | None, _cloud("Region of MPS; default: the NotifyUrl's.", "REGION")] = None,
    access_key_id: Annotated[str | None, _cloud("AccessKey id; default: settings, then the credentials chain.")] = None,
    access_key_secret: Annotated[str | None, typer.Option(hidden=True)] = None,  # refused: cli.options.refuse_secrets
    config: Annotated[Path | None, _cloud("Settings file, TOML.", "FILE")] = None,
) -> None:
    """Submit one job to MPS; prints its JobId.

    Without --notify-url and --pipeline-id nobody is told of its end; `jobs run` handles such a job later.
    """
    order = _Order(
        function=_checked_function(function),
        params=_checked_object("--params", params) or "{}",
        input=input_url,
        output=output_url,
        user_data=user_data,
        notify_url=None if notify_url is None else _checked_notify_url(notify_url),
        pipeline_id=pipeline_id,
        model_id=model_id,
        schedule_params=None if schedule_params is None else _checked_object("--schedule-params", schedule_params),
    )
    if not order.notify_url and not order.pipeline_id:
        _warn("neither --notify-url nor --pipeline-id is given: no message will tell of this job's end")
    import anyio  # noqa: PLC0415 - quick --help

    keys = {"access_key_id": access_key_id, "access_key_secret": access_key_secret}
    from consumer.config import load  # noqa: PLC0415 - quick --help

    settings = load({name: value for name, value in keys.items() if value is not None}, config)
    lane = _lane(settings, order.notify_url, endpoint, region, own_keys=any(keys.values()))
    code = anyio.run(_submit, lane, settings.ca_file, order, wait_seconds if wait else None, as_json)
    raise typer.Exit(code)


def _warn(text: str) -> None:
    print(printable(f"warning: {text}"), file=sys.stderr)


def _checked_function(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise UsageError(f"--function {name!r}: expected a FunctionName such as Cover; known: {', '.join(names())}")
    if name not in names():
        near = nearest(name)
        hint = f"did you mean {near}?" if near else f"documented are {', '.join(names())}."
        _warn(f"{name!r} is not a documented FunctionName, and is sent as it is; {hint}")
    return name


def _checked_object(flag: str, text: str) -> str | None:
    """The text of a JSON object; ``None`` for the JSON value null, which stands for a parameter that is not given."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f'{flag} {text[:200]!r}: expected a JSON object such as \'{{"Model": "gif"}}\': {error}'
        ) from None
    if value is None:
        return None
    if not isinstance(value, dict):
        raise UsageError(f"{flag} {text[:200]!r}: expected a JSON object, got JSON of another kind")
    return text


def _checked_notify_url(text: str) -> str:
    from consumer.notify_url import NotifyUrl  # noqa: PLC0415 - quick --help

    return str(NotifyUrl.parse(text))


def _lane(
    settings: Settings, notify_url: str | None, endpoint: str | None, region: str | None, *, own_keys: bool
) -> QueueSettings:
    """Where MPS is and with which keys; a job without NotifyUrl borrows the settings' first queue, or a region."""
    from consumer.config import LaneSettings, QueueSettings  # noqa: PLC0415 - quick --help

    configured = {str(lane.url): lane for lane in settings.all_lanes()}
    if endpoint is None and region is None and notify_url is None and configured:
        return next(iter(configured.values()))
    if notify_url in configured and endpoint is None and region is None and not own_keys:
        return configured[notify_url]
    known = endpoint or settings.mps_endpoint or settings.endpoint
    if notify_url is None and region is None and known is None:
        raise UsageError(
            "no region of MPS is known; expected --region cn-hangzhou, --endpoint URL, --notify-url MNS_URL,"
            " or a queue in the settings"
        )
    if region is not None:
        known = endpoint or settings.mps_endpoint or settings.endpoint or f"https://mts.{region}.aliyuncs.com"
    if known is not None and not re.fullmatch(r"https?://[^/\s?#]+/?", known):
        raise UsageError(f"--endpoint {known!r}: expected http://HOST:PORT or https://HOST, without a path")
    # Without a NotifyUrl nothing asks this queue; only MPS's address and the keys are used.
    place = notify_url or f"mns://none.mns.{region or 'none'}.aliyuncs.com/queues/none"
    own = LaneSettings.model_construct(notify_url=place, mps_endpoint=known and known.rstrip("/"))
    return QueueSettings(settings=own, of=settings)


async def _submit(lane: QueueSettings, ca_file: Path | None, order: _Order, wait_s: float | None, as_json: bool) -> int:  # noqa: FBT001 - handed on by anyio.run
    from consumer.cloud.clients import open_clients  # noqa: PLC0415 - quick --help

    async with open_clients(lane, ca_file=ca_file) as clients:
        submitted = await _sent(clients.mps, order)
        job_id = submitted.job_id
        if wait_s is None:
            fields = {"job_id": job_id, "request_id": submitted.request_id}
            print(json_text(fields) if as_json else printable(job_id))
            return ExitCode.OK
        if not as_json:
            print(printable(job_id), flush=True)
        try:
            answer = await _ended(clients.mps, job_id, wait_s)
        except CloudError as error:
            raise ConsumerError(f"job {printable(job_id)} was submitted, but its end is not known: {error}") from None
    _print_end(answer, as_json=as_json)
    return ExitCode.OK if answer.state == JobState.SUCCESS else ExitCode.FAILURE


async def _sent(mps: Mps, order: _Order) -> Submitted:
    """Submit the job once.

    Raises:
        UncertainError: It was sent, and no answer says whether there is a job.
        CloudError: There is certainly none.
    """
    import anyio  # noqa: PLC0415 - quick --help

    from consumer.cloud.faults import surely_not_sent  # noqa: PLC0415 - the same

    try:
        return await mps.submit(
            function=order.function,
            params=order.params,
            input=order.input,
            output=order.output,
            user_data=order.user_data,
            notify_url=order.notify_url,
            pipeline_id=order.pipeline_id,
            model_id=order.model_id,
            schedule_params=order.schedule_params,
        )
    except CloudError as error:
        if surely_not_sent(error):
            raise
        raise UncertainError(f"{error}; {_MAY_EXIST}") from None
    except anyio.get_cancelled_exc_class():
        _warn(f"interrupted before MPS had answered; {_MAY_EXIST}")
        raise


async def _ended(mps: Mps, job_id: str, wait_s: float) -> JobStatus:
    """Ask, less and less often, until the job has ended."""
    import anyio  # noqa: PLC0415 - quick --help

    until, pause_s = time.monotonic() + wait_s, _FIRST_LOOK_S
    while True:
        answer = await mps.query(job_id)
        if answer.state in ENDED:
            return answer
        left_s = until - time.monotonic()
        if left_s <= 0:
            state = answer.state or "unknown to MPS"
            raise ConsumerError(
                printable(f"job {job_id} is still {state} after {wait_s:g} s; wait longer by --wait-seconds")
            )
        await anyio.sleep(min(pause_s, left_s))
        pause_s = min(pause_s * 1.5, _LONGEST_LOOK_S)


def _print_end(answer: JobStatus, *, as_json: bool) -> None:
    from consumer.cli.typed import typed  # noqa: PLC0415 - quick --help
    from consumer.message.notification import decode_user_data  # noqa: PLC0415 - the same

    shown = typed(answer.function or "", answer.result, answer.output)
    if as_json:
        fields = {
            "job_id": answer.job_id,
            "function": answer.function,
            "state": answer.state,
            "code": shown.code,
            "message": shown.message,
            "result": shown.data,
            "typed": shown.fits,
            "user_data": decode_user_data(answer.user_data),
        }
        print(json_text(fields))
        return
    summary = shown.summary if answer.state == JobState.SUCCESS else f"{shown.code}: {shown.message}"
    print(printable(f"{answer.state}: {summary}"))
    if answer.state == JobState.SUCCESS:
        print(json_text(shown.data, indent=2))
    if shown.problem:
        _warn(shown.problem)
