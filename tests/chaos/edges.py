"""Faults beyond the sandbox's own: stepped clocks, frozen daemons, moved files, jobs that MPS fails for.

Each is switched on for a run by its name (``traffic.Edge``). One of the first three happens at a time, beside all other
trouble; what is about single jobs is always on. What each of them may explain stands in ``book``.
"""

from __future__ import annotations

import itertools
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import anyio

from consumer.sandbox import Sandbox
from consumer.sandbox.protocol import HTML, JSON, Call, Response
from tests.chaos.book import Frozen
from tests.chaos.daemons import LEASE_STEP_S, Daemon
from tests.chaos.preload import Clock
from tests.chaos.traffic import Edge, Watch

HOUR_S: Final = 3600.0
LONG_AHEAD_S: Final = 91 * 86_400.0
"""A day longer than ended jobs and dead letters are kept."""
_STEPPED_S: Final = (2.0, 6.0)
_PRUNED_S: Final = 65.0
"""So long a clock stays 91 days ahead where there is time: a daemon prunes once a minute."""
_ROOM_FOR_PRUNING_S: Final = 150.0
"""A run at least this long has the time."""
_PRUNED_EVERY: Final = 3
"""Of so many steps of 91 days one lasts that long: nothing else is tried meanwhile."""
_LOOK_S: Final = 0.05
_FROZEN_S: Final = LEASE_STEP_S + 2.0
_CLAIM_S: Final = 20.0
"""So long a claim on PostgreSQL holds when its daemon is gone."""
_MOVED_S: Final = (1.0, 4.0)
_PAUSE_S: Final = 2.0
_HANGS_S: Final = 60.0
_LONG_BYTES: Final = 5 * 1024 * 1024
COMPANIONS: Final = ("", "-wal", ".lock")


