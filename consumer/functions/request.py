"""The rules for a whole SubmitIProductionJob request, checked before anything is sent: pure, no network.

``JobRequest.findings`` returns every problem at once. Each has a level: an error is known to be wrong; a rule that is
inferred, or that a file's name alone shows, can be forced; a warning refuses nothing. MPS itself reports most of these
mistakes only when the job has failed, some never, and a job that is submitted again is billed again.

Source: facts/iproduction.md#submit-a-job, facts/iproduction.md#request-rules, facts/iproduction.md#output-placeholders,
facts/iproduction.md#job-parameters.
"""

from __future__ import annotations

import difflib
import json
import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pydantic import JsonValue, ValidationError
from pydantic_core import ErrorDetails

from consumer.functions.catalogue import Function, Medium, find, names, nearest
from consumer.functions.finding import LONGEST, FindingLevel, RequestFinding, error, forceable, shown, warning
from consumer.functions.parameters import INFERRED, INFERRED_RULE, FunctionParams, compact_json

SANDBOX_ORDERS: Final = "sandbox"
"""The key of JobParams that orders how a job ends in the local sandbox; MPS has no such parameter."""
PLACEHOLDERS: Final = ("source", "timestamp", "sequenceId", "resultType")
"""What MPS replaces in Output. Source: facts/iproduction.md#output-placeholders."""
SAFE_USER_DATA_BYTES: Final = 1024
"""Up to here UserData is safe. Source: facts/iproduction.md#userdata."""

_SUBMIT: Final = "facts/iproduction.md#submit-a-job"
_RULES: Final = "facts/iproduction.md#request-rules"
_OUTPUT: Final = "facts/iproduction.md#output-placeholders"
_IMS: Final = "facts/iproduction.md#sister-service-ims"
_NOT_WRITTEN: Final = "facts/iproduction.md#output-not-written"
_FUNCTIONS: Final = "facts/iproduction.md#functions"

_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,127}")
_OSS: Final = re.compile(r"oss://[^/\s.]{1,63}\.oss-(?P<region>[a-z0-9-]{1,40})\.aliyuncs\.com/(?P<key>\S.*)")
_OSS_FORM: Final = "oss://BUCKET.oss-REGION.aliyuncs.com/KEY"
_IMS_FORM: Final = re.compile(r"oss://[^/\s.]+/.+|https?://[^/\s]+\.aliyuncs\.com/.+")
# As consumer/notify_url.py has it, which the sandbox must not load; a test holds both to the same addresses.
_QUEUE: Final = re.compile(
    r"mns://(?P<account>[0-9A-Za-z-]{1,64})\.mns\.(?P<region>[a-z0-9-]{2,40}?)(?:-internal(?:-vpc)?)?"
    r"\.aliyuncs\.com/queues/[A-Za-z0-9][A-Za-z0-9-]{0,255}/?"
)
_QUEUE_FORM: Final = "mns://ACCOUNT.mns.REGION.aliyuncs.com/queues/NAME"
_PIPELINE: Final = re.compile(r"[0-9a-fA-F]{32}")
_BRACES: Final = re.compile(r"\{([^{}]*)\}")
_DOUBLED: Final = re.compile(r"\{resultType\}\.\w+$")
_INTERNAL: Final = "-internal"
_LIKE: Final = 0.75
# Endings that are one medium's alone.
_ENDINGS: Final = {
    **dict.fromkeys((".mp4", ".mov", ".avi", ".mkv", ".flv", ".webm", ".wmv", ".mpg", ".mpeg"), Medium.VIDEO),
    **dict.fromkeys((".mp3", ".wav", ".flac", ".aac", ".m4a"), Medium.AUDIO),
    **dict.fromkeys((".jpg", ".jpeg", ".png", ".bmp", ".webp"), Medium.IMAGE),
}
_TEXTS: Final = frozenset({".srt", ".txt", ".json"})


