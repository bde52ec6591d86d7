"""Look into the sandbox and make things go wrong, over HTTP, while it runs.

All under ``/_sandbox``, JSON in and out, no keys asked (it binds loopback unless told otherwise):

    GET    /_sandbox/state                    queues, jobs, requests, faults applied
    GET    /_sandbox/requests                 the latest requests, one by one
    GET    /_sandbox/jobs                     every job
    POST   /_sandbox/jobs                     a job as it ended, without running it (``jobs.GivenJob``)
    GET    /_sandbox/faults                   the rules that are on, how often each kind was applied
    PUT    /_sandbox/faults                   [fault, ...]: replace all rules
    POST   /_sandbox/faults                   fault: add one rule
    DELETE /_sandbox/faults                   take all rules away
    GET    /_sandbox/rights                   the RAM actions that are granted
    PUT    /_sandbox/rights                   {"allow": [ACTION, ...] or null, "deny": [ACTION, ...]}
    POST   /_sandbox/clock                    {"advance_s": n}: the messages' clock
    POST   /_sandbox/refuse                   {"seconds": n}: refuse every connection for that long
    PUT    /_sandbox/long-polls               {"max": n or null}
    GET    /_sandbox/queues/Q                 its messages (?limit=, default 100)
    PUT    /_sandbox/queues/Q                 {"fifo": bool, "dlq": policy or null}: create if missing
    DELETE /_sandbox/queues/Q                 delete it
    POST   /_sandbox/queues/Q/messages        the raw body is the message's body (?priority= &delay_s= &group_id=)
    POST   /_sandbox/queues/Q/revoke          end leases now (?message_id=, else all)
    POST   /_sandbox/queues/Q/duplicate       deliver again right away (?message_id=, else all)

Elsewhere: what a fault does (``faults``), the server that it all belongs to (``server``).
"""

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol
from urllib.parse import parse_qsl, unquote

from pydantic import TypeAdapter, ValidationError

from consumer.job_state import JobState
from consumer.sandbox import control_bodies
from consumer.sandbox.account import Account
from consumer.sandbox.answer import JSON, Answer
from consumer.sandbox.attributes import whole_number
from consumer.sandbox.faults import Fault, Faults
from consumer.sandbox.grants import Grants
from consumer.sandbox.jobs import GivenJob, Jobs
from consumer.sandbox.log import RequestLog
from consumer.sandbox.message import Draft, Message, State
from consumer.sandbox.queue import Queue
from consumer.sandbox.refusal import MnsError
from consumer.sandbox.signature import Sent

PREFIX = "/_sandbox"

_FAULTS = TypeAdapter(list[Fault])
_SHOWN_MESSAGES = 100
_MOST_SHOWN = 100_000


class Listener(Protocol):
    """What can stop taking connections for a while: the server."""

    async def refuse_connections(self, seconds: float) -> None:
        """Drop every connection and refuse new ones for that long."""


