"""Read the body of an MNS message: bytes to one ``Notification``, or to one reason why not.

MPS and its sister services put messages of ten kinds into a queue, which pipelines and workflows share. Their fields'
names distinguish them; any other object is ``Kind.UNKNOWN``, which is readable and finds no handler. A body is
undecodable when it is no JSON object, contradicts itself, or is a job's message without its essential fields.

Its ledger key names the job, execution or message that it is about:

    queue | kind | JobId                    an IProduction job that ended: one end for each job
    queue | kind | JobId | verified         the same, where a message that MPS contradicts has ended it first
    queue | kind | JobId or RunId | state   other kinds, which report more than once
    queue | kind | JobId | EventType        events of the sister service that name a job and its end
    queue | MessageId | id                  messages without an id, and kinds where one id means several things

Keys are stored: the same input gives the same key in every version, at most ``MAX_KEY_CHARACTERS`` long. Two inputs
never share one: parts are joined by ``|``, which is escaped inside them; a part that is too long is replaced by its
SHA-256, marked with a ``%`` that no escape leaves.

Everything here is pure and total: no clock, no network, no log, and any bytes give a value.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Final

from pydantic import JsonValue

from consumer.job_state import JobState
from consumer.message.envelope import FUNCTION_NAME, JOB_ID, fold, name_in, text_of, unwrap
from consumer.message.strict_json import Undecodable, agree, parse_container, shown, text_or_json

MAX_QUEUE_CHARACTERS: Final = 364
"""Enough for the longest queue: 64 of account, 40 of region, 256 of name."""
MAX_PART_CHARACTERS: Final = 240
MAX_KEY_CHARACTERS: Final = MAX_QUEUE_CHARACTERS + 3 * MAX_PART_CHARACTERS + 3

_EVENT_ENDS = frozenset({"success", "fail", "failed"})
"""Other states of an event may come several times for one job (facts/iproduction.md#ims-events)."""
_ESCAPED: Final = re.compile(r"%([0-9A-F]{2,6})\.")
_MESSAGE_KEY: Final = "MessageId"
_UNSAFE = re.compile(r"[%|\x00-\x20\x7f-\uffff\U00010000-\U0010ffff]")


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


@dataclass(slots=True)  # not frozen: that costs 0.1 us a field, for every message
class Notification:
    """One decoded message of MPS or a sister service.

    Args:
        route: A handler's name: the FunctionName of an IProduction job, else the kind; of an unknown kind its
            ``Type`` as it came, or ``unknown``.
        function: The FunctionName; ``None`` for other kinds.
        job_id: JobId, or RunId of a workflow.
        state: As it came; ``""`` where the kind has none.
        user_data_text: UserData as it came; ``None`` when missing, empty or ``null``.
        user_data: UserData decoded: a JSON object or array, else the text itself.
        result_text: A Result or Data in the message itself: rare, and anyone who may send to the queue can write it.
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

    @property
    def name(self) -> str:
        """The FunctionName or the kind; never the ``Type`` of an unknown message, which is arbitrary text."""
        return self.kind.value if self.kind is Kind.UNKNOWN else self.route


def decode(body: bytes) -> Notification | Undecodable:
    """Read one body. Total: any bytes give a value.

    Source: facts/iproduction.md#notification, facts/iproduction.md#other-messages-in-the-queue.
    """
    try:
        fields, document = unwrap(body)
        return _notification(fields, document)
    except Undecodable as fault:
        return fault.with_traceback(None)


def decode_user_data(text: str | None) -> JsonValue:
    r"""Decode one UserData: a JSON object or array, also with one stray layer of escaping; else the text itself.

    A number, a boolean or a word stays text: ``"007"`` is not seven. Missing, blank and the word ``null`` are ``None``.
    Source: facts/iproduction.md#userdata.
    """
    trimmed = "" if text is None else text.strip()
    if trimmed in {"", "null"}:
        return None
    if not trimmed.startswith(("{", "[", '"')):
        return text
    try:
        return parse_container(trimmed)
    except Undecodable:
        return text


def read_user_data(value: JsonValue) -> tuple[str | None, JsonValue]:
    """UserData's text (JSON of what was no string) and the decoded value; ``(None, None)`` when there is none."""
    text = text_or_json(value)
    decoded = decode_user_data(text)
    return (None, None) if decoded is None else (text, decoded)


def contradictions(
    notification: Notification,
    *,
    function: str | None,
    state: str | None,
    user_data: str | None,
    job_id: str | None = None,
) -> Sequence[str]:
    """Compare a notification, which anyone who may send to the queue can write, with what is known of its job.

    ``function`` is the kind's name for another kind than IProduction. A ``job_id`` of ``None`` is not compared, nor is
    UserData that the notification leaves out. Returns one phrase for each difference, with both values cut.
    """
    came = notification.user_data_text
    compared = (
        ("JobId", notification.job_id, job_id, job_id is None or notification.job_id == job_id),
        ("FunctionName", notification.route, function, notification.route == function),
        ("State", notification.state, state, same_state(notification.state, state or "")),
        ("UserData", came, user_data, came is None or same_user_data(came, user_data)),
    )
    return [
        f"{name} is {shown(said or '')}, not {shown(known or '')}" for name, said, known, same in compared if not same
    ]


def same_state(one: str, other: str) -> bool:
    """Whether two texts of State mean the same end of a job."""
    one, other = one.lower(), other.lower()
    phase = _PHASES.get(one)
    return one == other or (phase is not None and phase is _PHASES.get(other))


def same_user_data(one: str | None, other: str | None) -> bool:
    """Whether two texts of UserData are the same value, whatever layer of escaping either has."""
    return one == other or agree(decode_user_data(one), decode_user_data(other))


def ledger_key(queue_identity: str, notification: Notification, message_id: str) -> str:
    """The key of a notification in the queue ``NotifyUrl.identity``; ``message_id`` is MNS's, for one without an id."""
    kind, job_id = notification.kind, notification.job_id
    if job_id is None:
        return message_key(queue_identity, message_id)
    if kind is Kind.IPRODUCTION and notification.phase is not Phase.INTERMEDIATE:
        return job_key(queue_identity, job_id)
    if kind is Kind.IMS_EVENT and notification.event_type is not None and notification.state.lower() in _EVENT_ENDS:
        return _join(queue_identity, kind, job_id, notification.event_type)
    if kind in _ANY_STATE:
        return message_key(queue_identity, message_id)
    return _join(queue_identity, kind, job_id, notification.state)


def verified_key(queue_identity: str, notification: Notification) -> str:
    """The second key of a job: for a notification that MPS confirms after one that it contradicts has ended the job."""
    return _join(queue_identity, notification.kind, notification.job_id or "", "verified")


def job_key(queue_identity: str, job_id: str) -> str:
    """The key of an intelligent production job's end."""
    return _join(queue_identity, Kind.IPRODUCTION, job_id)


def job_keys(queue_identity: str, job_id: str) -> Sequence[str]:
    """The keys that a job of this id may have, whatever its kind; not those of events, which name more than the id."""
    end = (job_key(queue_identity, job_id), _join(queue_identity, Kind.IPRODUCTION, job_id, "verified"))
    reports = (kind for kind in Kind if kind is not Kind.IPRODUCTION and kind not in _ANY_STATE)
    return [*end, *(_join(queue_identity, kind, job_id, state) for kind in reports for state in _USUAL_ENDS)]


def message_key(queue_identity: str, message_id: str) -> str:
    """The key of a message by MNS's own id: for bodies that can't be read or that have no id."""
    return _join(queue_identity, _MESSAGE_KEY, message_id)


def key_pieces(queue_identity: str | None, job_id: str | None) -> tuple[str, str]:
    """What the keys of a queue begin with, and what those of a job hold; "" for any."""
    begins = "" if queue_identity is None else f"{_queue_part(queue_identity)}|"
    return begins, "" if job_id is None else f"|{_part(job_id)}"


def job_of(key: str) -> tuple[str, str | None]:
    """The queue's identity and the job's id in a key; ``None`` where it names a message."""
    queue, kind, *rest = (_ESCAPED.sub(lambda match: chr(int(match[1], 16)), part) for part in key.split("|"))
    return queue, rest[0] if rest and kind != _MESSAGE_KEY else None


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
            raise Undecodable(
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
        code=_first_text(fields, "code", "errorcode"),
        message=_first_text(fields, "message", "msg", "errormessage"),
        user_data_text=user_data_text,
        user_data=user_data,
        result_text=_inline_result(fields) if "result" in fields or "data" in fields else None,
        document=document,
        event_type=event_type,
    )


def _kind(fields: dict[str, JsonValue]) -> tuple[Kind, str]:
    """The kind, and Type as it came (``unknown`` without one)."""
    given = fields.get("type")
    type_text = given if isinstance(given, str) and given else Kind.UNKNOWN.value
    kind = _BY_TYPE.get(type_text.lower())
    if kind is not None:
        return kind, type_text
    # A workflow's Type is Start or Report; the object shows the kind.
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
    return run_id, text_of(inner, "state") or text_of(fields, "state") or ""


def _event_fields(fields: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """An event's own fields and those of its MessageBody; its own win. Source: facts/iproduction.md#ims-events."""
    body = fields.get("messagebody")
    if isinstance(body, str):
        try:
            body = parse_container(body)
        except Undecodable:
            return fields  # the sister service's own text; the handler finds it in the document
    return fold(body)[0] | fields if isinstance(body, dict) else fields


def _phase(kind: Kind, state: str, type_text: str) -> Phase:
    phase = _PHASES.get(state.lower())
    if kind is Kind.IPRODUCTION and phase is not None:
        return phase
    if kind in _ANY_STATE:
        # Their states are not documented: all but a failure count as an end that succeeded.
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
        raise Undecodable("state", f"expected one of {known} as State of this {kind.value} message, came {came}")
    return phase


def _first_text(fields: dict[str, JsonValue], *keys: str) -> str | None:
    """The first of these fields that is there, for people: text as it is, anything else as JSON."""
    for key in keys:
        if key in fields:
            return text_or_json(fields[key])
    return None


def _inline_result(fields: dict[str, JsonValue]) -> str | None:
    for key in ("result", "data"):
        value = fields.get(key)
        if value is not None and value != "":
            return text_or_json(value)
    return None


def _join(queue_identity: str, *parts: str) -> str:
    return "|".join((_queue_part(queue_identity), *map(_part, parts)))


@lru_cache(maxsize=64)
def _queue_part(queue_identity: str) -> str:
    return _part(queue_identity, MAX_QUEUE_CHARACTERS)


def _part(text: str, limit: int = MAX_PART_CHARACTERS) -> str:
    # Escaping only lengthens a text, so one that is too long already is not escaped.
    if len(text) <= limit:
        escaped = _UNSAFE.sub(lambda match: f"%{ord(match.group()):02X}.", text)
        if len(escaped) <= limit:
            return escaped
    # surrogatepass: any text has a sum, and two texts never the same bytes.
    return "%sha256." + hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


_BY_SHAPE: Final = (
    (frozenset({"functionname", "jobid", "state"}), Kind.IPRODUCTION),
    (frozenset({"eventtype", "messagebody"}), Kind.IMS_EVENT),
    (frozenset({"eventtype", "eventtime"}), Kind.VOD_EVENT),
    (frozenset({"jobid", "result"}), Kind.TEXT_TO_SPEECH),
)
"""The fields by which a message without Type is recognised, the most specific first."""

_EVENTS: Final = frozenset({Kind.IMS_EVENT, Kind.VOD_EVENT})
_ANY_STATE: Final = _EVENTS | {Kind.UNKNOWN}
"""Two messages of these kinds may share a job and a state and mean different things."""
_BY_TYPE: Final = {kind.value.lower(): kind for kind in Kind if kind not in _ANY_STATE}
_PHASES: Final = {
    JobState.SUCCESS.lower(): Phase.SUCCEEDED,
    "succes": Phase.SUCCEEDED,  # so spelt on one of the vendor's pages
    JobState.FAIL.lower(): Phase.FAILED,
    JobState.QUEUING.lower(): Phase.INTERMEDIATE,
    JobState.ANALYSING.lower(): Phase.INTERMEDIATE,
    "running": Phase.INTERMEDIATE,
}
_USUAL_ENDS: Final = ("", JobState.SUCCESS, JobState.FAIL, "Completed")
"""The states of ended jobs, as the services spell them (facts/iproduction.md#other-messages-in-the-queue)."""