@dataclass(slots=True)
class Edges:
    """The faults of one run that are switched on.

    Args:
        on: Which.
        seed: Of their order.
        alive: The daemons, as they are at any moment.
        starting: Held while no daemon may start and the store must be within reach.
        database: The SQLite file; ``None`` on PostgreSQL.
        clock: What steps; every second daemon lives by it.
        seconds: How long there is trouble.
        busy: Daemons that something is being done to, by process id: nothing else may be.
        frozen: Who was frozen when.
        applied: How often each happened.
    """

    on: frozenset[Edge]
    seed: int
    alive: Sequence[Daemon]
    starting: anyio.Lock
    database: Path | None
    clock: Clock | None
    seconds: float
    busy: set[int] = field(default_factory=set)
    frozen: list[Frozen] = field(default_factory=list)
    applied: Counter[str] = field(default_factory=Counter)
    _turn: anyio.Lock = field(default_factory=anyio.Lock)
    _long_ahead: Iterator[int] = field(default_factory=itertools.count)

    async def run(self) -> None:
        """Let one after the other happen, in an order of the seed's own, until cancelled."""
        dice = random.Random(self.seed)  # noqa: S311 - chance that can be repeated, no secret
        acts = {
            Edge.CLOCK: (self._step, self._step, self._step),
            Edge.FREEZE: (self._freeze,),
            Edge.FILES: (self._move,) if self.database else (),
        }
        turns = [act for edge in acts if edge in self.on for act in acts[edge]]
        offsets: list[float] = []
        while turns:
            for act in dice.sample(turns, len(turns)):
                await anyio.sleep(_PAUSE_S)
                if act == self._step:
                    offsets = offsets or dice.sample([HOUR_S, -HOUR_S, LONG_AHEAD_S], 3)
                    await self._step(dice, offsets.pop())
                else:
                    await act(dice)

    async def _step(self, dice: random.Random, offset_s: float = HOUR_S) -> None:
        prunes = False
        if offset_s == LONG_AHEAD_S and self.seconds >= _ROOM_FOR_PRUNING_S:
            prunes = next(self._long_ahead) % _PRUNED_EVERY == 0
        if prunes:
            # A daemon that is killed every other second prunes nothing: for once they live in peace.
            async with self._turn:
                while self.busy:  # noqa: ASYNC110 - the killer's own pace
                    await anyio.sleep(_LOOK_S)
                await self._stand(offset_s, _PRUNED_S)
        else:
            await self._stand(offset_s, dice.uniform(*_STEPPED_S))

    async def _stand(self, offset_s: float, seconds: float) -> None:
        assert self.clock is not None, "the nest was made without a clock"
        self.clock.step(offset_s)
        try:
            self.applied[Edge.CLOCK] += 1
            await anyio.sleep(seconds)
        finally:
            self.clock.step(0)

    async def _freeze(self, dice: random.Random) -> None:
        daemon = await self.taken(dice)
        try:
            if self.database is None:
                await self._stop(daemon, _FROZEN_S + _CLAIM_S if dice.random() < 1 / 2 else _FROZEN_S)
            else:
                # It may hold a lock of the file: the store's own failure must wait.
                async with self.starting:
                    await self._stop(daemon, _FROZEN_S)
            # What it wakes up to is tried too.
            await anyio.sleep(_PAUSE_S)
        finally:
            self.busy.discard(daemon.pid)

    async def _stop(self, daemon: Daemon, seconds: float) -> None:
        daemon.check()
        since = time.time()
        daemon.process.send_signal(signal.SIGSTOP)
        try:
            self.applied[Edge.FREEZE] += 1
            await anyio.sleep(seconds)
        finally:
            daemon.process.send_signal(signal.SIGCONT)
            self.frozen.append(Frozen(daemon.pid, since, time.time()))

    async def _move(self, dice: random.Random) -> None:
        assert self.database is not None, "there is no file to move"
        path = self.database.with_name(self.database.name + dice.choice(COMPANIONS))
        away = path.with_name(path.name + ".away")
        daemon = await self.taken(dice)
        try:
            # The store's own failure opens the file: it must wait.
            async with self.starting:
                daemon.check()
                if not path.exists():
                    return
                path.rename(away)
                try:
                    self.applied[Edge.FILES] += 1
                    if dice.random() < 1 / 2:
                        path.touch(0o600)
                    await anyio.sleep(dice.uniform(*_MOVED_S))
                finally:
                    away.replace(path)
        finally:
            self.busy.discard(daemon.pid)

    async def taken(self, dice: random.Random) -> Daemon:
        """Wait for a daemon that nothing is being done to, and keep it from all else until ``busy`` is told."""
        async with self._turn:
            while not (free := [each for each in self.alive if each.pid not in self.busy]):  # noqa: ASYNC110 - as above
                await anyio.sleep(_LOOK_S)
            daemon = dice.choice(free)
            self.busy.add(daemon.pid)
            return daemon

    def spoil(self, sandbox: Sandbox, watch: Watch) -> None:
        """Let MPS fail for the jobs that are sent for that."""
        answer = sandbox._mps.answer

        async def spoilt(call: Call, request_id: str) -> Response:
            act = watch.asked.get(call.parameters.get("JobId", ""), "")
            if not act.startswith("mps_"):
                return await answer(call, request_id)
            self.applied[Edge.HANGING if act == "mps_hangs" else Edge.BAD_JOBS] += 1
            return await _bad_answer(act)

        sandbox._mps.answer = spoilt  # type: ignore[method-assign]  # in place of the service's own answer


async def _bad_answer(act: str) -> Response:
    """What MPS answers for a job that it fails for."""
    match act:
        case "mps_500":
            return Response(500, b'{"Code":"InternalError","Message":"no","RequestId":"R"}', JSON)
        case "mps_html":
            return Response(200, b"<html>no</html>", HTML)
        case "mps_long":
            return Response(200, b" " * _LONG_BYTES, JSON)
    await anyio.sleep(_HANGS_S)
    return Response(503, b"", HTML)


def kinds(on: frozenset[Edge]) -> tuple[Edge, ...]:
    """Of what is switched on, what is counted while it happens."""
    return tuple(edge for edge in Edge if edge in on and edge not in {Edge.POOLER, Edge.BLOCKED})
