"""Read the body of an MNS message: bytes to one ``Notification``, or to one reason why not.

MPS and its sister services put messages of ten kinds into a queue, which pipelines and workflows share.
They are told apart by their fields' names; what is none of them is ``Kind.UNKNOWN``, which is readable
and only finds no handler. Unreadable is a body that is no JSON object, that contradicts itself, or a
job's message that lacks what it can't be handled without: then nothing is guessed.

    bytes -> text (body) -> object (envelope) -> fields (fields) -> Notification

Everything here is pure and total: no clock, no network, no log, and any bytes give a value.

Elsewhere: the name under which a message is remembered (``key``), the job's result (``result``), which
handler takes it (``plugin.registry``).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from pydantic import JsonValue

from consumer.job_state import JobState
from consumer.message.envelope import unwrap
from consumer.message.fields import FUNCTION_NAME, JOB_ID, fold, name_in, text_of, wording_of
from consumer.message.strict_json import dump, parse_container
from consumer.message.unreadable import Unreadable, shown
from consumer.message.user_data import read_user_data


class Kind(StrEnum):
    """Which of the services' messages it is (facts/iproduction.md#other-messages-in-the-queue)."""

    IPRODUCTION = "IProduction"
    TRANSCODE = "Transcode"
    SNAPSHOT = "Snapshot"
    ANALYSIS = "Analysis"
    MEDIA_INFO = "MediaInfo"
    SMART_TAG = "smarttag"
    MEDIA_WORKFLOW = "MediaWorkflow"
    TEXT_TO_SPEECH = "TextToSpeech"
    IMS_EVENT = "ImsEvent"
    VOD_EVENT = "VodEvent"
    UNKNOWN = "unknown"


class Phase(StrEnum):
    """What a state means for the daemon."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    INTERMEDIATE = "intermediate"
    """A known state that is no end: logged, counted, deleted; no handler runs."""


@dataclass(frozen=True, slots=True)
class Undecodable:
    """Why a body could not be read.

    Args:
        layer: Where it stopped: ``body``, ``xml``, ``envelope``, ``json``, ``keys`` or ``state``; inside a topic's
            envelope ``envelope.body``, ``envelope.json``, ``envelope.keys``.
        reason: One sentence: what was expected and what came; text from outside in it is cut.
        position: Offset within that layer, in bytes (``body``, ``xml``) or characters; ``None`` where it has none.
    """

    layer: str
    reason: str
    position: int | None = None

    def __str__(self) -> str:
        at = "" if self.position is None else f" at {self.position}"
        return f"{self.layer}{at}: {self.reason}"


@dataclass(slots=True)  # not frozen: that costs 0.1 us a field, for every message
class Notification:
    """One message of MPS or a sister service, understood.

    Args:
        kind: Which message it is.
        route: What a handler is looked up by: the FunctionName of an IProduction job, else the kind's name;
            of an unknown kind its ``Type`` as it came, or ``unknown``.
        function: The FunctionName; ``None`` for other kinds.
        job_id: JobId, or RunId of a workflow; ``None`` where there is none.
        state: The state's text as it came (``""`` where the kind has none).
        phase: What it means.
        code: The service's code; ``None`` where absent.
        message: The service's wording; ``None`` where absent.
        user_data_text: UserData as it came; ``None`` when missing, empty or ``null``.
        user_data: UserData decoded: a JSON object or array, else the text itself, else ``None``.
        result_text: A Result or Data that came with the message after all; ``None`` as a rule. Anyone who may send to
            the queue can write it.
        event_type: The EventType of an event; ``None`` for other kinds.
        document: The whole message as JSON, keys as they came (first of two spellings).
    """

    kind: Kind
    route: str
    function: str | None
    job_id: str | None
    state: str
    phase: Phase
    code: str | None
    message: str | None
    user_data_text: str | None
    user_data: JsonValue
    result_text: str | None
    document: dict[str, JsonValue]
    event_type: str | None = None


def decode(body: bytes) -> Notification | Undecodable:
    """Read one body. Total: any bytes give a value.

    Args:
        body: The message's body as it lay in the queue.

    Returns:
        What it says; or the first layer that could not be read, with the reason.

    Source: facts/iproduction.md#notification, facts/iproduction.md#other-messages-in-the-queue, facts/mns.md#base64.
    """
    try:
        fields, document = unwrap(body)
        return _notification(fields, document)
    except Unreadable as fault:
        return Undecodable(fault.layer, fault.reason, fault.position)


def _notification(fields: dict[str, JsonValue], document: dict[str, JsonValue]) -> Notification:
    kind, type_text = _kind(fields)
    function = event_type = None
    if kind in _EVENTS:
        event_type = text_of(fields, "eventtype")
        fields = _event_fields(fields)
    job_id = name_in(fields, "jobid", JOB_ID)
    if kind is Kind.IPRODUCTION:
        function = name_in(fields, "functionname", FUNCTION_NAME)
        if function is None or job_id is None:
            raise Unreadable(
                "keys", f"expected {'JobId' if function else 'FunctionName'} in an IProduction message, came none"
            )
    if kind is Kind.MEDIA_WORKFLOW:
        job_id, state = _workflow(fields)
    elif kind in _EVENTS:
        state = text_of(fields, "status") or text_of(fields, "state") or ""
    else:
        state = text_of(fields, "state") or ""
    user_data_text, user_data = read_user_data(fields.get("userdata"))
    return Notification(
        kind=kind,
        route=function or (type_text if kind is Kind.UNKNOWN else kind.value),
        function=function,
        job_id=job_id,
        state=state,
        phase=_phase(kind, state, type_text),
        code=wording_of(fields, "code" if "code" in fields else "errorcode"),
        message=wording_of(fields, "message" if "message" in fields else "msg" if "msg" in fields else "errormessage"),
        user_data_text=user_data_text,
        user_data=user_data,
        result_text=_inline_result(fields) if "result" in fields or "data" in fields else None,
        document=document,
        event_type=event_type,
    )


def _kind(fields: dict[str, JsonValue]) -> tuple[Kind, str]:
    """Tell which message it is, and its Type as it came (``unknown`` where it has none)."""
    given = fields.get("type")
    type_text = given if isinstance(given, str) and given else Kind.UNKNOWN.value
    kind = _BY_TYPE.get(type_text.lower())
    if kind is not None:
        return kind, type_text
    # A workflow's Type is Start or Report: it tells the moment, the object tells the kind.
    if "mediaworkflowexecution" in fields:
        return Kind.MEDIA_WORKFLOW, type_text
    if not given:
        for names, shape in _BY_SHAPE:
            if fields.keys() >= names:
                return shape, type_text
    return Kind.UNKNOWN, type_text


def _workflow(fields: dict[str, JsonValue]) -> tuple[str | None, str]:
    """A workflow's RunId and state; the state outside is that of the step that reports, mostly Success."""
    execution = fields.get("mediaworkflowexecution")
    inner = fold(execution)[0] if isinstance(execution, dict) else {}
    run_id = name_in(fields, "runid", JOB_ID) or name_in(inner, "runid", JOB_ID)
    state = text_of(inner, "state") or text_of(fields, "state") or ""
    return run_id, state


