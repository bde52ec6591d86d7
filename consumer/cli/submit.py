"""``mns-consumer submit``: check and submit one job, and wait for its result if asked to.

A request that breaks a rule of ``functions/request.py`` is refused with all its problems before anything is sent. The
job is sent once: MPS has no ClientToken, so a second submission would be a second job and a second bill. A lost answer
has an exit code of its own.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

import anyio
import typer
from pydantic import BaseModel, JsonValue, ValidationError

from consumer.cli.output import JsonFlag, note, print_json
from consumer.cloud.clients import open_clients
from consumer.cloud.faults import surely_not_sent
from consumer.cloud.mps import JobStatus, Mps, Submitted
from consumer.config import LaneSettings, QueueSettings, Settings, load
from consumer.errors import CloudError, ConsumerError, ExitCode, SettingsError, UncertainError, UsageError
from consumer.functions.catalogue import find
from consumer.functions.request import (
    Destination,
    FindingLevel,
    JobRequest,
    RequestFinding,
    refused,
    typed_params,
)
from consumer.job_state import ENDED, NOT_WRITTEN_CODE, JobState
from consumer.message.notification import decode_user_data
from consumer.message.result import read_result
from consumer.notify_url import NotifyUrl, NotifyUrlError, parse_endpoint
from consumer.ops.sanitize import json_text, printable
from consumer.settings_sources import masked

_LONGEST_SUMMARY: Final = 160
_OWN_ENDPOINT: Final = re.compile(r"mts(?:-vpc)?\.(?P<region>[a-z0-9-]+)\.aliyuncs\.com")
_ALIBABAS: Final = ".aliyuncs.com"
_FIRST_LOOK_S: Final = 0.2
_LONGEST_LOOK_S: Final = 5.0
_CLOUD: Final = "Where to"
_MAY_EXIST: Final = (
    "the job may exist and be billed, and MPS can't be asked for it without its JobId. Nothing was sent again. Look for"
    " its notification, by its UserData, and for its output; submit it again only if a second job does no harm"
)


def _cloud(text: str, metavar: str | None = None) -> Any:
    return typer.Option(help=text, metavar=metavar, rich_help_panel=_CLOUD, show_default=False)


class RequestRefusedError(UsageError):
    """A request breaks rules; one problem for each."""

    def __init__(self, findings: Sequence[RequestFinding]) -> None:
        super().__init__("; ".join(map(str, findings)))
        self.findings = findings

    @property
    def problems(self) -> Sequence[str]:
        """One line for each finding, and how to send it all the same where that is possible."""
        lines = [str(finding) for finding in self.findings]
        if all(finding.level is FindingLevel.FORCEABLE for finding in self.findings):
            lines.append("nothing was sent; these rules are inferred, and --force sends it all the same")
        return lines


def submit(
    *,
    function: Annotated[str, typer.Option(metavar="NAME", help="FunctionName, such as Cover.")],
    params: Annotated[str, typer.Option(metavar="JSON", help="JobParams: a JSON object.")] = "{}",
    param: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="One parameter of JobParams, such as model=gif; repeat it for more."),
    ] = None,
    input_url: Annotated[str | None, typer.Option("--input", metavar="OSS_URL", help="Input.")] = None,
    output_url: Annotated[
        str | None, typer.Option("--output", metavar="OSS_URL", help="Output; may hold {source}, {sequenceId}, ...")
    ] = None,
    user_data: Annotated[str | None, typer.Option(metavar="TEXT", help="UserData: text or JSON, given back.")] = None,
    notify_url: Annotated[str | None, typer.Option(metavar="MNS_URL", help="Queue that gets the notification.")] = None,
    pipeline_id: Annotated[str | None, typer.Option(metavar="ID", help="PipelineId: the MPS queue.")] = None,
    model_id: Annotated[str | None, typer.Option(metavar="ID", help="ModelId: the algorithm's model.")] = None,
    schedule_params: Annotated[str | None, typer.Option(metavar="JSON", help="ScheduleParams.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Send what only an inferred rule refuses.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check the request and print it; send nothing.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the job's end and print its typed result.")] = False,
    wait_seconds: Annotated[float, typer.Option(metavar="SECONDS", help="For how long at the most.")] = 600.0,
    as_json: JsonFlag = False,
    endpoint: Annotated[str | None, _cloud("Address of MPS in place of the region's own.", "URL")] = None,
    region: Annotated[str | None, _cloud("Region of MPS; default: the NotifyUrl's.", "REGION")] = None,
    access_key_id: Annotated[str | None, _cloud("AccessKey id; default: settings, then the credentials chain.")] = None,
    # refuse_secrets refuses it, with the safe ways to give it.
    access_key_secret: Annotated[str | None, typer.Option(hidden=True)] = None,
    config: Annotated[Path | None, _cloud("Settings file, TOML.", "FILE")] = None,
) -> None:
    """Submit one job to MPS; prints its JobId.

    Without --notify-url and --pipeline-id no message reports its end; `jobs run` handles such a job later.
    """
    given = (function, params, *(param or ()), input_url, output_url, user_data, pipeline_id, model_id, schedule_params)
    _demand_utf8(*given, region)
    request = JobRequest(
        function=function,
        params=_params(function, params, param or ()),
        input=input_url,
        output=output_url,
        user_data=user_data,
        notify_url=None if notify_url is None else _checked_queue(notify_url),
        pipeline_id=pipeline_id,
        model_id=model_id,
        schedule_params=schedule_params,
    )
    endpoint = None if endpoint is None else _checked_endpoint(endpoint)
    keys = {"access_key_id": access_key_id, "access_key_secret": access_key_secret}
    settings = load({name: value for name, value in keys.items() if value is not None}, config)
    findings = request.findings(_destination(settings, request.notify_url, endpoint, region))
    _judge(request, findings, force=force, dry_run=dry_run, as_json=as_json)
    if dry_run:
        return
    queue = _queue(settings, request.notify_url, endpoint, region, own_keys=any(keys.values()))
    code = anyio.run(_submit, queue, settings.ca_file, request, wait_seconds if wait else None, as_json)
    raise typer.Exit(code)


def _judge(
    request: JobRequest, findings: Sequence[RequestFinding], *, force: bool, dry_run: bool, as_json: bool
) -> None:
    """Print what is doubtful, and in a dry run the request.

    Raises:
        RequestRefusedError: It breaks a rule.
    """
    refusing = refused(findings, force=force)
    for finding in findings:
        if finding not in refusing:
            _warn(f"forced: {finding}" if finding.level is FindingLevel.FORCEABLE else str(finding))
    if as_json and (dry_run or refusing):
        shown = {"refused": bool(refusing), "findings": [asdict(finding) for finding in findings]}
        print_json({**shown, "request": request.parameters()})
    elif dry_run:
        for name, value in request.parameters().items():
            print(printable(f"{name}: {value}"))
    if refusing:
        raise RequestRefusedError(refusing)


async def _submit(
    queue: QueueSettings,
    ca_file: Path | None,
    request: JobRequest,
    wait_s: float | None,
    as_json: bool,  # noqa: FBT001 - handed on by anyio.run
) -> ExitCode:
    async with open_clients(queue, ca_file=ca_file) as clients:
        submitted = await _send_once(clients.mps, request)
        job_id = submitted.job_id
        if not as_json:
            print(printable(job_id), flush=True)
        elif wait_s is None:
            print_json({"job_id": job_id, "request_id": submitted.request_id})
        if wait_s is None:
            return ExitCode.OK
        try:
            answer = await _wait(clients.mps, job_id, wait_s)
        except CloudError as error:
            raise ConsumerError(f"job {printable(job_id)} was submitted, but its end is unknown: {error}") from None
    return ExitCode.OK if _print_end(answer, as_json=as_json) else ExitCode.FAILURE


def _warn(text: str) -> None:
    note(f"warning: {text}")


def _params(function: str, text: str, given: Sequence[str]) -> str | Mapping[str, JsonValue]:
    """JobParams of ``--params`` and of each ``--param``.

    Raises:
        UsageError: A ``--param`` has another form, or its name came twice.
    """
    pairs: dict[str, str] = {}
    for number, pair in enumerate(given, 1):
        name, mark, value = pair.partition("=")
        if not mark or not name:
            raise UsageError(f"--param number {number}: expected NAME=VALUE, such as --param model=gif; came {pair!r}")
        if name in pairs:
            raise UsageError(f"--param {name}: expected each name once")
        pairs[name] = value
    if not pairs:
        return text
    try:
        base = json.loads(text)
    except (ValueError, RecursionError):
        base = None
    if not isinstance(base, dict):
        raise UsageError(f"--params {text[:200]!r}: expected a JSON object")
    if both := base.keys() & pairs.keys():
        raise UsageError(f"--param {min(both)}: expected each name once, it is in --params too")
    return base | dict(typed_params(function, pairs))


def _demand_utf8(*texts: str | None) -> None:
    """Refuse words of the command line that are bytes of another encoding: no request can carry them."""
    for text in texts:
        try:
            (text or "").encode()
        except UnicodeEncodeError:
            raise UsageError(f"{text!r}: expected UTF-8") from None


def _checked_queue(text: str) -> str:
    """A NotifyUrl; wrong, it is reported as the setting of this name is, from wherever it comes."""
    try:
        return str(NotifyUrl.parse(text))
    except NotifyUrlError as error:
        raise SettingsError(f"notify_url (command line): {error}") from None


def _checked_endpoint(text: str) -> str:
    """An address of MPS; wrong, it is reported as a setting is."""
    try:
        return parse_endpoint(text)
    except ValueError as error:
        raise SettingsError(f"endpoint (command line): {error}, got {masked(text)!r}") from None


def _destination(settings: Settings, notify_url: str | None, endpoint: str | None, region: str | None) -> Destination:
    """What is known of the place that the request goes to: as in ``_queue``, and the accounts of the settings."""
    urls = [lane.url for lane in settings.queues()]
    given = endpoint or settings.mps_endpoint or settings.endpoint
    host = urlsplit(given or "").hostname or ""
    is_sandbox = given is not None and not host.endswith(_ALIBABAS)
    own = _OWN_ENDPOINT.fullmatch(host)
    known = region or (own["region"] if own else None)
    if known is None and not is_sandbox:
        # MPS's address follows from the queue then.
        first = next(iter(urls), None)
        url = NotifyUrl.parse(notify_url) if notify_url else first
        known = url.region if url else None
    return Destination(region=known, accounts=frozenset(url.account for url in urls), is_sandbox=is_sandbox)


def _queue(
    settings: Settings, notify_url: str | None, endpoint: str | None, region: str | None, *, own_keys: bool
) -> QueueSettings:
    """The address of MPS and the keys; without a NotifyUrl those of the settings' first queue, or of a region."""
    configured = {str(lane.url): lane for lane in settings.queues()}
    if endpoint is None and region is None and notify_url is None and configured:
        return next(iter(configured.values()))
    if notify_url in configured and endpoint is None and region is None and not own_keys:
        return configured[notify_url]
    regional = None if region is None else f"https://mts.{region}.aliyuncs.com"
    known = endpoint or settings.mps_endpoint or settings.endpoint or regional
    if notify_url is None and known is None:
        raise UsageError(
            "no region of MPS is known; expected --region cn-hangzhou, --endpoint URL, --notify-url MNS_URL,"
            " or a queue in the settings"
        )
    # Without a NotifyUrl nothing asks this queue; only MPS's address and the keys are used.
    place = notify_url or f"mns://none.mns.{region or 'none'}.aliyuncs.com/queues/none"
    own = LaneSettings.model_construct(notify_url=place, mps_endpoint=known)
    return QueueSettings(settings=own, of=settings)


