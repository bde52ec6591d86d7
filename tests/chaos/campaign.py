"""One chaos run: send jobs under all faults, kill daemons, then let them finish, and judge.

sender, faults and killer run side by side for some seconds
-> faults end -> wait until the queue is empty -> stop every daemon -> read journal, logs and store -> verdict
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import anyio
import anyio.abc

from consumer.sandbox import Fault, Sandbox
from tests.certificates import make_certificate
from tests.chaos.conftest import sandbox_settings
from tests.chaos.daemons import LEASE_STEP_S, QUEUE, Daemon, Launcher, leases_lost
from tests.chaos.faults import KINDS, ExtraFaults, SandboxFaults, counted
from tests.chaos.preload import Clock
from tests.chaos.stores import (
    SqliteFile,
    StoreUnderTest,
    postgres_behind_pooler,
    postgres_behind_proxy,
    postgres_pair,
    read_store,
)
from tests.chaos.traffic import DONE, Extra, Sender, Watch, acts_of, until_empty
from tests.chaos.verdict import FAIL_AS_PLANNED, Death, Evidence, Verdict, judge, read_journal
from tests.postgres import new_schema

VISIBILITY_S: Final = 3
_KILL_EVERY_S: Final = 2.0
_STOPS: Final = 0.25
"""Share of the daemons that are stopped by SIGTERM instead of killed."""
_RATE: Final = 40.0
"""Jobs and messages sent in a second."""
_BACKLOG: Final = 200
"""Messages in the queue at which the sender waits."""
_SHOW_EVERY_S: Final = 3.0


@dataclass(slots=True)
class Campaign:
    """One run.

    Args:
        launcher: Starts the daemons.
        store: Their store.
        seed: Of every random choice.
        fleet: Number of daemons at once.
        only_kills: Whether kills are the only fault; then only jobs that end well are sent.
        on: The extra faults that are switched on.
        watch: What was sent, and what passed through the queue.
        deaths: The daemons that were ended.
    """

    launcher: Launcher
    store: StoreUnderTest
    seed: int
    fleet: int
    only_kills: bool = False
    on: frozenset[Extra] = frozenset()
    watch: Watch = field(default_factory=Watch)
    deaths: dict[int, Death] = field(default_factory=dict)
    _alive: list[Daemon] = field(default_factory=list)
    _starting: anyio.Lock = field(default_factory=anyio.Lock)
    _sandbox_faults: SandboxFaults = field(init=False)
    _extra_faults: ExtraFaults = field(init=False)
    _drained_s: float = 0.0

    async def run(self, seconds: float) -> tuple[Verdict, Counter[str]]:
        """Carry it out.

        Args:
            seconds: Time with faults; the time until the queue is empty comes on top.

        Returns:
            The verdict, and how often each kind of fault happened.
        """
        sandbox = self.launcher.sandbox
        sandbox.account.create(QUEUE, {"VisibilityTimeout": str(VISIBILITY_S)})
        self.watch.attach(sandbox)
        self._sandbox_faults = SandboxFaults(sandbox, self.store, self._starting, self.seed)
        self._alive = [self.launcher.start() for _ in range(self.fleet)]
        for daemon in self._alive:
            await daemon.serving()
        self._extra_faults = self._make_extra_faults(seconds)
        with anyio.move_on_after(seconds):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._send)
                tasks.start_soon(self._kill)
                if not self.only_kills:
                    tasks.start_soon(self._sandbox_faults.run)
                    tasks.start_soon(self._extra_faults.run)
        self._sandbox_faults.end()
        began_at = time.monotonic()
        left = await self._drain()
        self._drained_s = time.monotonic() - began_at
        async with anyio.create_task_group() as ends:
            for daemon in self._alive:
                ends.start_soon(self._end, daemon)
        verdict = judge(await self._evidence())
        verdict.wrong[:0] = left
        return verdict, self._sandbox_faults.applied + self._extra_faults.applied

    def _make_extra_faults(self, seconds: float) -> ExtraFaults:
        faults = ExtraFaults(
            on=self.on,
            seed=self.seed,
            alive=self._alive,
            starting=self._starting,
            database=None if "://" in self.store.address else Path(self.store.address),
            clock=self.launcher.clock,
            seconds=seconds,
        )
        faults.make_mps_fail(self.launcher.sandbox, self.watch)
        return faults

    async def _send(self) -> None:
        sender = Sender(self.launcher.sandbox, self.watch, self.seed, self.on)
        acts = acts_of(self.on)
        names = [name for name, act in acts.items() if act.end == DONE and name not in FAIL_AS_PLANNED]
        for name in names if self.only_kills else acts:
            sender.send(name)
        rng = random.Random(self.seed)  # noqa: S311 - a repeatable choice, no secret
        queue = self.launcher.sandbox.account.get(QUEUE).queue
        while True:
            await anyio.sleep(1 / _RATE)
            # A longer backlog would test nothing more, and the run would take longer.
            if len(queue) < _BACKLOG:
                sender.send(rng.choice(names) if self.only_kills else None)

    async def _kill(self) -> None:
        """End a daemon every two seconds, and start another one."""
        rng = random.Random(self.seed)  # noqa: S311 - a repeatable choice, no secret
        due_at = time.monotonic()
        while True:
            due_at = max(due_at + _KILL_EVERY_S, time.monotonic())
            await anyio.sleep(max(0.0, due_at - time.monotonic()))
            daemon = await self._extra_faults.reserve(rng)
            killed = self.only_kills or rng.random() >= _STOPS
            # The end of the faults must not leave a daemon half ended and not replaced.
            with anyio.CancelScope(shield=True):
                await self._end(daemon, killed=killed)
                async with self._starting:
                    started = self._alive[self._alive.index(daemon)] = self.launcher.start()
                    self._extra_faults.busy ^= {daemon.pid, started.pid}
                    # A kill before this would only test the interpreter.
                    await started.serving()
                self._extra_faults.busy.discard(started.pid)

    async def _end(self, daemon: Daemon, *, killed: bool = False) -> None:
        daemon.check()
        await daemon.look()
        at = time.time()
        await (daemon.kill() if killed else daemon.stop())
        stored = await read_store(self.store.direct_address)
        self.deaths[daemon.pid] = Death(
            at,
            frozenset(stored.ended),
            killed=killed,
            storeless=self._sandbox_faults.store_was_down(at),
            started_at=daemon.started_at,
        )

    async def _drain(self) -> list[str]:
        """Wait until the queue is empty; returns what is left, one sentence each.

        Jobs whose daemon was killed while they ran are run one at a time, which can take a while.
        """
        for daemon in self._alive:
            await daemon.serving()
        sandbox = self.launcher.sandbox
        visibility_s = sandbox.account.get(QUEUE).queue.attributes.visibility_timeout_s
        # No lease is longer: such a message waits for a retry.
        hidden_s = max(LEASE_STEP_S, visibility_s) + 1
        return await until_empty(sandbox, self.watch, hidden_s=hidden_s, show_every_s=_SHOW_EVERY_S)

    async def _evidence(self) -> Evidence:
        return Evidence(
            watch=self.watch,
            runs=read_journal(self.launcher.journal.read_text().splitlines()),
            deaths=self.deaths,
            leases_lost=leases_lost(self.launcher.started),
            stored=await read_store(self.store.direct_address, self._true),
            frozen=self._extra_faults.frozen,
            failover=self.store.failover,
        )

    def _true(self, at: float) -> float:
        """The true time of a record of a daemon, whose clock may have been stepped."""
        return at if self.launcher.clock is None else self.launcher.clock.true(at)

    def figures(self, verdict: Verdict, faults: Counter[str]) -> str:
        """The figures of the run, as text."""
        killed = sum(death.killed for death in self.deaths.values())
        acts = Counter(self.watch.acts.values())
        return "\n".join(
            [
                f"seed {self.seed}, daemons at once {self.fleet}, {self._drained_s:.1f} s until the queue was empty",
                f"switched on: {', '.join(sorted(self.on)) or 'nothing beyond the sandbox'}",
                f"jobs sent {len(self.watch.acts)}, messages {len(self.watch.arrivals)}",
                f"deletes {len(self.watch.deleted)}, runs of handlers {verdict.runs}",
                f"daemons killed {killed}, stopped {len(self.deaths) - killed}",
                f"sent: {', '.join(f'{name} {count}' for name, count in sorted(acts.items()))}",
                f"faults: {', '.join(f'{kind} {faults[kind]}' for kind in (*KINDS, *counted(self.on)))}",
                f"lost {verdict.lost}, run again {verdict.repeats()}",
                *verdict.wrong_lines(),
            ]
        )


@dataclass(frozen=True, slots=True)
class Plan:
    """The parts of a run.

    Args:
        fleet: Number of daemons at once; more than one need ``postgres``.
        https: Whether the sandbox speaks https.
        only_kills: Whether kills are the only fault.
        postgres: Whether the store is a PostgreSQL schema.
        extras: The extra faults.
    """

    fleet: int = 1
    https: bool = False
    only_kills: bool = False
    postgres: bool = False
    extras: frozenset[Extra] = frozenset()


@dataclass(frozen=True, slots=True)
class Finished:
    """A run that is over; ``faults`` has how often each kind happened."""

    campaign: Campaign
    verdict: Verdict
    faults: Counter[str]

    @property
    def figures(self) -> str:
        """The figures of the run, as text."""
        return self.campaign.figures(self.verdict, self.faults)

    def wrong_overall(self) -> list[str]:
        """Violations that are not about a single job, one sentence each."""
        campaign, faults = self.campaign, self.faults
        # Only these faults keep a job's message from the queue.
        absent = campaign.watch.acts.keys() - campaign.watch.jobs.keys()
        taken_away = faults["notification_lost"] + faults["job_stuck"]
        wrong = [f"a secret is in {name} or in an answer of its daemon" for name in leaked_secrets(campaign)]
        if len(absent) != taken_away:
            wrong.append(f"{len(absent)} jobs have no message, and faults took {taken_away} away")
        if campaign.deaths.keys() != {daemon.pid for daemon in campaign.launcher.started}:
            wrong.append("not every daemon that was started was ended")
        return wrong


def leaked_secrets(campaign: Campaign) -> list[str]:
    """The logs of daemons that logged or served a secret."""
    settings = campaign.launcher.sandbox.settings
    secrets = [settings.access_key_secret, settings.security_token, campaign.store.secret]
    outputs = [
        (daemon.log.name, "\n".join([daemon.log.read_text(), *daemon.served])) for daemon in campaign.launcher.started
    ]
    assert all("mns_consumer_polls_total" in text for _, text in outputs)
    return [name for name, text in outputs for secret in secrets if secret and secret in text]


@asynccontextmanager
async def _store(schema: str | None, folder: Path, extras: frozenset[Extra]) -> AsyncIterator[StoreUnderTest]:
    if schema is None:
        yield SqliteFile(folder / "ledger.db")
    elif Extra.FAILOVER in extras:
        async with postgres_pair() as pair:
            yield pair
    elif Extra.POOLER in extras:
        async with postgres_behind_pooler(schema, folder) as pooled:
            yield pooled
    else:
        async with postgres_behind_proxy(schema) as store:
            yield store


def carry_out(plan: Plan, folder: Path, *, seconds: float, seed: int) -> Finished:
    """Carry out one run in an event loop of its own; any thread may call it.

    Args:
        plan: The parts of the run.
        folder: For logs, journal and store.
        seconds: Time with faults; the time until the queue is empty comes on top.
        seed: Of every random choice.
    """
    certificate = make_certificate(folder) if plan.https else None
    settings = {"ca_file": str(certificate)} if certificate else {"log_level": "debug"}

    async def go(schema: str | None) -> Finished:
        async with Sandbox(sandbox_settings(certificate)) as sandbox, _store(schema, folder, plan.extras) as store:
            if plan.only_kills:
                sandbox.faults.add(Fault(kind="duplicate"))
            with Launcher(sandbox, folder, store.address, settings) as launcher:
                launcher.clock = Clock(folder) if Extra.CLOCK in plan.extras else None
                # A stop waits for the handlers that block the loop, one after the other.
                launcher.extra_stop_s = 10.0 if Extra.BLOCKED in plan.extras else 0.0
                campaign = Campaign(launcher, store, seed, plan.fleet, plan.only_kills, plan.extras)
                verdict, faults = await campaign.run(seconds)
                return Finished(campaign, verdict, faults)

    with new_schema() if plan.postgres else nullcontext() as schema:
        return anyio.run(go, schema)
