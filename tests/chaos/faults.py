"""The faults of a chaos run: those of the sandbox and the store, and extra ones that are switched on by name.

Faults of whole requests come one after the other, for a moment or for a few requests, so that each kind has its share
of a run of any length and work continues in between. Faults of single messages and jobs are always on, with a small
probability. Of the extra faults one of clock, freeze and files happens at a time, beside all others.
``consumer.sandbox.faults`` describes the sandbox's own kinds; ``verdict`` says what the others may cause.
"""

from __future__ import annotations

import itertools
import math
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import anyio

from consumer.sandbox import Fault, Sandbox
from consumer.sandbox.protocol import HTML, JSON, Call, Response
from tests.chaos.daemons import LEASE_STEP_S, Daemon
from tests.chaos.preload import Clock
from tests.chaos.stores import StoreUnderTest
from tests.chaos.traffic import Extra, Watch
from tests.chaos.verdict import Freeze

REFUSED: Final = "refused"
"""Connections are refused: a state of the sandbox's listener, none of its faults."""
STORE: Final = "store_down"
"""The store is unavailable for a while."""

_REFUSED_S: Final = 0.3
_EVERY_S: Final = 0.25
_ON_AT_ONCE: Final = 2

REQUESTS: Final = tuple(
    Fault.parse(text)
    for text in (
        "latency:operations=mns+mps,seconds=0.05,jitter_s=0.3,count=6",
        "error:operations=mns,status=500,count=2",
        "error:operations=mns,status=503,xml=false,count=2",
        "error:operations=mns,status=429,count=1",
        "error:operations=delete,status=403,code=AccessDenied,count=1",
        "error:operations=query,status=500,count=1",
        "error:operations=query,status=503,xml=false,count=1",
        "error:operations=query,status=429,code=Throttling.User,count=1",
        "html:operations=mns,status=502,count=2",
        "html:operations=receive+delete,status=200,count=1",
        "html:operations=query,status=502,count=1",
        "redirect:operations=mns,count=1",
        "drop:operations=mns,count=2",
        "drop:operations=query,count=1",
        "hang:operations=mns,seconds=1,count=1",
        "early_empty:count=2",
        "drop_after:operations=receive,count=1",
        "drop_after:operations=hide+delete,count=2",
        "hang_after:operations=mns,seconds=1,count=1",
        "truncate:operations=receive,count=1",
        "truncate:operations=mns+query,count=1",
        "no_request_id:operations=mns,count=1",
    )
)
"""Faults of whole requests, one after the other."""

MESSAGES: Final = tuple(
    Fault.parse(text)
    for text in (
        "entry_error:operations=delete,probability=0.05",
        "duplicate:probability=0.05",
        "revoke:seconds=0.1,probability=0.03",
        "revoke:seconds=1,probability=0.03",
        "notification_twice:probability=0.04",
        "notification_lost:probability=0.03",
        "job_stuck:probability=0.03",
    )
)
"""Faults of single messages and jobs, all the time."""

KINDS: Final = (*dict.fromkeys(rule.kind for rule in (*REQUESTS, *MESSAGES)), REFUSED, STORE)


class SandboxFaults:
    """The faults of the sandbox and of the store.

    Args:
        sandbox: The sandbox.
        store: The store.
        starting: Held while a daemon starts: one that finds no store ends.
        seed: Of the order of the faults.
    """

    def __init__(self, sandbox: Sandbox, store: StoreUnderTest, starting: anyio.Lock, seed: int) -> None:
        self._sandbox = sandbox
        self._store = store
        self._starting = starting
        self._store_failed = 0
        self._store_back_at = 0.0
        self._rng = random.Random(seed)  # noqa: S311 - a repeatable choice, no secret
        self._refused = 0

    @property
    def applied(self) -> Counter[str]:
        """How often each kind happened."""
        return self._sandbox.faults.applied + Counter({REFUSED: self._refused, STORE: self._store_failed})

    async def run(self) -> None:
        """Cause all kinds in rounds, in a new order each time, until cancelled."""
        on: list[Fault] = []
        for number in itertools.count(1):
            ours = (REFUSED, STORE) if number % self._store.rounds_a_failure == 0 else (REFUSED,)
            turns = (*REQUESTS, *ours)
            for rule in self._rng.sample(turns, len(turns)):
                if rule == REFUSED:
                    self._refused += 1
                    await self._sandbox.refuse_connections(_REFUSED_S)
                elif rule == STORE:
                    await self._fail_store()
                elif isinstance(rule, Fault):
                    # Older ones are removed even if they are not used up: many at once would let no request pass.
                    on = [*on, rule][-_ON_AT_ONCE:]
                    self._sandbox.faults.set((*MESSAGES, *on))
                await anyio.sleep(_EVERY_S)

    async def _fail_store(self) -> None:
        # The end of the run must not leave the store unavailable.
        with anyio.CancelScope(shield=True):
            async with self._starting:
                self._store_back_at = math.inf
                async with self._store.failing(self._rng):
                    self._store_failed += 1
                self._store_back_at = time.time()

    def store_was_down(self, since: float) -> bool:
        """Whether the store was unavailable at any moment since then, UNIX seconds."""
        return self._store_back_at >= since

    def end(self) -> None:
        """Switch off the sandbox's faults."""
        self._sandbox.faults.clear()