async def _send_once(mps: Mps, request: JobRequest) -> Submitted:
    """Submit the job once.

    Raises:
        UncertainError: It was sent, and no answer says whether the job exists.
        CloudError: The job certainly does not exist.
    """
    try:
        return await mps.submit(**request.arguments())
    except CloudError as error:
        if surely_not_sent(error):
            raise
        raise UncertainError(f"{error}; {_MAY_EXIST}") from None
    except anyio.get_cancelled_exc_class():
        _warn(f"interrupted before MPS answered; {_MAY_EXIST}")
        raise


async def _wait(mps: Mps, job_id: str, wait_s: float) -> JobStatus:
    """Query the job until it has ended, at growing intervals."""
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


def _print_end(answer: JobStatus, *, as_json: bool) -> bool:
    """Print a job's end; returns whether it succeeded, which a job that has written nothing has not."""
    shown = typed(answer.function or "", answer.result, answer.output)
    is_good = answer.state == JobState.SUCCESS and shown.code != NOT_WRITTEN_CODE
    if as_json:
        job = {"job_id": answer.job_id, "function": answer.function, "job_state": answer.state}
        result = {"code": shown.code, "message": shown.message, "result": shown.data, "typed": shown.fits}
        print_json({**job, **result, "user_data": decode_user_data(answer.user_data)})
        return is_good
    print(printable(f"{answer.state}: {shown.summary if is_good else f'{shown.code}: {shown.message}'}"))
    if is_good:
        print(json_text(shown.data, indent=2))
    if shown.problem:
        _warn(shown.problem)
    return is_good


