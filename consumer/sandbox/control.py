"""The control API: inspect the sandbox and change its faults over HTTP while it runs.

All under ``/_sandbox``, JSON in and out, without keys (it binds loopback by default):

    GET    /_sandbox/state                    queues, jobs, requests, faults applied
    GET    /_sandbox/requests                 the latest requests, one by one
    GET    /_sandbox/jobs                     every job of MPS
    GET    /_sandbox/ims-jobs                 every job of IMS
    POST   /_sandbox/jobs                     a job in its final form, without running it
    GET    /_sandbox/faults                   the current rules, and how often each kind was applied
    PUT    /_sandbox/faults                   [fault, ...]: replace all rules
    POST   /_sandbox/faults                   fault: add one rule
    DELETE /_sandbox/faults                   remove all rules
    GET    /_sandbox/lose                     the share of notifications that are dropped
    PUT    /_sandbox/lose                     {"share": n}: 0 to 1; changes nothing of the rules
    GET    /_sandbox/rights                   the RAM actions that are granted
    PUT    /_sandbox/rights                   {"allow": [ACTION, ...] or null, "deny": [ACTION, ...]}
    GET    /_sandbox/pipelines                the pipelines by id ("" is the default one), with queued and running jobs
    PUT    /_sandbox/pipelines/ID             {"concurrency": n, "state": "Active" or "Paused", "notify_queue": Q}
    GET    /_sandbox/tenants                  every account and region
    POST   /_sandbox/clock                    {"advance_s": n}: move the messages' clock
    POST   /_sandbox/refuse                   {"seconds": n}: refuse every connection for that long
    PUT    /_sandbox/long-polls               {"max": n or null}: long polls held at once
    GET    /_sandbox/queues/Q                 its messages (?limit=, default 100)
    PUT    /_sandbox/queues/Q                 {"fifo": bool, "dlq": policy or null}: create if missing
    DELETE /_sandbox/queues/Q                 delete it
    POST   /_sandbox/queues/Q/messages        the raw body is the message's body (?priority= &delay_s= &group_id=)
    POST   /_sandbox/queues/Q/revoke          end leases now (?message_id=, else all)
    POST   /_sandbox/queues/Q/duplicate       deliver again now (?message_id=, else all)

Queues, jobs, pipelines, long polls and the state are those of the sandbox's own account and region; ``?account=`` and
``?region=`` choose others.
"""

import json
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any, Final
from urllib.parse import parse_qsl, unquote

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from consumer.job_state import JobState
from consumer.sandbox.access import Grants
from consumer.sandbox.faults import Fault, Faults
from consumer.sandbox.jobs import SandboxJob
from consumer.sandbox.pipelines import Pipeline, PipelineSettings
from consumer.sandbox.protocol import JSON, MnsError, Request, Response
from consumer.sandbox.queue import DlqPolicy, Message, Queue, State, whole_number
from consumer.sandbox.tenants import Tenant, Tenants

PREFIX: Final = "/_sandbox"

_FAULTS: Final = TypeAdapter(list[Fault])
_CONTROL_CHARACTERS: Final = "".join(chr(code) for code in range(32) if chr(code) not in "\t\n\r") + "\ufffe\uffff"


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Advance(_Body):
    advance_s: Annotated[float, Field(ge=-31_536_000, le=31_536_000)]


class _Refuse(_Body):
    seconds: Annotated[float, Field(ge=0, le=3600)]


class _Lose(_Body):
    share: Annotated[float, Field(ge=0, le=1)]


class _LongPolls(_Body):
    max: Annotated[int | None, Field(ge=0)]


class _QueueKind(_Body):
    fifo: bool = False
    dlq: DlqPolicy | None = None


class RequestLog:
    """What was asked and how it was answered.

    ``by_operation`` counts requests as they arrive, ``by_status`` responses by operation and HTTP status; status 0 is
    none: the connection was dropped, or the client had gone. ``latest`` holds the latest responses, oldest first.
    ``without_queue`` counts the notifications that were lost because their queue did not exist.
    """

    def __init__(self) -> None:
        self.by_operation: Counter[str] = Counter()
        self.by_status: Counter[tuple[str, int]] = Counter()
        self.without_queue = 0
        self.latest: deque[dict[str, Any]] = deque(maxlen=2000)

    def add(self, now_ms: int, operation: str, queue: str | None, status: int, fault: str) -> None:
        """Note one response; ``fault`` is the kind that replaced or spoilt it, "" when none did."""
        self.by_status[operation, status] += 1
        self.latest.append(
            {"time_ms": now_ms, "operation": operation, "queue": queue, "status": status, "fault": fault}
        )


