"""What a chaos run sends, how each of it must end, and what really passed through the queue.

The sender writes down what it asked for before it asks. The watch stands at the sandbox's queue and writes down what
came in (a notification may get lost or come twice, by a fault) and what was deleted when.

Elsewhere: what the handlers make of it (``drop_in``), comparing all of that (``book``).
"""

from __future__ import annotations

import base64
import json
import random
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from consumer.policy import Reason
from consumer.sandbox import Sandbox
from consumer.sandbox.jobs import JobFailure, JobOrders, SandboxJob
from consumer.sandbox.queue import Message
from tests.chaos.daemons import QUEUE

DONE: Final = "done"

SLOW_S: Final = 3.4
"""Longer than the queue's visibility timeout: such a run ends well only under a renewed lease."""


class Edge(StrEnum):
    """Faults beyond the sandbox's own; each is switched on for a run by its name."""

    CLOCK = "clock"
    """The wall clock of daemons steps by an hour or 91 days, and back."""
    FREEZE = "freeze"
    """A daemon is stopped by SIGSTOP for longer than its leases and claims last."""
    FILES = "files"
    """The database, its WAL or its lock file is moved away or replaced, and moved back."""
    BAD_JOBS = "bad_jobs"
    """MPS fails for certain jobs, whoever asks and however often."""
    HANGING = "hanging"
    """MPS never answers for certain jobs."""
    POOLER = "pooler"
    """PgBouncer stands in front of PostgreSQL and hands out connections for one transaction each."""
    BLOCKED = "blocked"
    """An async handler blocks the event loop for seconds."""


@dataclass(frozen=True, slots=True)
class Act:
    """One kind of thing to send.

    Args:
        weight: How often, next to the others.
        function: FunctionName.
        end: ``done`` or the reason of its dead letter.
        seconds: The shortest and the longest run of its handler.
        edge: It is sent only where this is switched on.
    """

    weight: float
    function: str
    end: str
    seconds: tuple[float, float] = (0.01, 0.15)
    edge: Edge | None = None


ACTS: Final = {
    "quick": Act(40, "VideoClip", DONE),
    "typed": Act(20, "Cover", DONE, (0.01, 0.8)),
    "plain": Act(10, "ImageH2V", DONE, (0.01, 1.2)),
    "slow": Act(3, "VideoClip", DONE, (SLOW_S, SLOW_S)),
    "fails_once": Act(5, "VideoClip", DONE),
    "asks_again": Act(4, "ImageH2V", DONE),
    "hopeless": Act(3, "VideoClip", Reason.EXHAUSTED),
    "rejects": Act(4, "ImageH2V", Reason.REJECTED),
    "failed_job": Act(3, "Cover", Reason.JOB_FAILED),
    "ill_typed": Act(3, "Cover", Reason.ILL_TYPED),
    "not_ready": Act(1, "Cover", Reason.RESULT_NOT_READY),
    "unknown_job": Act(2, "Cover", Reason.NOT_IPRODUCTION),
    "unrouted": Act(3, "Nobody", Reason.UNROUTED),
    "undecodable": Act(5, "", Reason.UNDECODABLE),
    "mps_500": Act(1, "Cover", Reason.UNANSWERED, edge=Edge.BAD_JOBS),
    "mps_html": Act(1, "Cover", Reason.UNANSWERED, edge=Edge.BAD_JOBS),
    "mps_long": Act(0.5, "Cover", Reason.UNANSWERED, edge=Edge.BAD_JOBS),
    "mps_hangs": Act(0.2, "Cover", Reason.UNANSWERED, edge=Edge.HANGING),
    "fails_late": Act(4, "VideoClip", DONE, (0.5, 2.5), Edge.CLOCK),
    "blocks": Act(0.3, "VideoClip", DONE, (2.0, 5.0), Edge.BLOCKED),
}


def acts_of(edges: frozenset[Edge]) -> dict[str, Act]:
    """What is sent where these edges are switched on."""
    return {name: act for name, act in ACTS.items() if act.edge is None or act.edge in edges}


_POISON: Final = (
    "not json {{{",
    base64.b64encode(b"\xff\xfe\x00\x01").decode(),
    base64.b64encode(b'{"Type":"IProduction"').decode(),
    base64.b64encode(
        b'{"Type":"IProduction","FunctionName":"Cover","JobId":"a","jobid":"b","State":"Success"}'
    ).decode(),
    "<a>&amp;</a>",
    '{"Type":"IProduction","FunctionName":"VideoClip","State":"Success"}',
)


