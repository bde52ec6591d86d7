"""What a chaos run sends, how it must end, and what passed through the queue.

The sender records what it sends before it sends it. The watch records at the sandbox's queue which messages arrived
(faults lose or repeat notifications), were received and were deleted.
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

import anyio

from consumer.policy import Reason
from consumer.sandbox import Sandbox
from consumer.sandbox.jobs import JobFailure, JobOrders, SandboxJob
from consumer.sandbox.queue import Message, State
from tests.chaos.daemons import QUEUE

DONE: Final = "done"

SLOW_S: Final = 3.4
"""More than the queue's visibility timeout: such a run ends well only if its lease is renewed."""


_NOTHING_LEAVES_S: Final = 60.0
_LOOK_S: Final = 0.1


class Extra(StrEnum):
    """Faults that the sandbox does not have. Each is switched on by its name."""

    CLOCK = "clock"
    """The wall clock of daemons steps by an hour or 91 days, and back."""
    FREEZE = "freeze"
    """SIGSTOP stops a daemon for longer than its leases and claims last."""
    FILES = "files"
    """The database, its WAL or its lock file is moved away or replaced, and moved back."""
    BAD_JOBS = "bad_jobs"
    """MPS fails for certain jobs, every time."""
    HANGING = "hanging"
    """MPS never answers for certain jobs."""
    POOLER = "pooler"
    """PgBouncer is in front of PostgreSQL and assigns a connection for one transaction."""
    BLOCKED = "blocked"
    """An async handler blocks the event loop for seconds."""
    FAILOVER = "failover"
    """PostgreSQL fails over to a standby that lacks the last second; from then on it crashes and is started again."""


@dataclass(frozen=True, slots=True)
class Act:
    """One kind of job or message to send.

    Args:
        weight: Its share, relative to the others.
        function: FunctionName.
        end: ``done`` or the reason of its dead letter.
        seconds: The shortest and the longest run of its handler.
        extra: It is sent only if this fault is switched on.
    """

    weight: float
    function: str
    end: str
    seconds: tuple[float, float] = (0.01, 0.15)
    extra: Extra | None = None


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
    "unrouted": Act(3, "Unheard", Reason.UNROUTED),
    "undecodable": Act(5, "", Reason.UNDECODABLE),
    "mps_500": Act(1, "Cover", Reason.UNANSWERED, extra=Extra.BAD_JOBS),
    "mps_html": Act(1, "Cover", Reason.UNANSWERED, extra=Extra.BAD_JOBS),
    "mps_long": Act(0.5, "Cover", Reason.UNANSWERED, extra=Extra.BAD_JOBS),
    "mps_hangs": Act(0.2, "Cover", Reason.UNANSWERED, extra=Extra.HANGING),
    "fails_late": Act(4, "VideoClip", DONE, (0.5, 2.5), Extra.CLOCK),
    "blocks": Act(0.3, "VideoClip", DONE, (2.0, 5.0), Extra.BLOCKED),
}


def acts_of(extras: frozenset[Extra]) -> dict[str, Act]:
    """The acts that are sent when these faults are switched on."""
    return {name: act for name, act in ACTS.items() if act.extra is None or act.extra in extras}


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
class Arrival:
    """One message that arrived in the queue.

    Args:
        job: The id of its job, or its own id if its body names none.
        body: As it was sent.
    """

    job: str
    body: str


@dataclass(slots=True)
class Watch:
    """What passed through the queue.

    Args:
        acts: The name of the act that was sent, by job.
        arrivals: The messages that arrived, by message id.
        deleted: Time and message id of each delete, in order.
        received: The times of the receives of each job's messages, in order.
    """

    acts: dict[str, str] = field(default_factory=dict)
    arrivals: dict[str, Arrival] = field(default_factory=dict)
    deleted: list[tuple[float, str]] = field(default_factory=list)
    received: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    @property
    def jobs(self) -> Counter[str]:
        """The number of messages that arrived for each job."""
        return Counter(one.job for one in self.arrivals.values())

    def attach(self, sandbox: Sandbox) -> None:
        """Record from now on what passes through the queue."""
        queue = sandbox.account.ensure(QUEUE).queue
        enqueue, receive, delete = queue.enqueue, queue.receive, queue.delete

        def watched_enqueue(message: Message, now_ms: int, *, enqueue_ms: int | None = None) -> Message:
            enqueue(message, now_ms, enqueue_ms=enqueue_ms)
            self.arrivals[message.message_id] = Arrival(_job_of(message.body) or message.message_id, message.body)
            return message

        def watched_receive(limit: int, now_ms: int) -> list[Message]:
            messages = receive(limit, now_ms)
            for message in messages:
                self.received[self.arrivals[message.message_id].job].append(time.time())
            return messages

        def watched_delete(handle: str, now_ms: int) -> Message:
            message = delete(handle, now_ms)
            self.deleted.append((time.time(), message.message_id))
            return message

        queue.enqueue = watched_enqueue  # type: ignore[method-assign]  # the watch calls the real method
        queue.receive = watched_receive  # type: ignore[method-assign]  # the same
        queue.delete = watched_delete  # type: ignore[method-assign]  # the same


