"""What goes wrong: which fault hits which request, message or job, how often each did, and the harm itself.

A fault is a rule: a kind, the operations and queues it applies to, and a probability, a count ("the next N"), or both.
Rules are asked in order. Latency adds up and lets the request go on; of the others the first that is drawn wins.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Annotated, Any, Final, Literal

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, field_validator

from consumer.sandbox.protocol import GROUPS, HTML, Response, operations_named
from consumer.sandbox.queue import Message, Queue

Kind = Literal[
    "latency",
    "error",
    "html",
    "redirect",
    "drop",
    "hang",
    "early_empty",
    "drop_after",
    "hang_after",
    "truncate",
    "no_request_id",
    "entry_error",
    "duplicate",
    "revoke",
    "submit_answer_lost",
    "job_stuck",
    "notification_lost",
    "notification_twice",
]

_BEFORE: Final = frozenset({"error", "html", "redirect", "drop", "hang", "early_empty"})
_AFTER: Final = frozenset({"drop_after", "hang_after", "truncate", "no_request_id"})
# Kinds that mean nothing to other operations: they are never drawn there, so never counted.
_ONLY_FOR: Final = {
    "early_empty": GROUPS["receive"],
    "duplicate": GROUPS["receive"],
    "revoke": GROUPS["receive"],
    "entry_error": frozenset({"BatchDeleteMessage", "BatchSendMessage"}),
    "submit_answer_lost": GROUPS["submit"],
    "job_stuck": GROUPS["submit"],
    "notification_lost": GROUPS["submit"],
    "notification_twice": GROUPS["submit"],
}

# A 429 is held for about 500 ms. Source: facts/mns.md#error-codes.
_THROTTLED_HOLD_S: Final = 0.5
_TOO_MANY: Final = 429
_PAGE: Final = (
    b"<html>\r\n<head><title>Bad Gateway</title></head>\r\n<body>\r\n<center><h1>Bad Gateway</h1></center>\r\n"
    b"<hr><center>A gateway in front of the service</center>\r\n</body>\r\n</html>\r\n"
)
_REDIRECT_TARGET: Final = "http://127.0.0.1:9/elsewhere"


class Fault(BaseModel):
    """One rule.

    Attributes:
        kind: ``latency`` waits ``seconds`` (plus up to ``jitter_s``) and goes on.

            Instead of the effect: ``error`` answers ``status`` with ``code`` (``xml=False``: without a body), ``html``
            answers ``status`` with a web page (also 200), ``redirect`` answers 302, ``drop`` closes the connection,
            ``hang`` never answers (or closes after ``seconds``), ``early_empty`` answers a receive at once as empty.

            After the effect: ``drop_after``, ``hang_after``, ``truncate`` (sends half of the response, then closes),
            ``no_request_id``.

            For entries and messages: ``entry_error`` fails entries of a batch delete or batch send with ``code``,
            ``duplicate`` makes a received message visible a second time at once, ``revoke`` ends the lease of a
            received message after ``seconds``.

            For jobs: ``submit_answer_lost`` runs the job and closes the connection of its submit without an answer;
            ``job_stuck`` stays Analysing; ``notification_lost``, ``notification_twice``.
        operations: Names of calls, or ``mns``, ``mps``, ``ims``, ``send``, ``receive``, ``peek``, ``delete``,
            ``hide``, ``submit``, ``query``; none means all.
        queues: Names of queues, with ``*`` and ``?``; none means all, and calls without a queue.
        probability: Chance of a hit.
        count: After this many hits the fault is removed; none is unlimited.
        seconds: A time, see the kinds.
        jitter_s: Additional latency, evenly distributed from 0.
        status: HTTP status of ``error`` and ``html``, and of a batch send with an ``entry_error``.
        code: Error code; by default one that fits the status and the service.
        message: Text of the error.
        xml: Whether an ``error`` has a body.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind
    operations: tuple[str, ...] = ()
    queues: tuple[str, ...] = ()
    probability: Annotated[float, Field(ge=0, le=1)] = 1.0
    count: Annotated[int | None, Field(ge=1)] = None
    seconds: Annotated[float, Field(ge=0, le=86_400)] = 0.0
    jitter_s: Annotated[float, Field(ge=0, le=3600)] = 0.0
    status: Annotated[int, Field(ge=200, le=599)] = 500
    code: str | None = None
    message: str = "A fault of the sandbox."
    xml: bool = True

    @field_validator("operations")
    @classmethod
    def _operations_are_known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        operations_named(names)
        return names

    @cached_property
    def applies_to(self) -> frozenset[str]:
        """The operations that it can hit."""
        operations = operations_named(self.operations)
        return operations & _ONLY_FOR.get(self.kind, operations)

    @property
    def hold_s(self) -> float:
        """Seconds before an error is answered; a 429 without ``seconds`` is held as the service does."""
        if self.status == _TOO_MANY and "seconds" not in self.model_fields_set:
            return _THROTTLED_HOLD_S
        return self.seconds

    @classmethod
    def parse(cls, text: str) -> "Fault":
        """Read JSON, ``KIND`` or ``KIND:key=value,key=value``, where ``+`` joins several operations or queues.

        For example ``error:status=503,operations=receive+delete,probability=0.1``.

        Raises:
            ValueError: With what was expected (pydantic's ValidationError is one).
        """
        if text.lstrip().startswith("{"):
            return cls.model_validate_json(text)
        kind, _, rest = text.partition(":")
        values: dict[str, Any] = {"kind": kind.strip()}
        for part in filter(None, rest.split(",")):
            key, has_value, value = part.partition("=")
            if not has_value:
                raise ValueError(f"'{part}' in fault '{text}' is not key=value")
            key = key.strip()
            values[key] = tuple(value.split("+")) if key in ("operations", "queues") else value.strip()
        return cls.model_validate(values)


