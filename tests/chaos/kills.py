"""Kill a daemon on SQLite at the N-th sync or write, again and again on one file, and compare all that came of it.

    python -m tests.chaos.kills --points 60 --seed 1

Each daemon is started with a point at which it kills itself (``preloaded/kill.c``), some with a simulated power loss:
what was not synced by then is undone in the files. The next one opens what is left. Points at writes to the database
are met when a daemon stops, because that is when the WAL is written back. In the end a daemon without a point handles
what is left, and the book finds the verdict: nothing lost, no message deleted whose end the ledger has lost, no repeat
but for the kills.

Elsewhere: real power losses of a file system (``power``), the verdict (``book``).
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
from tests.chaos.book import Death, Evidence, Verdict, Why, find, read_journal
from tests.chaos.conftest import sandbox_settings
from tests.chaos.daemons import QUEUE, Daemon, Nest
from tests.chaos.driver import leases_lost
from tests.chaos.preload import KillPoint, compiled
from tests.chaos.stored import read_store
from tests.chaos.traffic import Sender, Watch, acts_of

HOWS: Final = ("before", "after", "torn", "lost", "mixed")
_MOST_POINTS: Final = 500
_DEATH_S: Final = 15.0
_RATE: Final = 60.0
_BACKLOG: Final = 60
_PEACE_S: Final = 90.0
_STOP_AFTER_S: Final = 0.4
_HIGHEST: Final = {"sync": 60, "wal": 300, "database": 30}
"""Up to which call a point may lie: as many come in a few seconds of work, or in one stop."""
_LOWEST: Final = 1


def points(count: int, seed: int) -> list[KillPoint]:
    """Points spread over all kinds, their numbers over all sizes; the first ones meet a file that is being made."""
    dice = random.Random(seed)  # noqa: S311 - chance that can be repeated, no secret
    kinds = [(call, how) for how in HOWS for call in _HIGHEST if (call, how) != ("sync", "torn")]
    made = []
    for number in range(count):
        call, how = kinds[number % len(kinds)]
        at = round(_HIGHEST[call] ** dice.random())
        made.append(KillPoint(call, max(_LOWEST, at), how, seed=dice.getrandbits(16)))
    return made


@dataclass(slots=True)
class Siege:
    """Daemons on one file that are killed one after the other while messages keep coming.

    Args:
        nest: Where daemons come from.
        seed: Of what is sent.
        watch: What passed through the queue.
        deaths: The daemons that were ended.
        met: How often each kind of point was met.
        missed: Points that were not met in time; their daemons were killed by a signal.
    """

    nest: Nest
    seed: int
    watch: Watch = field(default_factory=Watch)
    deaths: dict[int, Death] = field(default_factory=dict)
    met: Counter[str] = field(default_factory=Counter)
    missed: list[str] = field(default_factory=list)

    async def run(self, deal: Callable[[], Awaitable[None]]) -> Verdict:
        """Send while daemons are dealt with, then let one handle the rest.

        Args:
            deal: Starts daemons and ends them.
        """
        sandbox = self.nest.sandbox
        sandbox.account.create(QUEUE, {"VisibilityTimeout": "3"})
        self.watch.stand(sandbox)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._send)
            await deal()
            tasks.cancel_scope.cancel()
        last = self.nest.start()
        await last.serving()
        left = await self._come_to_rest()
        await last.stop()
        await self.bury(last, killed=False)
        verdict = find(
            Evidence(
                watch=self.watch,
                runs=read_journal(self.nest.journal.read_text().splitlines()),
                deaths=self.deaths,
                leases_lost=leases_lost(self.nest.born),
                stored=await read_store(self.nest.store),
            )
        )
        verdict.wrong[:0] = left
        verdict.wrong += [
            f"handlers ran again {count} times because {why}"
            for why, count in verdict.again.items()
            if why not in {Why.KILLED, Why.TOLD}
        ]
        return verdict

    async def _send(self) -> None:
        sender = Sender(self.nest.sandbox, self.watch, self.seed)
        queue = self.nest.sandbox.account.get(QUEUE).queue
        # What waits long for its end, or is tried again late, would only lengthen the rest.
        names = [name for name, act in acts_of(frozenset()).items() if name not in {"slow", "not_ready", "hopeless"}]
        dice = random.Random(self.seed)  # noqa: S311 - chance that can be repeated, no secret
        while True:
            if len(queue) < _BACKLOG:
                sender.send(dice.choice(names))
            await anyio.sleep(1 / _RATE)

    async def bury(self, daemon: Daemon, *, killed: bool) -> None:
        """Note the end of a daemon that has ended, and what the store held then."""
        at = time.time()
        stored = await read_store(self.nest.store)
        self.deaths[daemon.pid] = Death(at, frozenset(stored.ended), killed=killed, born=daemon.born)

    async def _come_to_rest(self) -> list[str]:
        """Wait until the queue is empty; leases of the dead need not be waited for."""
        sandbox = self.nest.sandbox
        queue = sandbox.account.get(QUEUE).queue
        await anyio.sleep(2 * sandbox.settings.job_s + 0.3)
        with anyio.move_on_after(_PEACE_S):
            while sandbox.messages(QUEUE):
                latest_ms = sandbox.clock.now_ms() + 3500
                for message in sandbox.messages(QUEUE):
                    if message.visible_ms > latest_ms:
                        queue.revoke(message)
                await anyio.sleep(0.2)
        return [f"{self.watch.came[message.message_id].job} is still queued" for message in sandbox.messages(QUEUE)]

    def figures(self, verdict: Verdict) -> str:
        """What a reader of the run wants to know, as text."""
        again = ", ".join(f"{verdict.again[why]} because {why}" for why in Why if verdict.again[why]) or "none"
        met = ", ".join(f"{kind} {count}" for kind, count in sorted(self.met.items()))
        return "\n".join(
            [
                f"seed {self.seed}, jobs sent {len(self.watch.asked)}, messages {len(self.watch.came)}",
                f"deletes {len(self.watch.deleted)}, runs of handlers {verdict.runs}",
                f"daemons killed {sum(death.killed for death in self.deaths.values())}: {met}",
                f"points not met: {', '.join(self.missed) or 'none'}",
                f"lost {verdict.lost}, run again {sum(verdict.again.values())}: {again}",
                *verdict.told_wrong(),
            ]
        )


async def meet(siege: Siege, library: Path, point: KillPoint) -> None:
    """Start a daemon and let it come to its point."""
    daemon = siege.nest.start(point.environment(library, Path(siege.nest.store)))
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
        siege.missed.append(str(point))
    elif code == -signal.SIGKILL:
        siege.met[f"{point.how} {point.call}"] += 1
    elif code == 0:
        siege.missed.append(str(point))
    assert code in {0, -signal.SIGKILL}, f"daemon {daemon.pid} ended with {code}:\n{daemon.log.read_text()[-3000:]}"
    await siege.bury(daemon, killed=code != 0)


def kill_at(chosen: Sequence[KillPoint], folder: Path, *, seed: int) -> tuple[Siege, Verdict]:
    """Carry it out with an event loop of its own.

    Args:
        chosen: The points, one daemon each.
        folder: For all that it leaves.
        seed: Of what is sent.
    """

    async def go() -> tuple[Siege, Verdict]:
        library = compiled("kill", folder)
        async with Sandbox(sandbox_settings()) as sandbox:
            # Handlers are short here: a longer stop would only make waiting.
            settings = {"stop_deadline_s": "1"}
            with Nest(sandbox, folder, str(folder / "ledger.db"), settings) as nest:
                siege = Siege(nest, seed)

                async def deal() -> None:
                    for point in chosen:
                        await meet(siege, library, point)

                return siege, await siege.run(deal)

    return anyio.run(go)


def main() -> int:
    """Read the command line, run, and print the figures and what is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.kills")
    parser.add_argument("--points", type=int, default=60, choices=range(1, _MOST_POINTS + 1), metavar="N")
    parser.add_argument("--seed", type=int, default=20260117)
    chosen = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="chaos-kills-"))
    siege, verdict = kill_at(points(chosen.points, chosen.seed), folder, seed=chosen.seed)
    print(f"in {folder}\n{siege.figures(verdict)}")  # noqa: T201 - the command's answer
    return 1 if verdict.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