HOUR_S: Final = 3600.0
LONG_AHEAD_S: Final = 91 * 86_400.0
"""A day more than the retention of ended jobs and dead letters."""
_STEPPED_S: Final = (2.0, 6.0)
_PRUNED_S: Final = 65.0
"""Time of a long step of 91 days: a daemon prunes once a minute."""
_ROOM_FOR_PRUNING_S: Final = 150.0
"""The shortest run with long steps."""
_PRUNED_EVERY: Final = 3
"""One of that many steps of 91 days is a long one. Nothing else happens meanwhile."""
_LOOK_S: Final = 0.05
_FROZEN_S: Final = LEASE_STEP_S + 2.0
_CLAIM_S: Final = 20.0
"""Time that a claim on PostgreSQL is valid after its daemon is gone."""
_MOVED_S: Final = (1.0, 4.0)
_PAUSE_S: Final = 2.0
_HANGS_S: Final = 60.0
_LONG_BYTES: Final = 5 * 1024 * 1024
COMPANIONS: Final = ("", "-wal", ".lock")


@dataclass(slots=True)
class ExtraFaults:
    """The extra faults that are switched on.

    Args:
        on: Their names.
        seed: Of their order.
        alive: The daemons, kept up to date by the run.
        starting: Held while no daemon may start and the store must be available.
        database: The SQLite file; ``None`` on PostgreSQL.
        clock: The clock that steps.
        seconds: Length of the run.
        busy: Process ids of the daemons that are frozen, killed or started now; one thing at a time.
        frozen: All freezes so far.
        applied: How often each fault happened.
    """

    on: frozenset[Extra]
    seed: int
    alive: Sequence[Daemon]
    starting: anyio.Lock
    database: Path | None
    clock: Clock | None
    seconds: float
    busy: set[int] = field(default_factory=set)
    frozen: list[Freeze] = field(default_factory=list)
    applied: Counter[str] = field(default_factory=Counter)
    _turn: anyio.Lock = field(default_factory=anyio.Lock)
    _long_ahead: Iterator[int] = field(default_factory=itertools.count)

    async def run(self) -> None:
        """Cause one after the other, in random order, until cancelled."""
        rng = random.Random(self.seed)  # noqa: S311 - a repeatable choice, no secret
        actions = {
            Extra.CLOCK: (self._step, self._step, self._step),
            Extra.FREEZE: (self._freeze,),
            Extra.FILES: (self._move,) if self.database else (),
        }
        turns = [action for extra in actions if extra in self.on for action in actions[extra]]
        offsets: list[float] = []
        while turns:
            for action in rng.sample(turns, len(turns)):
                await anyio.sleep(_PAUSE_S)
                if action == self._step:
                    offsets = offsets or rng.sample([HOUR_S, -HOUR_S, LONG_AHEAD_S], 3)
                    await self._step(rng, offsets.pop())
                else:
                    await action(rng)

    async def _step(self, rng: random.Random, offset_s: float = HOUR_S) -> None:
        prunes = False
        if offset_s == LONG_AHEAD_S and self.seconds >= _ROOM_FOR_PRUNING_S:
            prunes = next(self._long_ahead) % _PRUNED_EVERY == 0
        if prunes:
            # A daemon that is killed every two seconds prunes nothing, so none is killed meanwhile.
            async with self._turn:
                while self.busy:  # noqa: ASYNC110 - others empty it
                    await anyio.sleep(_LOOK_S)
                await self._keep(offset_s, _PRUNED_S)
        else:
            await self._keep(offset_s, rng.uniform(*_STEPPED_S))

    async def _keep(self, offset_s: float, seconds: float) -> None:
        assert self.clock is not None, "the launcher has no clock"
        self.clock.step(offset_s)
        try:
            self.applied[Extra.CLOCK] += 1
            await anyio.sleep(seconds)
        finally:
            self.clock.step(0)

    async def _freeze(self, rng: random.Random) -> None:
        daemon = await self.reserve(rng)
        try:
            if self.database is None:
                await self._stop(daemon, _FROZEN_S + _CLAIM_S if rng.random() < 1 / 2 else _FROZEN_S)
            else:
                # It may hold a lock of the file, so the store must not be made to fail now.
                async with self.starting:
                    await self._stop(daemon, _FROZEN_S)
            # Nothing else happens to it right after it is resumed.
            await anyio.sleep(_PAUSE_S)
        finally:
            self.busy.discard(daemon.pid)

    async def _stop(self, daemon: Daemon, seconds: float) -> None:
        daemon.check()
        since = time.time()
        daemon.process.send_signal(signal.SIGSTOP)
        try:
            self.applied[Extra.FREEZE] += 1
            await anyio.sleep(seconds)
        finally:
            daemon.process.send_signal(signal.SIGCONT)
            self.frozen.append(Freeze(daemon.pid, since, time.time()))

    async def _move(self, rng: random.Random) -> None:
        assert self.database is not None, "there is no file to move"
        path = self.database.with_name(self.database.name + rng.choice(COMPANIONS))
        away = path.with_name(path.name + ".away")
        daemon = await self.reserve(rng)
        try:
            # A failure of the store would open the file.
            async with self.starting:
                daemon.check()
                if not path.exists():
                    return
                path.rename(away)
                try:
                    self.applied[Extra.FILES] += 1
                    if rng.random() < 1 / 2:
                        path.touch(0o600)
                    await anyio.sleep(rng.uniform(*_MOVED_S))
                finally:
                    away.replace(path)
        finally:
            self.busy.discard(daemon.pid)

    async def reserve(self, rng: random.Random) -> Daemon:
        """Wait for a daemon that is not busy, and add it to ``busy``; the caller removes it."""
        async with self._turn:
            while not (free := [each for each in self.alive if each.pid not in self.busy]):  # noqa: ASYNC110 - as above
                await anyio.sleep(_LOOK_S)
            daemon = rng.choice(free)
            self.busy.add(daemon.pid)
            return daemon

    def make_mps_fail(self, sandbox: Sandbox, watch: Watch) -> None:
        """Let MPS fail for the jobs that were sent for it."""
        answer = sandbox._mps.answer

        async def failing(call: Call, request_id: str) -> Response:
            act = watch.acts.get(call.parameters.get("JobId", ""), "")
            if not act.startswith("mps_"):
                return await answer(call, request_id)
            self.applied[Extra.HANGING if act == "mps_hangs" else Extra.BAD_JOBS] += 1
            return await _bad_answer(act)

        sandbox._mps.answer = failing  # type: ignore[method-assign]  # it calls the real method


async def _bad_answer(act: str) -> Response:
    """MPS's answer for a job that it fails for."""
    match act:
        case "mps_500":
            return Response(500, b'{"Code":"InternalError","Message":"no","RequestId":"R"}', JSON)
        case "mps_html":
            return Response(200, b"<html>no</html>", HTML)
        case "mps_long":
            return Response(200, b" " * _LONG_BYTES, JSON)
    await anyio.sleep(_HANGS_S)
    return Response(503, b"", HTML)


def counted(on: frozenset[Extra]) -> tuple[Extra, ...]:
    """The extra faults that are counted, of those that are switched on."""
    return tuple(extra for extra in Extra if extra in on and extra not in {Extra.POOLER, Extra.BLOCKED, Extra.FAILOVER})