@dataclass(frozen=True, slots=True)
class Plan:
    """What goes wrong with one request."""

    latency_s: float = 0.0
    before: Fault | None = None
    after: Fault | None = None

    @property
    def kind(self) -> str:
        """The kind that replaced or spoilt the response; else "latency" or ""."""
        fault = self.before or self.after
        if fault is not None:
            return fault.kind
        return "latency" if self.latency_s else ""


class Faults:
    """The current rules, and beside them ``lose``: the share of all jobs that end without a notification.

    ``applied`` counts hits by kind since the start and is never reset.
    """

    def __init__(self, faults: Iterable[Fault] = (), *, lose: float = 0.0, seed: int = 0) -> None:
        self.applied: Counter[str] = Counter()
        self.lose = lose
        self._chance = random.Random(seed)  # noqa: S311 - chance that a test can repeat, no secret
        self._lots = random.Random(seed)  # noqa: S311 - as above
        self._rules = list(faults)

    def set(self, faults: Iterable[Fault]) -> None:
        """Replace all rules."""
        self._rules = list(faults)

    def add(self, fault: Fault) -> None:
        """Append a rule."""
        self._rules.append(fault)

    def clear(self) -> None:
        """Remove all rules."""
        self._rules = []

    def current(self) -> list[Fault]:
        """The rules, with what is left of their counts."""
        return list(self._rules)

    def plan(self, operation: str, queue: str | None) -> Plan:
        """Draw what goes wrong with a request."""
        latency_s = 0.0
        before: Fault | None = None
        after: Fault | None = None
        for fault in self.current():
            if fault.kind == "latency":
                if self._is_drawn(fault, operation, queue):
                    latency_s += fault.seconds + self._chance.random() * fault.jitter_s
            elif fault.kind in _BEFORE and before is None:
                if self._is_drawn(fault, operation, queue):
                    before = fault
            elif fault.kind in _AFTER and before is None and after is None and self._is_drawn(fault, operation, queue):
                after = fault
        return Plan(latency_s, before, after)

    def draw(self, kind: Kind, operation: str, queue: str | None) -> Fault | None:
        """Draw whether this kind hits one message, entry or job."""
        for fault in self._rules:
            if fault.kind == kind and self._is_drawn(fault, operation, queue):
                return fault
        return None

    def draw_lot(self) -> float:
        """Draw the lot of a job, from 0 to 1, when it is submitted: seed and order alone decide which job is lost."""
        return self._lots.random()

    def loses(self, lot: float) -> bool:
        """Whether ``lose`` takes the notification of the job with this lot."""
        is_lost = lot < self.lose
        self.applied["notification_lost"] += is_lost
        return is_lost

    def spoil_messages(self, queue: Queue, operation: str, taken: Iterable[Message]) -> None:
        """Draw and do what happens to each message that was just received."""
        for message in taken:
            if not message.is_duplicate and self.draw("duplicate", operation, queue.name):
                queue.duplicate(message)
            fault = self.draw("revoke", operation, queue.name)
            if fault is not None:
                asyncio.get_running_loop().call_later(fault.seconds, _revoke, queue, message, message.handle)

    def _is_drawn(self, fault: Fault, operation: str, queue: str | None) -> bool:
        if operation not in fault.applies_to:
            return False
        if fault.queues and not any(fnmatchcase(queue or "", pattern) for pattern in fault.queues):
            return False
        if fault.probability < 1 and self._chance.random() >= fault.probability:
            return False
        self.applied[fault.kind] += 1
        if fault.count is not None:
            at = self._rules.index(fault)
            rest = [fault.model_copy(update={"count": fault.count - 1})] if fault.count > 1 else []
            self._rules[at : at + 1] = rest
        return True


def _revoke(queue: Queue, message: Message, handle: str | None) -> None:
    # Renewed, deleted or received again meanwhile: that is another lease.
    if message.handle == handle:
        queue.revoke(message)


async def replace_effect(
    request: web.BaseRequest, fault: Fault, error: Callable[[int, str | None, str], Response]
) -> Response | None:
    """Do what a fault puts in place of the effect; None where the connection was dropped.

    ``error`` renders an error of the service from its status, code (None: one that fits) and text.
    """
    match fault.kind:
        case "error":
            await asyncio.sleep(fault.hold_s)
            response = error(fault.status, fault.code, fault.message)
            return response if fault.xml else Response(fault.status, content_type="")
        case "early_empty":
            return error(404, "MessageNotExist", "Message not exist.")
        case "html":
            return Response(fault.status, _PAGE, HTML)
        case "redirect":
            return Response(302, _PAGE, HTML, headers={"Location": _REDIRECT_TARGET})
        case _:
            if fault.kind == "hang":
                await _hang(fault)
            _drop(request)
            return None


async def spoil_response(request: web.BaseRequest, response: web.Response, fault: Fault) -> web.StreamResponse:
    """Do to a response what a fault does after the effect."""
    if fault.kind == "no_request_id":
        return response
    if fault.kind == "truncate" and isinstance(response.body, bytes):
        half = web.StreamResponse(status=response.status, headers=response.headers)
        half.content_length = len(response.body)
        await half.prepare(request)
        await half.write(response.body[: len(response.body) // 2])
        if request.transport is not None:
            request.transport.close()
        return half
    if fault.kind == "hang_after":
        await _hang(fault)
    _drop(request)
    return response


async def _hang(fault: Fault) -> None:
    if fault.seconds:
        await asyncio.sleep(fault.seconds)
    else:
        # Until the client leaves or the sandbox stops: either cancels this.
        await asyncio.get_running_loop().create_future()


def _drop(request: web.BaseRequest) -> None:
    if request.transport is not None:
        request.transport.abort()