_API_NAMES: Final = {
    "function": "FunctionName",
    "params": "JobParams",
    "input": "Input",
    "output": "Output",
    "user_data": "UserData",
    "notify_url": "NotifyUrl",
    "pipeline_id": "PipelineId",
    "model_id": "ModelId",
    "schedule_params": "ScheduleParams",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """Where a request goes, as far as the settings say; an unknown part checks nothing.

    Args:
        region: MPS's region.
        accounts: The accounts whose queues this program consumes.
        is_sandbox: It is the local sandbox, which takes orders in JobParams.
    """

    region: str | None = None
    accounts: frozenset[str] = frozenset()
    is_sandbox: bool = False


_ANYWHERE: Final = Destination()


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRequest:
    """One submission.

    Args:
        function: FunctionName; by default that of ``params``.
        params: JobParams: typed, as an object, or as the JSON text of one.
        schedule_params: JSON text; ``null`` counts as not given.
    """

    function: str = ""
    params: FunctionParams | Mapping[str, JsonValue] | str = "{}"
    input: str | None = None
    output: str | None = None
    user_data: str | None = None
    notify_url: str | None = None
    pipeline_id: str | None = None
    model_id: str | None = None
    schedule_params: str | None = None

    @classmethod
    def of_parameters(cls, parameters: Mapping[str, str]) -> JobRequest:
        """A request as it came over the wire; names that are none of SubmitIProductionJob's are left out."""
        return cls(**{name: parameters[api] for name, api in _API_NAMES.items() if parameters.get(api)})

    @property
    def function_name(self) -> str:
        """FunctionName."""
        if not self.function and isinstance(self.params, FunctionParams):
            return self.params.function
        return self.function

    def findings(self, destination: Destination = _ANYWHERE) -> Sequence[RequestFinding]:
        """Every problem, in the order of the API's parameters."""
        return tuple(_findings(self, destination))

    def parameters(self) -> dict[str, str]:
        """The parameters of SubmitIProductionJob by their names, each as it is sent; what is not given is left out.

        JobParams that fit the function's model are written as they are documented, all others as they came.
        """
        given = {name: getattr(self, name) for name in _API_NAMES}
        given["function"] = self.function_name
        given["params"] = _read_params(self, find(self.function_name), is_sandbox=True).text
        if _is_null(self.schedule_params):
            given["schedule_params"] = None
        return {_API_NAMES[name]: value for name, value in given.items() if value is not None}


def _is_null(text: str | None) -> bool:
    return text is None or text.strip() in ("", "null")


def _findings(request: JobRequest, destination: Destination) -> Iterator[RequestFinding]:
    function = find(request.function_name)
    read = _read_params(request, function, is_sandbox=destination.is_sandbox)
    yield from _function_name(request.function_name)
    yield from _model_id(request.model_id, function)
    yield from _files(request, function, read.value)
    yield from _regions(request, destination)
    yield from read.findings
    yield from _schedule(request.schedule_params)
    yield from _notification(request, destination)
    size = len((request.user_data or "").encode("utf-8", "surrogatepass"))
    if size > SAFE_USER_DATA_BYTES:
        expected = f"at most {SAFE_USER_DATA_BYTES} bytes, which are safe to come back"
        yield warning("UserData", expected, f"{size} bytes", "facts/iproduction.md#userdata")


def _function_name(name: str) -> Iterator[RequestFinding]:
    if not _NAME.fullmatch(name):
        yield error("FunctionName", "a FunctionName such as Cover", name, _FUNCTIONS)
    elif name not in names():
        near = nearest(name)
        hint = f"did you mean {near}?" if near else f"documented are {', '.join(names())}"
        yield forceable("FunctionName", f"a documented FunctionName; {hint}", name, _FUNCTIONS)


def _model_id(model_id: str | None, function: Function | None) -> Iterator[RequestFinding]:
    if model_id and function is not None and function.model_ids and model_id not in function.model_ids:
        expected = f"none, or {' or '.join(sorted(function.model_ids))}"
        yield forceable("ModelId", expected, model_id, function.source)


# Input and Output


def _files(request: JobRequest, function: Function | None, params: FunctionParams | None) -> Iterator[RequestFinding]:
    yield from _url("Input", request.input)
    yield from _url("Output", request.output)
    yield from _placeholders(request.output or "")
    if any(f"{{{name}}}" in (request.input or "") for name in PLACEHOLDERS):
        yield forceable("Input", "the URL of one file; placeholders belong in Output", request.input, _OUTPUT)
    if function is None:
        return
    if not request.input:
        yield error("Input", f"the URL of its input: {function.input}", None, function.source)
    else:
        yield from _kind("Input", request.input, function.media, function.input_ending, function)
    if function.output is None:
        if request.output:
            yield warning("Output", f"none: {function.name} writes no file", request.output, function.source)
        return
    if not request.output:
        level = FindingLevel.FORCEABLE if function.output_is_inferred else FindingLevel.ERROR
        yield RequestFinding(
            "Output", level, f"the URL of what it writes: {function.output}", "nothing", function.source
        )
        return
    media = frozenset({function.output_media}) if function.output_media else frozenset[Medium]()
    ending = function.output_ending or (params.output_ending if params else None)
    yield from _kind("Output", request.output, media, ending, function)
    yield from _needed(request.output, function, params)


def _url(field: str, url: str | None) -> Iterator[RequestFinding]:
    if not url:
        return
    found = _OSS.fullmatch(url)
    if found is None and _IMS_FORM.fullmatch(url):
        yield forceable(field, f"{_OSS_FORM}; this is a form of IMS", url, _IMS)
    elif found is None:
        yield error(field, _OSS_FORM, url, _SUBMIT)
    elif found["region"].endswith(_INTERNAL):
        yield forceable(field, f"{_OSS_FORM} without {_INTERNAL}", url, _SUBMIT)
    elif found["key"].endswith("/"):
        yield forceable(field, "the name of a file after the folder", url, _SUBMIT)


def _placeholders(output: str) -> Iterator[RequestFinding]:
    known = ", ".join(f"{{{name}}}" for name in PLACEHOLDERS)
    for name in _BRACES.findall(output):
        if name in PLACEHOLDERS:
            continue
        near = _like(name)
        if near is not None:
            yield error("Output", f"{{{near}}}", f"{{{name}}}", _OUTPUT)
        else:
            yield forceable("Output", f"one of the placeholders {known}", f"{{{name}}}", _OUTPUT)
    if not {"{", "}"}.isdisjoint(_BRACES.sub("", output)):
        yield forceable("Output", f"placeholders in pairs of braces: {known}", output, _OUTPUT)
    if _DOUBLED.search(output):
        yield forceable("Output", "no ending after {resultType}: MPS adds it, so it would come twice", output, _OUTPUT)


def _like(name: str) -> str | None:
    """The placeholder that is meant by a misspelt name."""
    by_folded = {known.lower(): known for known in PLACEHOLDERS}
    close = difflib.get_close_matches(re.sub(r"[\s_-]", "", name.lower()), by_folded, n=1, cutoff=_LIKE)
    return by_folded[close[0]] if close else None


def _needed(output: str, function: Function, params: FunctionParams | None) -> Iterator[RequestFinding]:
    # A misspelt placeholder is there already; its own finding says how it is spelt.
    meant = {_like(name) for name in _BRACES.findall(output)}
    if function.needs_sequence_id and "sequenceId" not in meant:
        level = FindingLevel.FORCEABLE if function.sequence_id_is_inferred else FindingLevel.ERROR
        expected = f"{{sequenceId}} in it, since {function.name} writes several files"
        yield RequestFinding("Output", level, expected, shown(output), function.source)
    if params is None:
        return
    if params.needs_result_type and "resultType" not in meant:
        yield error("Output", "{resultType} in it, since sep writes a file of each kind", output, function.source)
    elif not params.needs_result_type and "{resultType}" in output:
        yield forceable("Output", "no {resultType}: one kind of file comes out", output, _OUTPUT)


def _kind(
    field: str, url: str, media: frozenset[Medium], ending: str | None, function: Function
) -> Iterator[RequestFinding]:
    """Compare a file's name with what it must be; a name without a known ending says nothing."""
    came = posixpath.splitext(url.rpartition("/")[2])[1].lower()
    if not came or "{" in came:
        return
    if ending is not None:
        if came != ending:
            yield forceable(field, f"a file whose name ends with {ending}", url, function.source)
    elif media and (came in _TEXTS or _ENDINGS.get(came, next(iter(media))) not in media):
        yield forceable(field, f"{' or '.join(sorted(media))}", url, function.source)


def _regions(request: JobRequest, destination: Destination) -> Iterator[RequestFinding]:
    """Both buckets and the queue must be in MPS's region."""
    known, whose = destination.region, "MPS"
    for field, url, source in (("Input", request.input, _SUBMIT), ("Output", request.output, _NOT_WRITTEN)):
        found = _OSS.fullmatch(url or "")
        region = found and found["region"].removesuffix(_INTERNAL)
        if region and known and region != known:
            expected = f"a bucket in {known}, the region of {whose}"
            if field == "Output":
                expected += "; a job that writes to another region is billed, says Success and writes nothing"
            yield error(field, expected, url, source)
        elif region and known is None:
            known, whose = region, field
    queue = _QUEUE.fullmatch((request.notify_url or "").strip())
    if queue is not None and known and queue["region"] != known:
        yield forceable("NotifyUrl", f"a queue in {known}, the region of {whose}", request.notify_url, _RULES)


# JobParams


@dataclass(frozen=True, slots=True)
class _ReadParams:
    """JobParams as they are sent, and in the function's model where they fit it."""

    text: str
    value: FunctionParams | None
    findings: Sequence[RequestFinding] = ()


def _read_params(request: JobRequest, function: Function | None, *, is_sandbox: bool) -> _ReadParams:
    given = request.params
    if isinstance(given, FunctionParams):
        if given.function == request.function_name:
            return _ReadParams(given.job_params(), given, _doubts(given, function))
        wrong = error("JobParams", f"parameters of {request.function_name}", type(given).__name__, _SUBMIT)
        return _ReadParams(given.job_params(), None, (wrong,))
    text = given if isinstance(given, str) else compact_json(given)
    try:
        document = json.loads(text, object_pairs_hook=_each_once, parse_constant=_no_number)
    except (ValueError, RecursionError):
        document = text
    if document is None:
        text, document = "{}", {}
    if not isinstance(document, dict):
        expected = 'a JSON object with each key once, such as {"Model":"gif"}, or {} for none'
        return _ReadParams(text, None, (error("JobParams", expected, text, _SUBMIT),))
    orders = {SANDBOX_ORDERS: document.pop(SANDBOX_ORDERS)} if SANDBOX_ORDERS in document else {}
    found: list[RequestFinding] = []
    if orders and not is_sandbox:
        expected = "parameters of MPS; this one orders how a job of the local sandbox ends"
        found.append(forceable("JobParams.sandbox", expected, orders[SANDBOX_ORDERS], _SUBMIT))
    if function is None:
        return _ReadParams(text, None, found)
    try:
        value = function.params.model_validate(document)
    except ValidationError as refusal:
        problems = refusal.errors(include_url=False, include_context=False)
        found += [_param_problem(function, problem, document) for problem in problems]
        return _ReadParams(text, None, found)
    written = json.loads(value.job_params())
    return _ReadParams(compact_json(written | orders), value, [*found, *_doubts(value, function)])


def _each_once(pairs: list[tuple[str, JsonValue]]) -> dict[str, JsonValue]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key came twice")
    return found


def _no_number(name: str) -> JsonValue:
    raise ValueError(f"{name} is no JSON")


def _doubts(params: FunctionParams, function: Function | None) -> list[RequestFinding]:
    source = function.source if function else _SUBMIT
    given = json.loads(params.job_params())
    return [warning(f"JobParams.{name}", text, given.get(name), source) for name, text in params.warnings()]


def _param_problem(function: Function, problem: ErrorDetails, given: Mapping[str, JsonValue]) -> RequestFinding:
    """A validation error of a parameter, with its description as what was expected."""
    place = [str(part) for part in problem["loc"]]
    name, fields = place[0] if place else "", function.params.model_fields
    by_wire_name = {wire: fields[key] for key, wire in function.params.wire_names().items()}
    info = fields.get(name) or by_wire_name.get(name)
    if problem["type"] == "extra_forbidden" and info is None:
        return _unknown_param(function, name, given[name])
    wrong = problem["msg"].removeprefix("Value error, ")
    came = None if problem["type"] == "missing" and len(place) == 1 else problem["input"]
    expected = f"{info.description if info else 'what is documented'} ({wrong[:1].lower()}{wrong[1:]})"
    is_inferred = problem["type"] == INFERRED_RULE or (info is not None and INFERRED in info.metadata)
    level = FindingLevel.FORCEABLE if is_inferred else FindingLevel.ERROR
    return RequestFinding(_param_field(place), level, expected, shown(came), function.source)


def _unknown_param(function: Function, name: str, value: JsonValue) -> RequestFinding:
    known = list(function.params.wire_names().values())
    by_folded = {key.lower(): key for key in known}
    close = difflib.get_close_matches(name.lower(), by_folded, n=1)
    source = function.source
    if name in function.params.ims_names:
        expected = f"MPS's parameters: {name} is IMS's name, MPS takes {function.params.ims_names[name]}"
        source = _IMS
    elif not known:
        expected = f"{{}}: {function.name} has no parameters"
    elif close:
        expected = f"a documented parameter; did you mean {by_folded[close[0]]}?"
    else:
        expected = f"a documented parameter; {function.name} has {', '.join(known)}"
    came = "null" if value is None else shown(value)
    return RequestFinding(_param_field([name]), FindingLevel.FORCEABLE, expected, came, source)


def _param_field(place: Sequence[str]) -> str:
    """The name of a parameter in errors: of one that is not documented it may hold anything."""
    parts = (part if part.isprintable() and len(part) <= LONGEST else shown(part) for part in place)
    return ".".join(("JobParams", *parts))


def typed_params(function: str, given: Mapping[str, str]) -> Mapping[str, JsonValue]:
    """Parameters that came as text, such as ``{"model": "gif", "fps": "5"}``, as JSON values.

    Those of a function's model stay text: the model types them. Of all others, JSON is decoded and the rest is text.
    """
    known = find(function)
    both = known.params.wire_names() if known else {}
    typed = {*both, *both.values()}
    return {name: value if name in typed else _decoded_or_text(value) for name, value in given.items()}


def _decoded_or_text(text: str) -> JsonValue:
    try:
        value: JsonValue = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return value


# Where the end is reported


def _schedule(text: str | None) -> Iterator[RequestFinding]:
    if _is_null(text):
        return
    value = _decoded_or_text(text or "")
    if not isinstance(value, dict):
        yield forceable("ScheduleParams", "a JSON object, or none: its content is not documented", text, _SUBMIT)


def _notification(request: JobRequest, destination: Destination) -> Iterator[RequestFinding]:
    if request.notify_url:
        queue = _QUEUE.fullmatch(request.notify_url.strip())
        if queue is None:
            yield error("NotifyUrl", f"{_QUEUE_FORM}: MPS notifies MNS queues alone", request.notify_url, _SUBMIT)
        elif destination.accounts and queue["account"] not in destination.accounts:
            expected = f"a queue of account {' or '.join(sorted(destination.accounts))}, whose queues are consumed here"
            yield forceable("NotifyUrl", expected, request.notify_url, _RULES)
    if request.pipeline_id and not _PIPELINE.fullmatch(request.pipeline_id):
        yield forceable("PipelineId", "32 hex digits", request.pipeline_id, _RULES)
    if not request.notify_url and not request.pipeline_id:
        expected = "one, or a PipelineId: otherwise no message reports the end of this job"
        yield warning("NotifyUrl", expected, None, _SUBMIT)
