"""Run a daemon's life under all faults at once: send, make trouble, kill; then wait in peace, stop, and judge.

    sender, trouble and killer run side by side for so many seconds
    -> faults end -> wait until the queue is empty -> stop every daemon -> read journal, logs and store -> verdict

Elsewhere: each of these (``traffic``, ``trouble``, ``edges``, ``daemons``, ``stored``), the verdict (``book``).
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import anyio
import anyio.abc

from consumer.ops.metrics import SettledAs
from consumer.sandbox.queue import State
from tests.chaos.book import FAIL_AS_TOLD, Death, Evidence, Verdict, Why, find, read_journal
from tests.chaos.daemons import LEASE_STEP_S, QUEUE, Daemon, Nest
from tests.chaos.edges import Edges, kinds
from tests.chaos.stored import read_store
from tests.chaos.stores import StoreUnderTest
from tests.chaos.traffic import DONE, Edge, Sender, Watch, acts_of
from tests.chaos.trouble import KINDS, Trouble

VISIBILITY_S: Final = 3
_KILL_EVERY_S: Final = 2.0
_STOPS: Final = 0.25
"""Of the ends of daemons, the share that is an orderly stop."""
_RATE: Final = 40.0
"""Things sent in a second."""
_BACKLOG: Final = 200
"""Messages in the queue at which the sender waits."""
_PEACE_S: Final = 60.0
_LOOK_S: Final = 0.1
_SHOW_EVERY_S: Final = 3.0


@dataclass(slots=True)
class Campaign:
    """One run.

    Args:
        nest: Where daemons come from.
        store: Their store.
        seed: Of every dice in it.
        fleet: Daemons at once.
        peaceful: Whether nothing goes wrong but that daemons are killed; then only what ends well is sent.
        on: Faults beyond the sandbox's own.
        watch: What passed through the queue.
        deaths: The daemons that were ended.
    """

    nest: Nest
    store: StoreUnderTest
    seed: int
    fleet: int
    peaceful: bool = False
    on: frozenset[Edge] = frozenset()
    watch: Watch = field(default_factory=Watch)
    deaths: dict[int, Death] = field(default_factory=dict)
    _alive: list[Daemon] = field(default_factory=list)
    _starting: anyio.Lock = field(default_factory=anyio.Lock)
    _trouble: Trouble = field(init=False)
    _edges: Edges = field(init=False)
    _peace_s: float = 0.0

    async def run(self, seconds: float) -> tuple[Verdict, Counter[str]]:
        """Go through all of it.

        Args:
            seconds: How long there is trouble; peace comes on top.

        Returns:
            The verdict, and how often each kind of fault hit.
        """
        sandbox = self.nest.sandbox
        sandbox.account.create(QUEUE, {"VisibilityTimeout": str(VISIBILITY_S)})
        self.watch.stand(sandbox)
        trouble = self._trouble = Trouble(sandbox, self.store, self._starting, self.seed)
        self._alive = [self.nest.start() for _ in range(self.fleet)]
        for daemon in self._alive:
            await daemon.serving()
        edges = self._edges = self._made_edges(seconds)
        with anyio.move_on_after(seconds):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._send)
                tasks.start_soon(self._kill)
                if not self.peaceful:
                    tasks.start_soon(trouble.run)
                    tasks.start_soon(edges.run)
        trouble.end()
        began_at = time.monotonic()
        left = await self._come_to_rest()
        self._peace_s = time.monotonic() - began_at
        async with anyio.create_task_group() as ends:
            for daemon in self._alive:
                ends.start_soon(self._end, daemon)
        verdict = find(await self._evidence())
        verdict.wrong[:0] = left
        return verdict, trouble.applied + edges.applied

    def _made_edges(self, seconds: float) -> Edges:
        edges = Edges(
            on=self.on,
            seed=self.seed,
            alive=self._alive,
            starting=self._starting,
            database=None if "://" in self.store.address else Path(self.store.address),
            clock=self.nest.clock,
            seconds=seconds,
        )
        edges.spoil(self.nest.sandbox, self.watch)
        return edges

    async def _send(self) -> None:
        sender = Sender(self.nest.sandbox, self.watch, self.seed, self.on)
        acts = acts_of(self.on)
        names = [name for name, act in acts.items() if act.end == DONE and name not in FAIL_AS_TOLD]
        for name in names if self.peaceful else acts:
            sender.send(name)
        dice = random.Random(self.seed)  # noqa: S311 - chance that can be repeated, no secret
        queue = self.nest.sandbox.account.get(QUEUE).queue
        while True:
            await anyio.sleep(1 / _RATE)
            # A growing backlog would try nothing more, and only lengthen the peace.
            if len(queue) < _BACKLOG:
                sender.send(dice.choice(names) if self.peaceful else None)

    async def _kill(self) -> None:
        """End a daemon every so often, and start another in its place."""
        dice = random.Random(self.seed)  # noqa: S311 - chance that can be repeated, no secret
        due_at = time.monotonic()
        while True:
            due_at = max(due_at + _KILL_EVERY_S, time.monotonic())
            await anyio.sleep(max(0.0, due_at - time.monotonic()))
            daemon = await self._edges.taken(dice)
            killed = self.peaceful or dice.random() >= _STOPS
            # The end of trouble must not leave a daemon half ended and not replaced.
            with anyio.CancelScope(shield=True):
                await self._end(daemon, killed=killed)
                async with self._starting:
                    born = self._alive[self._alive.index(daemon)] = self.nest.start()
                    self._edges.busy ^= {daemon.pid, born.pid}
                    # Killing what has not begun yet would only try the interpreter.
                    await born.serving()
                self._edges.busy.discard(born.pid)

    async def _end(self, daemon: Daemon, *, killed: bool = False) -> None:
        daemon.check()
        await daemon.look()
        at = time.time()
        await (daemon.kill() if killed else daemon.stop())
        stored = await read_store(self.store.book)
        self.deaths[daemon.pid] = Death(
            at,
            frozenset(stored.ended),
            killed=killed,
            storeless=self._trouble.store_was_down(at),
            born=daemon.born,
        )

    async def _come_to_rest(self) -> list[str]:
        """Wait until the queue is empty; returns what is left when nothing leaves it any more, one sentence each.

        Jobs whose daemon was killed in the middle are run one at a time: however many there are, they get their turns.
        """
        queue = self.nest.sandbox.account.get(QUEUE).queue
        # The last jobs that were submitted have still to end.
        await anyio.sleep(2 * self.nest.sandbox.settings.job_s + 0.5)
        for daemon in self._alive:
            await daemon.serving()
        show_at, fewest = 0.0, len(queue)
        with anyio.move_on_after(_PEACE_S) as patience:
            while left := len(self.nest.sandbox.messages(QUEUE)):
                if left < fewest:
                    fewest, patience.deadline = left, anyio.current_time() + _PEACE_S
                if time.monotonic() >= show_at:
                    show_at = time.monotonic() + _SHOW_EVERY_S
                    self._show(queue.attributes.visibility_timeout_s)
                await anyio.sleep(_LOOK_S)
        return [
            f"{self.watch.came[message.message_id].job} is still in the queue, and nothing has left it for"
            f" {_PEACE_S:g} s of peace: {message.state.name}, handed out {message.dequeue_count} times"
            for message in self.nest.sandbox.messages(QUEUE)
        ]

    def _show(self, visibility_s: int) -> None:
        """Make visible what is hidden for longer than any lease: nobody holds it, it only waits for its time."""
        sandbox = self.nest.sandbox
        queue = sandbox.account.get(QUEUE).queue
        latest_ms = sandbox.clock.now_ms() + (max(LEASE_STEP_S, visibility_s) + 1) * 1000
        for message in sandbox.messages(QUEUE):
            if message.state is State.INACTIVE and message.visible_ms > latest_ms:
                queue.revoke(message)

    async def _evidence(self) -> Evidence:
        return Evidence(
            watch=self.watch,
            runs=read_journal(self.nest.journal.read_text().splitlines()),
            deaths=self.deaths,
            leases_lost=leases_lost(self.nest.born),
            stored=await read_store(self.store.book, self._true),
            frozen=self._edges.frozen,
        )

    def _true(self, at: float) -> float:
        """The true time of what a daemon wrote down, if it lives by a clock that was stepped."""
        return at if self.nest.clock is None else self.nest.clock.true(at)

    def figures(self, verdict: Verdict, faults: Counter[str]) -> str:
        """What a reader of the run wants to know, as text."""
        killed = sum(death.killed for death in self.deaths.values())
        acts = Counter(self.watch.asked.values())
        return "\n".join(
            [
                f"seed {self.seed}, daemons at once {self.fleet}, {self._peace_s:.1f} s until the queue was empty",
                f"switched on: {', '.join(sorted(self.on)) or 'nothing beyond the sandbox'}",
                f"jobs sent {len(self.watch.asked)}, messages {len(self.watch.came)}",
                f"deletes {len(self.watch.deleted)}, runs of handlers {verdict.runs}",
                f"daemons killed {killed}, stopped {len(self.deaths) - killed}",
                f"sent: {_counts(acts)}",
                f"faults: {', '.join(f'{kind} {faults[kind]}' for kind in (*KINDS, *kinds(self.on)))}",
                f"lost {verdict.lost}, run again {sum(verdict.again.values())}: "
                + (", ".join(f"{verdict.again[why]} because {why}" for why in Why if verdict.again[why]) or "none"),
                *verdict.told_wrong(),
            ]
        )


def leases_lost(daemons: Sequence[Daemon]) -> Counter[tuple[int, str]]:
    """How often each daemon said that a job's lease was lost."""
    return Counter(
        (daemon.pid, str(line["job_id"]))
        for daemon in daemons
        for line in daemon.lines()
        if line.get("outcome") == SettledAs.LEASE_LOST
    )


def _counts(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