async def until_empty(sandbox: Sandbox, watch: Watch, *, hidden_s: float, show_every_s: float) -> list[str]:
    """Wait until the queue is empty.

    Args:
        sandbox: Has the queue.
        watch: Knows the jobs of the messages.
        hidden_s: A message that is hidden for longer is made visible, since no living daemon holds it.
        show_every_s: How often that is done.

    Returns:
        The messages that are left if none has left the queue for a minute, one sentence each.
    """
    queue = sandbox.account.get(QUEUE).queue
    # The last jobs have not ended yet.
    await anyio.sleep(2 * sandbox.settings.job_s + 0.5)
    show_at, fewest = 0.0, len(queue)
    with anyio.move_on_after(_NOTHING_LEAVES_S) as patience:
        while left := len(sandbox.messages(QUEUE)):
            if left < fewest:
                fewest, patience.deadline = left, anyio.current_time() + _NOTHING_LEAVES_S
            if time.monotonic() >= show_at:
                show_at = time.monotonic() + show_every_s
                latest_ms = sandbox.clock.now_ms() + hidden_s * 1000
                for message in sandbox.messages(QUEUE):
                    if message.state is State.INACTIVE and message.visible_ms > latest_ms:
                        queue.revoke(message)
            await anyio.sleep(_LOOK_S)
    return [
        f"{watch.arrivals[message.message_id].job} is still in the queue, and no message has left it for"
        f" {_NOTHING_LEAVES_S:g} s: {message.state.name}, received {message.dequeue_count} times"
        for message in sandbox.messages(QUEUE)
    ]


class Sender:
    """Sends jobs and messages, chosen at random.

    Args:
        sandbox: Where it sends them.
        watch: Records what was sent.
        seed: Of the random choice.
        extras: The faults that are switched on.
    """

    def __init__(self, sandbox: Sandbox, watch: Watch, seed: int, extras: frozenset[Extra] = frozenset()) -> None:
        self._sandbox = sandbox
        self._watch = watch
        self._acts = acts_of(extras)
        self._rng = random.Random(seed)  # noqa: S311 - a repeatable choice, no secret

    def send(self, name: str | None = None) -> None:
        """Send one job or message, of the named act or of any."""
        name = name or self._rng.choices(list(self._acts), [act.weight for act in self._acts.values()])[0]
        if name == "undecodable":
            message = self._sandbox.put(QUEUE, self._rng.choice(_POISON))
            self._watch.acts[message.message_id] = name
            return
        act = ACTS[name]
        job_id = f"{self._rng.getrandbits(128):032x}"
        order = {"act": 7 if name == "ill_typed" else name, "seconds": self._rng.uniform(*act.seconds)}
        self._watch.acts[job_id] = name
        if name in {"unknown_job", "unrouted"}:
            self._sandbox.put(QUEUE, _body(job_id, act.function, order))
            return
        self._sandbox.jobs.submit(
            SandboxJob(
                job_id=job_id,
                function=act.function,
                params="{}",
                input="oss://chaos/input.mp4",
                output="oss://chaos/{source}-{sequenceId}.jpg",
                pipeline_id="chaos",
                user_data=json.dumps(order),
                notify_queue=QUEUE,
                orders=JobOrders(fail=JobFailure() if name == "failed_job" else None, stuck=name == "not_ready"),
            )
        )
        if name == "not_ready":
            # A notification of a job that never ends.
            self._sandbox.put(QUEUE, _body(job_id, act.function, order))


def _body(job_id: str, function: str, order: object) -> str:
    fields = {
        "Type": "IProduction",
        "FunctionName": function,
        "JobId": job_id,
        "State": "Success",
        "Code": "Success",
        "UserData": json.dumps(order),
    }
    return base64.b64encode(json.dumps(fields).encode()).decode()


def _job_of(body: str) -> str | None:
    """The job that a body is about, read without any of the daemon's code; ``None`` for poison."""
    if body in _POISON:
        return None
    job_id = json.loads(base64.b64decode(body))["JobId"]
    assert isinstance(job_id, str)
    return job_id