@dataclass(frozen=True, slots=True)
class TypedResult:
    """A job's result in its function's model, with the code and the message that it carries itself."""

    fits: bool
    summary: str
    data: JsonValue
    """The model as JSON; what came if it does not fit."""
    code: str | None
    message: str | None
    problem: str | None
    """Why it does not fit, in one line."""


def typed(function: str, text: str | None, output: str | None) -> TypedResult:
    """Validate Result, as it came, with the function's model. The bucket of ``output`` completes the files' names."""
    result = read_result(text, output)
    known = find(function)
    data, problem, value = result.data, result.problem, None
    if known is None:
        problem = problem or f"no shipped model for FunctionName {function!r}"
    else:
        try:
            value = known.result.model_validate(result.data)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(str(part) for part in first["loc"]) or "its top"
            problem = f"does not fit {known.result.__name__}: {first['msg']} at {place}"
        else:
            data = value.model_dump(mode="json", by_alias=True)
    summary = _summary(value, data)
    return TypedResult(value is not None, summary, data, result.code, result.message, problem)


def _summary(value: BaseModel | None, data: JsonValue) -> str:
    own = getattr(value, "summary", None)
    text = str(own()) if callable(own) else json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return text if len(text) <= _LONGEST_SUMMARY else f"{text[:_LONGEST_SUMMARY]}..."