class Control:
    """The control API of one sandbox."""

    def __init__(self, tenants: Tenants, faults: Faults, grants: Grants, log: RequestLog) -> None:
        self._tenants = tenants
        self._faults = faults
        self._grants = grants
        self._log = log

    async def answer(self, request: Request, refuse_connections: Callable[[float], Awaitable[None]]) -> Response:
        """Carry out one control request; a wrong one gets a 400 or 404 that names the mistake."""
        parts = [unquote(part) for part in request.path.removeprefix(PREFIX).split("/") if part]
        place = dict(parse_qsl(request.query))
        own = self._tenants.own
        tenant = self._tenants.get(place.get("account", own.account), place.get("region", own.region))
        try:
            match request.method, parts:
                case _, ["queues", name, *rest]:
                    return self._on_queue(tenant, request, name, rest)
                case "PUT", ["pipelines", name]:
                    tenant.jobs.change_pipeline(name, PipelineSettings.model_validate_json(request.body or b"{}"))
                    shown = self._shown(tenant, "pipelines")
                case "POST", ["refuse"]:
                    seconds = _Refuse.model_validate_json(request.body).seconds
                    await refuse_connections(seconds)
                    return _json({"seconds": seconds})
                case "GET", [what]:
                    shown = self._shown(tenant, what)
                case method, [what]:
                    shown = self._changed(tenant, f"{method} {what}", request.body)
                case _:
                    shown = None
        except ValidationError as error:
            return _json({"error": error.errors(include_url=False, include_context=False, include_input=False)}, 400)
        except MnsError as error:
            return _json({"error": f"{error.code}: {error.message}"}, 404 if "NotExist" in error.code else 400)
        return _not_found(request) if shown is None else _json(shown)

    def _shown(self, tenant: Tenant, what: str) -> Any:
        match what:
            case "state":
                return self._state(tenant)
            case "requests":
                return list(self._log.latest)
            case "jobs":
                return [_shown_job(job) for job in tenant.jobs.all()]
            case "ims-jobs":
                return [_shown_job(job) for job in tenant.ims_jobs.all()]
            case "faults":
                faults = [fault.model_dump(exclude_defaults=True) for fault in self._faults.current()]
                return {"faults": faults, "applied": dict(self._faults.applied)}
            case "lose":
                return {"share": self._faults.lose}
            case "rights":
                return self._grants.model_dump()
            case "pipelines":
                return {name: _shown_pipeline(one) for name, one in tenant.jobs.pipelines.items()}
            case "tenants":
                return [{"account": one.account, "region": one.region} for one in self._tenants]
        return None

    def _changed(self, tenant: Tenant, call: str, body: bytes) -> Any:
        match call:
            case "POST jobs":
                job = SandboxJob.model_validate_json(body)
                tenant.jobs.add(job)
                return _shown_job(job)
            case "PUT faults":
                self._faults.set(_FAULTS.validate_json(body))
            case "POST faults":
                self._faults.add(Fault.model_validate_json(body))
            case "DELETE faults":
                self._faults.clear()
            case "PUT lose":
                self._faults.lose = _Lose.model_validate_json(body).share
            case "PUT rights":
                rights = Grants.model_validate_json(body)
                self._grants.set(rights.allow, rights.deny)
            case "POST clock":
                tenant.queues.clock.advance(_Advance.model_validate_json(body).advance_s)
                return {"clock_offset_ms": tenant.queues.clock.offset_ms}
            case "PUT long-polls":
                tenant.queues.max_long_polls = _LongPolls.model_validate_json(body).max
                return {"max": tenant.queues.max_long_polls}
            case _:
                return None
        return self._shown(tenant, call.partition(" ")[2])

    def _state(self, tenant: Tenant) -> dict[str, Any]:
        states = [job.state for job in tenant.jobs.all()]
        return {
            "queues": {mailbox.queue.name: _shown_queue(tenant, mailbox.queue) for mailbox in tenant.queues.all()},
            "jobs": {state: states.count(state) for state in JobState},
            "requests": dict(self._log.by_operation),
            "answers": {f"{name} {status}": count for (name, status), count in self._log.by_status.items()},
            "notifications_without_queue": self._log.without_queue,
            "held_long_polls": tenant.queues.held_long_polls,
            "faults_applied": dict(self._faults.applied),
            "clock_offset_ms": tenant.queues.clock.offset_ms,
        }

    def _on_queue(self, tenant: Tenant, request: Request, name: str, rest: list[str]) -> Response:
        query = dict(parse_qsl(request.query))
        match request.method, *rest:
            case ["GET"]:
                queue = tenant.queues.get(name).queue
                limit = whole_number("limit", query.get("limit", "100"), 0, 100_000)
                shown = _shown_queue(tenant, queue)
                return _json({**shown, "messages": [_shown_message(one) for one in list(queue)[:limit]]})
            case ["PUT"]:
                kind = _QueueKind.model_validate_json(request.body or b"{}")
                if kind.fifo:
                    tenant.queues.make_fifo(name)
                tenant.queues.set_dlq(name, kind.dlq)
                return _json(_shown_queue(tenant, tenant.queues.ensure(name).queue))
            case ["DELETE"]:
                tenant.queues.delete(name)
                return _json({})
            case ["POST", "messages"]:
                return _json({"message_id": _put_message(tenant, name, request.body, query).message_id}, 201)
            case ["POST", "revoke" | "duplicate" as how]:
                return _json({"messages": self._spoil(tenant, name, how, query.get("message_id"))})
            case _:
                return _not_found(request)

    def _spoil(self, tenant: Tenant, name: str, how: str, message_id: str | None) -> int:
        queue = tenant.queues.get(name).queue
        queue.promote(tenant.queues.clock.now_ms())
        spoil = queue.duplicate if how == "duplicate" else queue.revoke
        chosen = [
            message
            for message in queue
            if message_id in (None, message.message_id) and (how == "duplicate" or message.state == State.INACTIVE)
        ]
        for message in chosen:
            spoil(message)
            self._faults.applied[how] += 1
        return len(chosen)


