"""Decide what goes wrong: which fault hits which request, message or job, and how often each did.

A fault is a rule: a kind, the operations and queues it is for, and a probability, a count ("the next N"), or
both. Rules are asked in order. Latency adds up and lets the request go on; of the others the first that is
drawn wins. Chance is seeded.

Elsewhere: carrying a fault out (``server`` for requests, ``message_api`` for messages, ``jobs`` for jobs),
setting faults over HTTP (``control``).
"""

import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from consumer.sandbox.operations import GROUPS, expanded

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
    "job_stuck",
    "notification_lost",
    "notification_twice",
]

BEFORE: Final = frozenset({"error", "html", "redirect", "drop", "hang", "early_empty"})
"""Kinds that take the place of the effect."""

AFTER: Final = frozenset({"drop_after", "hang_after", "truncate", "no_request_id"})
"""Kinds that spoil the answer once the effect is there."""

# Kinds that mean nothing to other operations: there they are never drawn, so never counted.
_ONLY_FOR: Final = {
    "early_empty": GROUPS["receive"],
    "duplicate": GROUPS["receive"],
    "revoke": GROUPS["receive"],
    "entry_error": frozenset({"BatchDeleteMessage", "BatchSendMessage"}),
    "job_stuck": GROUPS["submit"],
    "notification_lost": GROUPS["submit"],
    "notification_twice": GROUPS["submit"],
}

# A 429 is held about 500 ms first. Source: facts/mns.md#error-codes.
_THROTTLED_HOLD_S = 0.5
_TOO_MANY = 429


class Fault(BaseModel):
    """One rule.

    Attributes:
        kind: ``latency`` waits ``seconds`` (plus up to ``jitter_s``) and goes on. In place of the effect:
            ``error`` answers ``status`` with ``code`` (``xml=False``: with no body), ``html`` answers
            ``status`` with a web page (also 200), ``redirect`` answers 302, ``drop`` closes the connection,
            ``hang`` never answers (or closes after ``seconds``), ``early_empty`` answers a receive at once
            as empty. After the effect: ``drop_after``, ``hang_after``, ``truncate`` (half of the answer,
            then closed), ``no_request_id``. For single entries and messages: ``entry_error`` fails entries
            of a batch delete or batch send with ``code``, ``duplicate`` makes a received message visible a
            second time at once, ``revoke`` ends the lease of a received message after ``seconds``. For
            jobs: ``job_stuck`` stays Analysing, ``notification_lost``, ``notification_twice``.
        operations: Operation or group names (see ``operations``); none is all.
        queues: Queue name patterns with ``*`` and ``?``; none is all, also what has no queue.
        probability: Chance of each draw.
        count: At most so often, then the rule is gone; None is without end.
        seconds: Of waiting; what for, ``kind`` says.
        jitter_s: Up to so much more latency, evenly spread.
        status: HTTP status of ``error`` and ``html``, and of a batch send with an ``entry_error``.
        code: Error code; by default one that fits the status and the service.
        message: Error message.
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
        expanded(names)
        return names

    @property
    def hold_s(self) -> float:
        """Seconds before an error is answered; 429 is held as the service does unless told otherwise."""
        if self.kind == "error" and self.status == _TOO_MANY and "seconds" not in self.model_fields_set:
            return _THROTTLED_HOLD_S
        return self.seconds

    @classmethod
    def parse(cls, text: str) -> "Fault":
        """Read ``KIND`` or ``KIND:key=value,key=value``; several operations or queues are joined by ``+``.

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


@dataclass(slots=True)
class _Rule:
    fault: Fault
    operations: frozenset[str]
    left: int | None


@dataclass(frozen=True, slots=True)
class Plan:
    """What goes wrong with one request."""

    latency_s: float = 0.0
    before: Fault | None = None
    after: Fault | None = None

    @property
    def kind(self) -> str:
        """The kind that took or spoilt the answer; "latency" or "" when none did."""
        fault = self.before or self.after
        if fault is not None:
            return fault.kind
        return "latency" if self.latency_s else ""


NOTHING: Final = Plan()


class Faults:
    """The rules that are on now, and what they did so far.

    ``applied`` counts by kind since the start; it is never reset.
    """

    def __init__(self, faults: Iterable[Fault] = (), *, seed: int = 0) -> None:
        self.applied: Counter[str] = Counter()
        self._chance = random.Random(seed)  # noqa: S311 - chance that a test can repeat, no secret
        self._rules: list[_Rule] = []
        self.set(faults)

    def __bool__(self) -> bool:
        return bool(self._rules)

    def set(self, faults: Iterable[Fault]) -> None:
        """Replace all rules."""
        self._rules = []
        for fault in faults:
            self.add(fault)

    def add(self, fault: Fault) -> None:
        """Put a rule at the end."""
        operations = expanded(fault.operations)
        operations &= _ONLY_FOR.get(fault.kind, operations)
        self._rules.append(_Rule(fault, operations, fault.count))

    def clear(self) -> None:
        """Take all rules away."""
        self._rules = []

    def current(self) -> list[Fault]:
        """Give the rules that are on, with what is left of their counts."""
        return [rule.fault.model_copy(update={"count": rule.left}) for rule in self._rules]

    def plan(self, operation: str, queue: str | None) -> Plan:
        """Draw what goes wrong with a request."""
        if not self._rules:
            return NOTHING
        latency_s = 0.0
        before: Fault | None = None
        after: Fault | None = None
        for rule in list(self._rules):
            kind = rule.fault.kind
            if kind == "latency":
                if self._is_drawn(rule, operation, queue):
                    latency_s += rule.fault.seconds + self._chance.random() * rule.fault.jitter_s
            elif kind in BEFORE and before is None:
                if self._is_drawn(rule, operation, queue):
                    before = rule.fault
            elif kind in AFTER and before is None and after is None and self._is_drawn(rule, operation, queue):
                after = rule.fault
        return Plan(latency_s, before, after)

    def draw(self, kind: Kind, operation: str, queue: str | None) -> Fault | None:
        """Draw whether one message, entry or job is hit."""
        for rule in self._rules:
            if rule.fault.kind == kind and self._is_drawn(rule, operation, queue):
                return rule.fault
        return None

    def has(self, kind: Kind) -> bool:
        """Whether any rule is of this kind, to spare a draw for every message."""
        return any(rule.fault.kind == kind for rule in self._rules)

    def _is_drawn(self, rule: _Rule, operation: str, queue: str | None) -> bool:
        fault = rule.fault
        if operation not in rule.operations:
            return False
        if fault.queues and not any(fnmatchcase(queue or "", pattern) for pattern in fault.queues):
            return False
        if fault.probability < 1 and self._chance.random() >= fault.probability:
            return False
        self.applied[fault.kind] += 1
        if rule.left is not None:
            rule.left -= 1
            if rule.left == 0:
                self._rules.remove(rule)
        return True
