"""An MNS queue in memory: the part of ``cloud.mns.MnsQueue`` that the engine uses, without sockets.

It has MNS's rules (visibility, replaced receipt handles, long polls, retention) on the clock of ``time``, and fails as
a test orders. ``test_queue.py`` holds it and the real client against one suite.
"""

from __future__ import annotations

import itertools
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import anyio

from consumer.cloud.messages import Batch, DeleteFailure, Message, QueueAttributes, Receipt
from consumer.errors import CloudError, Fault

Verb = Literal["receive", "hide", "delete", "attributes"]


@dataclass(eq=False)
class Kept:
    """A message as the queue keeps it; times are seconds of ``time.monotonic``.

    Args:
        visible_at: From when on it can be received.
        handle: The only handle that works; none before the first receive.
    """

    message_id: str
    body: bytes
    sent_at: float
    enqueued_at: float
    visible_at: float
    system_properties: dict[str, str] = field(default_factory=dict)
    first_dequeued_at: float = 0.0
    dequeue_count: int = 0
    handle: str | None = None


@dataclass
class Failing:
    """What goes wrong with the next calls.

    Args:
        times: How many calls fail.
        after: The call has its effect, and its answer is lost.
        seconds: How long the failure takes.
    """

    verb: Verb
    fault: Fault
    times: float = 1
    code: str = "Failing"
    after: bool = False
    seconds: float = 0.0

    def error(self, name: str) -> CloudError:
        operation = {
            "receive": "BatchReceiveMessage",
            "hide": "ChangeMessageVisibility",
            "delete": "BatchDeleteMessage",
            "attributes": "GetQueueAttributes",
        }[self.verb]
        return CloudError(self.fault, operation=operation, target=name, code=self.code, detail="a test wants it")