class Control:
    """The control API of one sandbox."""

    def __init__(
        self,
        account: Account,
        jobs: Jobs,
        *,
        faults: Faults,
        grants: Grants,
        log: RequestLog,
        listener: Listener,
    ) -> None:
        self._account = account
        self._jobs = jobs
        self._faults = faults
        self._grants = grants
        self._log = log
        self._listener = listener

    async def answered(self, sent: Sent) -> Answer:
        """Carry out one control request; what is wrong with it is a 400 that says so."""
        path, _, query_text = sent.target.partition("?")
        query = dict(parse_qsl(query_text))
        parts = [unquote(part) for part in path.removeprefix(PREFIX).split("/") if part]
        try:
            if parts[:1] == ["queues"] and len(parts) > 1:
                return self._on_queue(sent, parts[1], parts[2:], query)
            if len(parts) != 1:
                return _not_found(sent)
            return await self._on_whole(sent, parts[0])
        except ValidationError as error:
            return _json({"error": error.errors(include_url=False, include_context=False, include_input=False)}, 400)
        except MnsError as refusal:
            return _json({"error": f"{refusal.code}: {refusal.message}"}, 404 if "NotExist" in refusal.code else 400)

    async def _on_whole(self, sent: Sent, what: str) -> Answer:
        plain: Mapping[tuple[str, str], Callable[[Sent], Any]] = {
            ("GET", "state"): lambda _: self.state(),
            ("GET", "requests"): lambda _: self._log.latest(),
            ("GET", "jobs"): lambda _: [control_bodies.shown_job(job) for job in self._jobs.all()],
            ("POST", "jobs"): lambda sent: control_bodies.shown_job(
                self._jobs.put(GivenJob.model_validate_json(sent.body))
            ),
            ("GET", "faults"): lambda _: self._described_faults(),
            ("PUT", "faults"): self._set_faults,
            ("POST", "faults"): self._add_fault,
            ("DELETE", "faults"): self._clear_faults,
            ("GET", "rights"): lambda _: self._described_rights(),
            ("PUT", "rights"): self._grant,
            ("POST", "clock"): self._advance,
            ("PUT", "long-polls"): self._limit_long_polls,
        }
        slow: Mapping[tuple[str, str], Callable[[Sent], Awaitable[Any]]] = {("POST", "refuse"): self._refuse}
        key = (sent.method, what)
        if key in plain:
            return _json(plain[key](sent))
        if key in slow:
            return _json(await slow[key](sent))
        return _not_found(sent)

    def state(self) -> dict[str, Any]:
        """Describe everything at once."""
        jobs = self._jobs.all()
        return {
            "queues": {mailbox.queue.name: self._described(mailbox.queue) for mailbox in self._account.all()},
            "jobs": {state: sum(job.state == state for job in jobs) for state in JobState},
            "requests": dict(self._log.by_operation),
            "answers": {f"{name} {status}": count for (name, status), count in self._log.by_status.items()},
            "held_long_polls": self._account.held_long_polls,
            "faults_applied": dict(self._faults.applied),
            "clock_offset_ms": self._account.clock.offset_ms,
        }

    def _described(self, queue: Queue) -> dict[str, Any]:
        queue.sweep(self._account.clock.now_ms())
        return {
            "active": queue.counts[State.READY] + queue.counts[State.HELD],
            "inactive": queue.counts[State.OUT],
            "delayed": queue.counts[State.DELAYED],
            "fifo": queue.fifo,
            "dlq": None if queue.dlq is None else queue.dlq.model_dump(),
            **queue.attributes.by_element(),
        }

    def _described_faults(self) -> dict[str, Any]:
        return {
            "faults": [fault.model_dump(exclude_defaults=True) for fault in self._faults.current()],
            "applied": dict(self._faults.applied),
        }

    def _set_faults(self, sent: Sent) -> dict[str, Any]:
        self._faults.set(_FAULTS.validate_json(sent.body))
        return self._described_faults()

    def _add_fault(self, sent: Sent) -> dict[str, Any]:
        self._faults.add(Fault.model_validate_json(sent.body))
        return self._described_faults()

    def _clear_faults(self, sent: Sent) -> dict[str, Any]:
        del sent
        self._faults.clear()
        return self._described_faults()

    def _grant(self, sent: Sent) -> dict[str, Any]:
        rights = control_bodies.Rights.model_validate_json(sent.body)
        self._grants.set(rights.allow, rights.deny)
        return self._described_rights()

    def _described_rights(self) -> dict[str, Any]:
        return {"allow": self._grants.allow, "deny": self._grants.deny}

    def _advance(self, sent: Sent) -> dict[str, Any]:
        self._account.advance_clock(control_bodies.Advance.model_validate_json(sent.body).advance_s)
        return {"clock_offset_ms": self._account.clock.offset_ms}

    def _limit_long_polls(self, sent: Sent) -> dict[str, Any]:
        self._account.max_long_polls = control_bodies.LongPolls.model_validate_json(sent.body).max
        return {"max": self._account.max_long_polls}

    async def _refuse(self, sent: Sent) -> dict[str, Any]:
        seconds = control_bodies.Refuse.model_validate_json(sent.body).seconds
        await self._listener.refuse_connections(seconds)
        return {"seconds": seconds}

    def _on_queue(self, sent: Sent, name: str, rest: list[str], query: Mapping[str, str]) -> Answer:
        verb = (sent.method, *rest)
        if verb == ("GET",):
            queue = self._account.get(name).queue
            limit = whole_number("limit", query.get("limit", str(_SHOWN_MESSAGES)), 0, _MOST_SHOWN)
            queue.sweep(self._account.clock.now_ms())
            return _json(
                {
                    **self._described(queue),
                    "messages": [control_bodies.shown_message(one) for one in list(queue)[:limit]],
                }
            )
        if verb == ("PUT",):
            kind = control_bodies.QueueKind.model_validate_json(sent.body or b"{}")
            if kind.fifo:
                self._account.make_fifo(name)
            self._account.set_dlq(name, kind.dlq)
            return _json(self._described(self._account.ensure(name).queue))
        if verb == ("DELETE",):
            self._account.delete(name)
            return _json({})
        if verb == ("POST", "messages"):
            return _json({"message_id": self._put(name, sent.body, query).message_id}, 201)
        if verb in (("POST", "revoke"), ("POST", "duplicate")):
            return _json({"messages": self._spoil(name, rest[0], query.get("message_id"))})
        return _not_found(sent)

    def _put(self, name: str, body: bytes, query: Mapping[str, str]) -> Message:
        draft = Draft(
            control_bodies.readable_text(body),
            whole_number("priority", query.get("priority", "8"), 1, 16),
            whole_number("delay_s", query["delay_s"], 0, 604_800) if "delay_s" in query else None,
            query.get("group_id", ""),
        )
        return self._account.ensure(name).queue.send(draft, self._account.clock.now_ms())

    def _spoil(self, name: str, how: str, message_id: str | None) -> int:
        queue = self._account.get(name).queue
        queue.promote(self._account.clock.now_ms())
        chosen = [
            message
            for message in queue
            if message_id in (None, message.message_id) and (how == "duplicate" or message.state == State.OUT)
        ]
        for message in chosen:
            if how == "duplicate":
                queue.duplicate(message)
            else:
                queue.revoke(message)
            self._faults.applied[how] += 1
        return len(chosen)


def refused(why_not: str) -> Answer:
    """Write the refusal of a request that may not come in at all."""
    return _json({"error": why_not}, 403)


def _not_found(sent: Sent) -> Answer:
    return _json({"error": f"no control call {sent.method} {sent.target[:200]}; see consumer/sandbox/control.py"}, 404)


def _json(body: Any, status: int = 200) -> Answer:
    return Answer(status, json.dumps(body, ensure_ascii=False).encode(), JSON)