def _event_fields(fields: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """An event's own fields and those of its MessageBody; where both have one, its own.

    Source: facts/iproduction.md#ims-events.
    """
    body = fields.get("messagebody")
    if isinstance(body, str):
        try:
            body = parse_container(body)
        except Unreadable:
            body = None  # the sister service's own text; the handler finds it in the document
    return fold(body)[0] | fields if isinstance(body, dict) else fields


def _phase(kind: Kind, state: str, type_text: str) -> Phase:
    """What a state means; for a job a state that isn't known is no end and nothing else either."""
    phase = _PHASES.get(state.lower())
    if kind is Kind.IPRODUCTION and phase is not None:
        return phase
    if kind in _ANY_STATE:
        # Their states are not documented: only a failure is told apart, and none is thrown away as intermediate.
        return Phase.FAILED if phase is Phase.FAILED or state.lower() == "failed" else Phase.SUCCEEDED
    if kind is Kind.MEDIA_WORKFLOW:
        if type_text.lower() == "start":
            return Phase.INTERMEDIATE
        if state.lower() == "completed":
            return Phase.SUCCEEDED
    if phase is None:
        if not state and kind is Kind.TEXT_TO_SPEECH:
            return Phase.SUCCEEDED  # it is only sent with its result, and has no state
        came = shown(state) if state else "none"
        known = ", ".join(word.capitalize() for word in _PHASES if word != "succes")
        raise Unreadable("state", f"expected one of {known} as State of this {kind.value} message, came {came}")
    return phase


def phase_of(state: str) -> Phase | None:
    """What a job's State means; ``None`` for a text that is none of the documented ones."""
    return _PHASES.get(state.lower())


def _inline_result(fields: dict[str, JsonValue]) -> str | None:
    """A result that came with the message after all, as text for ``result.read_result``."""
    for key in ("result", "data"):
        value = fields.get(key)
        if value is not None and value != "":
            return value if isinstance(value, str) else dump(value)
    return None


_BY_TYPE: Final = {
    kind.value.lower(): kind
    for kind in (
        Kind.IPRODUCTION,
        Kind.TRANSCODE,
        Kind.SNAPSHOT,
        Kind.ANALYSIS,
        Kind.MEDIA_INFO,
        Kind.SMART_TAG,
        Kind.MEDIA_WORKFLOW,
        Kind.TEXT_TO_SPEECH,
    )
}
_BY_SHAPE: Final = (
    (frozenset({"functionname", "jobid", "state"}), Kind.IPRODUCTION),
    (frozenset({"eventtype", "messagebody"}), Kind.IMS_EVENT),
    (frozenset({"eventtype", "eventtime"}), Kind.VOD_EVENT),
    (frozenset({"jobid", "result"}), Kind.TEXT_TO_SPEECH),
)
"""What a message without Type is told by, the most telling first."""

_EVENTS: Final = frozenset({Kind.IMS_EVENT, Kind.VOD_EVENT})
_ANY_STATE: Final = _EVENTS | {Kind.UNKNOWN}
_PHASES: Final = {
    JobState.SUCCESS.lower(): Phase.SUCCEEDED,
    "succes": Phase.SUCCEEDED,  # so spelt on the vendor's page
    JobState.FAIL.lower(): Phase.FAILED,
    JobState.QUEUING.lower(): Phase.INTERMEDIATE,
    JobState.ANALYSING.lower(): Phase.INTERMEDIATE,
    "running": Phase.INTERMEDIATE,
}