class MemoryQueue:
    """One queue.

    Args:
        name: Its name.
        visibility_s: For how long a receive hides a message.
        retention_s: After how long a message is dropped.
    """

    def __init__(self, name: str = "jobs", *, visibility_s: int = 30, retention_s: int = 345_600) -> None:
        self.name = name
        self.visibility_s = visibility_s
        self.retention_s = retention_s
        self.calls: Counter[Verb] = Counter()
        self.hidden_for: list[int] = []
        """The seconds of every hide that had its effect."""
        self.answer_s = 0.0
        """How long every answer takes."""
        self.sheds = False
        """Whether long polls are answered at once, as when there are too many."""
        self._kept: list[Kept] = []
        self._failing: list[Failing] = []
        self._numbers = itertools.count(1)
        self._news = anyio.Event()

    # What a test says.

    def put(self, body: bytes, *, age_s: float = 0.0, **system_properties: str) -> Kept:
        """Send a message; ``age_s`` seconds ago."""
        now = time.monotonic()
        number = next(self._numbers)
        kept = Kept(f"{number:032X}", body, now - age_s, time.time() - age_s, now, system_properties)
        self._kept.append(kept)
        self._news.set()
        return kept

    def fail(
        self,
        verb: Verb,
        fault: Fault = Fault.SERVER,
        *,
        times: float = 1,
        code: str = "Failing",
        after: bool = False,
        seconds: float = 0.0,
    ) -> None:
        """Let the next ``times`` calls of a verb fail; ``math.inf`` until ``mend``."""
        self._failing.append(Failing(verb, fault, times, code, after, seconds))

    def fail_all(self, fault: Fault = Fault.NETWORK, *, code: str = "Failing", seconds: float = 0.0) -> None:
        """Let every call fail, until ``mend``."""
        for verb in get_args(Verb):
            self.fail(verb, fault, times=math.inf, code=code, seconds=seconds)

    def mend(self) -> None:
        """End all failures."""
        self._failing.clear()

    @property
    def messages(self) -> list[Kept]:
        """All messages, visible or not, the oldest first."""
        now = time.monotonic()
        self._kept = [kept for kept in self._kept if now - kept.sent_at < self.retention_s]
        return list(self._kept)

    # What the engine asks.

    async def receive(self, count: int, wait_s: int, *, on_answer: Callable[[], None] | None = None) -> Batch:
        """See ``MnsQueue.receive``."""
        asked_at = time.monotonic()
        failing = await self._begin("receive")
        with anyio.move_on_after(0 if self.sheds else wait_s):
            while not self._visible():
                await self._until_visible()
        taken = [self._hand_out(kept) for kept in self._visible()[:count]]
        await self._end(failing)
        if on_answer is not None:
            on_answer()
        return Batch(taken, time.monotonic() - asked_at, 0.0)

    async def hide(self, handle: str, seconds: int) -> Receipt:
        """See ``MnsQueue.hide``."""
        failing = await self._begin("hide")
        kept = self._held(handle)
        if kept is None:
            raise Failing("hide", Fault.GONE, code="MessageNotExist").error(self.name)
        self.hidden_for.append(seconds)
        receipt = self._lease(kept, seconds)
        self._news.set()
        await self._end(failing)
        return receipt

    async def delete(self, handles: Sequence[str]) -> Sequence[DeleteFailure]:
        """See ``MnsQueue.delete``."""
        failing = await self._begin("delete")
        failures = []
        for handle in handles:
            kept = self._held(handle)
            if kept is None:
                failures.append(DeleteFailure(handle, "MessageNotExist", gone=True, retryable=False, detail="gone"))
            else:
                self._kept.remove(kept)
        await self._end(failing)
        return failures

    async def attributes(self) -> QueueAttributes:
        """See ``MnsQueue.attributes``."""
        failing = await self._begin("attributes")
        await self._end(failing)
        now = time.monotonic()
        hidden = sum(kept.visible_at > now for kept in self.messages)
        return QueueAttributes(
            name=self.name,
            visibility_timeout_s=self.visibility_s,
            retention_s=self.retention_s,
            polling_wait_s=0,
            delay_s=0,
            max_message_bytes=65_536,
            active_messages=len(self._kept) - hidden,
            inactive_messages=hidden,
            delayed_messages=0,
            created_at=0,
            modified_at=0,
        )

    async def _begin(self, verb: Verb) -> Failing | None:
        """Count a call; raise where it fails before its effect."""
        self.calls[verb] += 1
        await anyio.sleep(self.answer_s)
        failing = next((one for one in self._failing if one.verb == verb and one.times > 0), None)
        if failing is None:
            return None
        failing.times -= 1
        await anyio.sleep(failing.seconds)
        if not failing.after:
            raise failing.error(self.name)
        return failing

    async def _end(self, failing: Failing | None) -> None:
        if failing is not None:
            raise failing.error(self.name)

    def _visible(self) -> list[Kept]:
        now = time.monotonic()
        return [kept for kept in self.messages if kept.visible_at <= now]

    async def _until_visible(self) -> None:
        """Return when a message may have become visible."""
        self._news = anyio.Event() if self._news.is_set() else self._news
        soonest = min((kept.visible_at for kept in self._kept), default=math.inf)
        with anyio.move_on_after(max(0.0, soonest - time.monotonic())):
            await self._news.wait()

    def _held(self, handle: str) -> Kept | None:
        """The message whose lease a handle still keeps."""
        now = time.monotonic()
        return next((kept for kept in self.messages if kept.handle == handle and kept.visible_at > now), None)

    def _hand_out(self, kept: Kept) -> Message:
        kept.dequeue_count += 1
        kept.first_dequeued_at = kept.first_dequeued_at or time.time()
        receipt = self._lease(kept, self.visibility_s)
        return Message(
            message_id=kept.message_id,
            body=kept.body,
            receipt=receipt,
            enqueued_at=kept.enqueued_at,
            first_dequeued_at=kept.first_dequeued_at,
            dequeue_count=kept.dequeue_count,
            priority=8,
            group_id=None,
            user_properties={},
            system_properties=kept.system_properties,
        )

    def _lease(self, kept: Kept, seconds: float) -> Receipt:
        kept.visible_at = time.monotonic() + seconds
        kept.handle = f"8-{next(self._numbers):034d}"
        # The client counts a second less, since the server's Date has no fractions.
        return Receipt(kept.handle, kept.visible_at - 1.0)
