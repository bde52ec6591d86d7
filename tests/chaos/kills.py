"""Kill daemons on one SQLite file, each at its N-th sync or write, and judge the result.

    python -m tests.chaos.kills --points 60 --seed 1

Each daemon has a point at which it kills itself (``preloaded/kill.c``). Some points simulate a power loss: writes that
were not synced are undone in the files. The next daemon opens what is left. Points at writes to the database are
reached when a daemon stops, because then the WAL is written back. At the end a daemon without a point handles the
remaining messages. No job may be lost, no message deleted whose end is not in the ledger, and only kills and planned
failures may cause repeats. ``power`` does the same with real power losses of a file system.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import anyio

from consumer.sandbox import Sandbox
from tests.chaos.conftest import sandbox_settings
from tests.chaos.daemons import QUEUE, Daemon, Launcher, leases_lost
from tests.chaos.preload import KillPoint, compiled
from tests.chaos.stores import read_store
from tests.chaos.traffic import Sender, Watch, acts_of, until_empty
from tests.chaos.verdict import Cause, Death, Evidence, Verdict, judge, read_journal

HOWS: Final = ("before", "after", "torn", "lost", "mixed")
_MOST_POINTS: Final = 500
_DEATH_S: Final = 15.0
_RATE: Final = 60.0
_BACKLOG: Final = 60
_STOP_AFTER_S: Final = 0.4
_HIGHEST: Final = {"sync": 60, "wal": 300, "database": 30}
"""The highest number of a call: as many happen in some seconds of work, or in one stop."""


def points(count: int, seed: int) -> list[KillPoint]:
    """Points of all kinds, with numbers of all sizes; the first ones are reached while the file is created."""
    rng = random.Random(seed)  # noqa: S311 - a repeatable choice, no secret
    kinds = [(call, how) for how in HOWS for call in _HIGHEST if (call, how) != ("sync", "torn")]
    made = []
    for number in range(count):
        call, how = kinds[number % len(kinds)]
        at = round(_HIGHEST[call] ** rng.random())
        made.append(KillPoint(call, max(1, at), how, seed=rng.getrandbits(16)))
    return made


@dataclass(slots=True)
class KillCampaign:
    """Daemons on one file that are killed one after the other while messages are sent.

    Args:
        launcher: Starts the daemons.
        seed: Of the choice of messages.
        watch: What was sent, and what passed through the queue.
        deaths: The daemons that were ended.
        reached: How often each kind of point was reached.
        missed: Points that were not reached in time.
    """

    launcher: Launcher
    seed: int
    watch: Watch = field(default_factory=Watch)
    deaths: dict[int, Death] = field(default_factory=dict)
    reached: Counter[str] = field(default_factory=Counter)
    missed: list[str] = field(default_factory=list)

    async def run(self, kill_daemons: Callable[[], Awaitable[None]]) -> Verdict:
        """Send messages while ``kill_daemons`` starts and kills daemons, then let one daemon handle the rest."""
        sandbox = self.launcher.sandbox
        sandbox.account.create(QUEUE, {"VisibilityTimeout": "3"})
        self.watch.attach(sandbox)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._send)
            await kill_daemons()
            tasks.cancel_scope.cancel()
        last = self.launcher.start()
        await last.serving()
        # The leases of dead daemons are longer: they are not waited for.
        left = await until_empty(sandbox, self.watch, hidden_s=3.5, show_every_s=0.2)
        await last.stop()
        await self.record_death(last, killed=False)
        verdict = judge(
            Evidence(
                watch=self.watch,
                runs=read_journal(self.launcher.journal.read_text().splitlines()),
                deaths=self.deaths,
                leases_lost=leases_lost(self.launcher.started),
                stored=await read_store(self.launcher.store),
            )
        )
        verdict.wrong[:0] = left
        verdict.wrong += [
            f"handlers ran again {count} times because {cause}"
            for cause, count in verdict.again.items()
            if cause not in {Cause.KILLED, Cause.PLANNED}
        ]
        return verdict

    async def _send(self) -> None:
        sender = Sender(self.launcher.sandbox, self.watch, self.seed)
        queue = self.launcher.sandbox.account.get(QUEUE).queue
        # Jobs that end late, or are tried again late, would only make the run longer.
        names = [name for name, act in acts_of(frozenset()).items() if name not in {"slow", "not_ready", "hopeless"}]
        rng = random.Random(self.seed)  # noqa: S311 - a repeatable choice, no secret
        while True:
            if len(queue) < _BACKLOG:
                sender.send(rng.choice(names))
            await anyio.sleep(1 / _RATE)

    async def record_death(self, daemon: Daemon, *, killed: bool) -> None:
        """Record the end of a daemon that has ended, and what the store holds now."""
        at = time.time()
        stored = await read_store(self.launcher.store)
        self.deaths[daemon.pid] = Death(at, frozenset(stored.ended), killed=killed, started_at=daemon.started_at)

    def figures(self, verdict: Verdict) -> str:
        """The figures of the run, as text."""
        reached = ", ".join(f"{kind} {count}" for kind, count in sorted(self.reached.items()))
        return "\n".join(
            [
                f"seed {self.seed}, jobs sent {len(self.watch.acts)}, messages {len(self.watch.arrivals)}",
                f"deletes {len(self.watch.deleted)}, runs of handlers {verdict.runs}",
                f"daemons killed {sum(death.killed for death in self.deaths.values())}: {reached}",
                f"points not met: {', '.join(self.missed) or 'none'}",
                f"lost {verdict.lost}, run again {verdict.repeats()}",
                *verdict.wrong_lines(),
            ]
        )


async def run_to_point(campaign: KillCampaign, library: Path, point: KillPoint) -> None:
    """Start a daemon and wait until it kills itself at its point."""
    daemon = campaign.launcher.start(point.environment(library, Path(campaign.launcher.store)))
    with anyio.move_on_after(_DEATH_S):
        if point.call == "database":
            while daemon.process.poll() is None and not daemon.is_serving:  # noqa: ASYNC110 - another process
                await anyio.sleep(0.02)
            await anyio.sleep(_STOP_AFTER_S)
            daemon.process.send_signal(signal.SIGTERM)
        while daemon.process.poll() is None:  # noqa: ASYNC110 - another process
            await anyio.sleep(0.02)
    code = daemon.process.poll()
    if code is None:
        daemon.process.kill()
        code = await daemon.ended(10)
        campaign.missed.append(str(point))
    elif code == -signal.SIGKILL:
        campaign.reached[f"{point.how} {point.call}"] += 1
    elif code == 0:
        campaign.missed.append(str(point))
    assert code in {0, -signal.SIGKILL}, f"daemon {daemon.pid} ended with {code}:\n{daemon.log.read_text()[-3000:]}"
    await campaign.record_death(daemon, killed=code != 0)


def kill_at(chosen: Sequence[KillPoint], folder: Path, *, seed: int) -> tuple[KillCampaign, Verdict]:
    """Start one daemon for each point, in an event loop of its own.

    Args:
        chosen: The points.
        folder: For logs, journal and store.
        seed: Of the choice of messages.
    """

    async def go() -> tuple[KillCampaign, Verdict]:
        library = compiled("kill", folder)
        async with Sandbox(sandbox_settings()) as sandbox:
            # The handlers are short here.
            settings = {"stop_deadline_s": "1"}
            with Launcher(sandbox, folder, str(folder / "ledger.db"), settings) as launcher:
                campaign = KillCampaign(launcher, seed)

                async def kill_daemons() -> None:
                    for point in chosen:
                        await run_to_point(campaign, library, point)

                return campaign, await campaign.run(kill_daemons)

    return anyio.run(go)


def main() -> int:
    """Read the command line, run, and print the figures and the violations."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.kills")
    parser.add_argument("--points", type=int, default=60, choices=range(1, _MOST_POINTS + 1), metavar="N")
    parser.add_argument("--seed", type=int, default=20260117)
    chosen = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="chaos-kills-"))
    campaign, verdict = kill_at(points(chosen.points, chosen.seed), folder, seed=chosen.seed)
    print(f"in {folder}\n{campaign.figures(verdict)}")  # noqa: T201 - the command's answer
    return 1 if verdict.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
