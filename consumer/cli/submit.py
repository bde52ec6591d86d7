"""``mns-consumer submit``: check and submit one job, and wait for its result if asked to.

A request that breaks a rule of ``functions/request.py`` is refused with all its problems before anything is sent. Then
``submissions/submitter.py`` records it and sends it once. A lost answer has an exit code of its own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

import anyio
import typer
from pydantic import JsonValue

from consumer.cli.options import complete_function
from consumer.cli.output import JsonFlag, note, print_json
from consumer.cloud.clients import open_clients
from consumer.cloud.mps import Mps
from consumer.config import LaneSettings, QueueSettings, Settings, load
from consumer.errors import CloudError, ConsumerError, ExitCode, NoStoreError, SettingsError, UsageError
from consumer.functions.finding import FindingLevel, RequestFinding, refused
from consumer.functions.request import Destination, JobRequest, typed_params
from consumer.notify_url import NotifyUrl, NotifyUrlError, parse_endpoint
from consumer.ops.sanitize import json_text, printable
from consumer.settings_sources import masked
from consumer.store.open import open_submissions
from consumer.submissions.result import EndedJob, ended_job, wait_for_end
from consumer.submissions.submitter import MAY_EXIST, RequestRefusedError, Submitter, send_once

_OWN_ENDPOINT: Final = re.compile(r"mts(?:-vpc)?\.(?P<region>[a-z0-9-]+)\.aliyuncs\.com")
_ALIBABAS: Final = ".aliyuncs.com"
_CLOUD: Final = "Where to"


def _cloud(text: str, metavar: str | None = None) -> Any:
    return typer.Option(help=text, metavar=metavar, rich_help_panel=_CLOUD, show_default=False)


def submit(
    *,
    function: Annotated[
        str, typer.Option(metavar="NAME", help="FunctionName, such as Cover.", autocompletion=complete_function)
    ],
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
    ref: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Idempotency key: submitted again, it gives the first job.")
    ] = None,
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
    store: Annotated[str | None, _cloud("Where the submission is recorded: the daemon's store.", "TARGET")] = None,
    config: Annotated[Path | None, _cloud("Settings file, TOML.", "FILE")] = None,
) -> None:
    """Submit one job to MPS; prints its JobId.

    The submission is recorded in the store before it is sent, so that the daemon finds the job's end even if no message
    reports it.
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
    flags = {**keys, "store": store}
    settings = load({name: value for name, value in flags.items() if value is not None}, config)
    findings = request.findings(_destination(settings, request.notify_url, endpoint, region))
    _judge(request, findings, force=force, dry_run=dry_run, as_json=as_json)
    if dry_run:
        return
    sending = _Sending(
        settings=settings,
        queue=_queue(settings, request.notify_url, endpoint, region, own_keys=any(keys.values())),
        is_recorded=bool(request.notify_url or settings.queues()),
        ref=ref,
        wait_s=wait_seconds if wait else None,
        as_json=as_json,
    )
    raise typer.Exit(anyio.run(sending.submit, request))


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
        if all(finding.level is FindingLevel.FORCEABLE for finding in refusing):
            note("nothing was sent; these rules are inferred, and --force sends it all the same")
        raise RequestRefusedError(refusing)


@dataclass(frozen=True, slots=True)
class _Sending:
    """How a request is sent and followed.

    Args:
        is_recorded: Whether the settings or the command line name the queue that handles the job's end.
        wait_s: How long its end is waited for; ``None``: not at all.
    """

    settings: Settings
    queue: QueueSettings
    is_recorded: bool
    ref: str | None
    wait_s: float | None
    as_json: bool

    async def submit(self, request: JobRequest) -> ExitCode:
        """Submit the request and print what comes of it."""
        async with open_clients(self.queue, ca_file=self.settings.ca_file) as clients:
            try:
                job = await self._send(clients.mps, request)
            except anyio.get_cancelled_exc_class():
                _warn(f"interrupted before MPS answered; {MAY_EXIST}")
                raise
            job_id = str(job["job_id"])
            if not self.as_json:
                print(printable(job_id), flush=True)
            elif self.wait_s is None:
                print_json(job)
            if self.wait_s is None:
                return ExitCode.OK
            try:
                answer = await wait_for_end(clients.mps.query, job_id, self.wait_s)
            except CloudError as error:
                raise ConsumerError(f"job {printable(job_id)} was submitted, but its end is unknown: {error}") from None
            except TimeoutError as error:
                raise ConsumerError(printable(f"{error}; wait longer by --wait-seconds")) from None
        return _print_end(ended_job(answer), as_json=self.as_json)

    async def _send(self, mps: Mps, request: JobRequest) -> Mapping[str, object]:
        """Record and send the request; without a store it is sent all the same, unless a ``ref`` needs one."""
        why = "its end would be handled by no queue of the settings"
        if self.is_recorded:
            async with open_submissions(self.settings.store_address()) as submissions:
                accounts = {lane.url.account for lane in self.settings.queues()}
                after_s = self.settings.reconcile_after_s
                submitter = Submitter(mps, submissions, self.queue, accounts=accounts, reconcile_after_s=after_s)
                try:
                    job = await submitter.send(request, ref=self.ref)
                except NoStoreError as error:
                    why = str(error)
                else:
                    names = {"job_id": job.job_id, "request_id": job.request_id, "submission": job.number}
                    return {**names, "ref": job.ref, "is_new": job.is_new}
        if self.ref is not None:
            raise UsageError(f"--ref {self.ref}: it needs a record, and {why}")
        _warn(f"this job is not recorded: {why}")
        answer = await send_once(mps, request.parameters())
        return {"job_id": answer.job_id, "request_id": answer.request_id, "submission": None}


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


def _print_end(job: EndedJob, *, as_json: bool) -> ExitCode:
    if as_json:
        about = {"job_id": job.job_id, "function": job.function, "job_state": job.state}
        result = {"code": job.code, "message": job.message, "result": job.result_json, "typed": job.problem is None}
        print_json({**about, **result, "user_data": job.user_data})
    else:
        print(printable(f"{job.state}: {f'{job.code}: {job.message}' if job.failed else job.summary()}"))
        if not job.failed:
            print(json_text(job.result_json, indent=2))
        if job.problem:
            _warn(job.problem)
    return ExitCode.FAILURE if job.failed else ExitCode.OK