@dataclass(frozen=True, slots=True)
class Came:
    """One message that came into the queue.

    Args:
        job: What it is about: the job's id, or the message's own where its body names none.
        body: As it was put there.
    """

    job: str
    body: str


@dataclass(slots=True)
class Watch:
    """What passed through the queue.

    Args:
        asked: What was sent: the act's name by job.
        came: The messages that came in, by message id.
        deleted: When each message was deleted, in order: time and message id.
        received: When each job's messages were handed out, in order.
    """

    asked: dict[str, str] = field(default_factory=dict)
    came: dict[str, Came] = field(default_factory=dict)
    deleted: list[tuple[float, str]] = field(default_factory=list)
    received: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    @property
    def jobs(self) -> Counter[str]:
        """How many messages came for each job."""
        return Counter(one.job for one in self.came.values())

    def stand(self, sandbox: Sandbox) -> None:
        """Write down from now on what comes into the queue and what is deleted from it."""
        queue = sandbox.account.ensure(QUEUE).queue
        enqueue, receive, delete = queue.enqueue, queue.receive, queue.delete

        def watched_enqueue(message: Message, now_ms: int, *, enqueue_ms: int | None = None) -> Message:
            enqueue(message, now_ms, enqueue_ms=enqueue_ms)
            self.came[message.message_id] = Came(_job_of(message.body) or message.message_id, message.body)
            return message

        def watched_receive(limit: int, now_ms: int) -> list[Message]:
            messages = receive(limit, now_ms)
            for message in messages:
                self.received[self.came[message.message_id].job].append(time.time())
            return messages

        def watched_delete(handle: str, now_ms: int) -> Message:
            message = delete(handle, now_ms)
            self.deleted.append((time.time(), message.message_id))
            return message

        queue.enqueue = watched_enqueue  # type: ignore[method-assign]  # it only looks on; the queue does the work
        queue.receive = watched_receive  # type: ignore[method-assign]  # the same
        queue.delete = watched_delete  # type: ignore[method-assign]  # the same


class Sender:
    """Sends jobs and messages by a seeded dice.

    Args:
        sandbox: Where to.
        watch: Told what was sent.
        seed: Of the dice.
        edges: What is switched on.
    """

    def __init__(self, sandbox: Sandbox, watch: Watch, seed: int, edges: frozenset[Edge] = frozenset()) -> None:
        self._sandbox = sandbox
        self._watch = watch
        self._acts = acts_of(edges)
        self._dice = random.Random(seed)  # noqa: S311 - chance that can be repeated, no secret

    def send(self, name: str | None = None) -> None:
        """Send one thing: of this act, or of any."""
        name = name or self._dice.choices(list(self._acts), [act.weight for act in self._acts.values()])[0]
        if name == "undecodable":
            message = self._sandbox.put(QUEUE, self._dice.choice(_POISON))
            self._watch.asked[message.message_id] = name
            return
        act = ACTS[name]
        job_id = f"{self._dice.getrandbits(128):032x}"
        wish = {"act": 7 if name == "ill_typed" else name, "seconds": self._dice.uniform(*act.seconds)}
        self._watch.asked[job_id] = name
        if name in {"unknown_job", "unrouted"}:
            self._sandbox.put(QUEUE, _body(job_id, act.function, wish))
            return
        self._sandbox.jobs.submit(
            SandboxJob(
                job_id=job_id,
                function=act.function,
                params="{}",
                input="oss://chaos/input.mp4",
                output="oss://chaos/{source}-{sequenceId}.jpg",
                pipeline_id="chaos",
                user_data=json.dumps(wish),
                notify_queue=QUEUE,
                orders=JobOrders(fail=JobFailure() if name == "failed_job" else None, stuck=name == "not_ready"),
            )
        )
        if name == "not_ready":
            # A notification that runs ahead of its job for ever.
            self._sandbox.put(QUEUE, _body(job_id, act.function, wish))


def _body(job_id: str, function: str, wish: object) -> str:
    fields = {
        "Type": "IProduction",
        "FunctionName": function,
        "JobId": job_id,
        "State": "Success",
        "Code": "Success",
        "UserData": json.dumps(wish),
    }
    return base64.b64encode(json.dumps(fields).encode()).decode()


def _job_of(body: str) -> str | None:
    """The job that a body is about, read without any of the daemon's code; ``None`` for poison."""
    if body in _POISON:
        return None
    job_id = json.loads(base64.b64decode(body))["JobId"]
    assert isinstance(job_id, str)
    return job_id