def readable_text(body: bytes) -> str:
    """Decode the body of a message; InvalidArgument for what XML can't carry, as no queue could ever hold it."""
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise MnsError("InvalidArgument", f"A message body is UTF-8 text: {error}.") from error
    if any(character in text for character in _CONTROL_CHARACTERS):
        raise MnsError("InvalidArgument", "A message body holds no control characters: XML can't carry them.")
    return text


def forbidden(reason: str) -> Response:
    """The response to a request that may not come in."""
    return _json({"error": reason}, 403)


def _not_found(request: Request) -> Response:
    text = f"no control call {request.method} {request.target[:200]}; see consumer/sandbox/control.py"
    return _json({"error": text}, 404)


def _json(body: Any, status: int = 200) -> Response:
    return Response(status, json.dumps(body, ensure_ascii=False).encode(), JSON)


def _shown_queue(tenant: Tenant, queue: Queue) -> dict[str, Any]:
    queue.sweep(tenant.queues.clock.now_ms())
    return {
        "active": queue.counts[State.ACTIVE] + queue.counts[State.BLOCKED],
        "inactive": queue.counts[State.INACTIVE],
        "delayed": queue.counts[State.DELAYED],
        "fifo": queue.fifo,
        "dlq": None if queue.dlq is None else queue.dlq.model_dump(),
        **queue.attributes.by_element(),
    }


def _put_message(tenant: Tenant, name: str, body: bytes, query: Mapping[str, str]) -> Message:
    message = Message(
        readable_text(body),
        whole_number("priority", query.get("priority", "8"), 1, 16),
        whole_number("delay_s", query["delay_s"], 0, 604_800) if "delay_s" in query else None,
        query.get("group_id", ""),
    )
    return tenant.queues.ensure(name).queue.send(message, tenant.queues.clock.now_ms())


def _shown_pipeline(pipeline: Pipeline) -> dict[str, Any]:
    return {**pipeline.settings.model_dump(), "queued": pipeline.queued, "running": pipeline.running}


def _shown_job(job: SandboxJob) -> dict[str, Any]:
    names = {"job_id", "function", "state", "notify_queue", "user_data", "submitted_ms", "ended_ms"}
    return job.model_dump(include=names)


def _shown_message(message: Message) -> dict[str, Any]:
    content = ("message_id", "body", "priority", "group_id", "system_properties", "user_properties")
    history = ("dequeue_count", "enqueue_ms", "first_dequeue_ms", "visible_ms")
    shown = {name: getattr(message, name) for name in (*content, *history)}
    return {**shown, "state": message.state.name.lower(), "receipt_handle": message.handle}
