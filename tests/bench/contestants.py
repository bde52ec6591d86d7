"""What is measured, and how each contestant is started and ended.

    sdk_sample, sdk_batch, sdk_threads    a loop on the vendor's SDK (``sdk_loop``)
    daemon_sqlite, daemon_postgres        mns-consumer with default settings: leases, metrics, the admin server, and
                                          one log line a message at level info into a file

A daemon on PostgreSQL has a schema of its own. The CPU time of the database server is in no figure.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, Literal

from tests.bench.process import BenchError, Cores, NotHereError, Process, environment
from tests.bench.server import Server
from tests.postgres import ADDRESS, NoPostgresError, new_schema, store_at

Handler = Literal["nothing", "timed", "result", "ablated"]

SDK: Final = ("sdk_sample", "sdk_batch", "sdk_threads")
SQLITE: Final = "daemon_sqlite"
POSTGRES: Final = "daemon_postgres"
ALL: Final = (*SDK, SQLITE, POSTGRES)

_HERE: Final = Path(__file__).resolve().parent
_POLLS: Final = {"sdk_threads": 4}
"""Long polls of an idle contestant, where it is not one."""
_READY_S: Final = 30.0
_LOOK_S: Final = 0.5
_BAD_LEVELS: Final = frozenset({"warning", "error", "critical"})


@dataclass(slots=True)
class Rig:
    """Makes the runs: each gets an empty queue and an empty folder.

    Args:
        folder: Holds the folder of every run.
    """

    server: Server
    cores: Cores
    folder: Path
    _runs: int = 0

    @contextmanager
    def run(self, **more: Any) -> Iterator[Run]:
        """Make a run's queue and folder, and delete them afterwards.

        Args:
            more: Further fields of the ``Run``.
        """
        self._runs += 1
        queue = f"bench-{self._runs}"
        self.server.ask("fill", queue=queue, count=0)
        with TemporaryDirectory(dir=self.folder, prefix=f"{queue}-") as made:
            try:
                yield Run(self.server, self.cores.contestant, queue, Path(made), **more)
            finally:
                self.server.ask("drop", queue=queue)


@dataclass(frozen=True, slots=True)
class Run:
    """What one run of one contestant needs.

    Args:
        core: The contestant's core.
        handler: The daemon's handler: the file ``handler_NAME.py`` of this folder.
        store: The ledger's file; default: a new one.
        without: The trick that is switched off (``tricks``); with the handler ``ablated``.
        expected_events: How the events begin that a daemon may log as warnings or errors.
    """

    server: Server
    core: int | None
    queue: str
    folder: Path
    handler: Handler = "nothing"
    store: Path | None = None
    expected_events: tuple[str, ...] = ()
    without: str = ""

    @property
    def delays(self) -> Path:
        """The file into which timed contestants write the delay of each message, nanoseconds."""
        return self.folder / "delays"

    @property
    def environ(self) -> dict[str, str]:
        """The contestant's environment, with the run's folder as its home."""
        timed = {"BENCH_DELAYS": str(self.delays)} if self.handler == "timed" else {}
        without = {"BENCH_WITHOUT": self.without} if self.without else {}
        return environment(HOME=str(self.folder), **timed, **without)


@dataclass(frozen=True, slots=True)
class Contestant:
    """A contestant that has been started."""

    name: str
    process: Process
    run: Run

    def wait(self) -> None:
        """Wait until all its long polls are at its empty queue.

        Raises:
            BenchError: It ended, or did not poll within 30 s.
        """
        polls = _POLLS.get(self.name, 1)
        held, end_at_s = 0, time.monotonic() + _READY_S
        # In short steps, so that the end of the process is noticed at once.
        while held < polls and time.monotonic() < end_at_s:
            self.process.check()
            held = self.run.server.ask("held", queue=self.run.queue, polls=polls, within_s=_LOOK_S).answer["held"]
        if held < polls:
            raise BenchError(f"{self.name} holds {held} of {polls} polls after {_READY_S:g} s:\n{self.process.log_end}")


@contextmanager
def started(name: str, run: Run) -> Iterator[Contestant]:
    """Start a contestant, end it, and check that it had no problem.

    Raises:
        NotHereError: What it needs is not on this machine.
        BenchError: It ended by itself, or logged a problem.
    """
    if name in SDK:
        yield from _sdk(name, run)
    elif name == SQLITE:
        yield from _daemon(name, run, str(run.store or run.folder / "ledger.db"))
    elif name == POSTGRES:
        try:
            with new_schema() as schema:
                yield from _daemon(name, run, store_at(ADDRESS, schema))
        except NoPostgresError as error:
            raise NotHereError(str(error)) from None
    else:
        raise BenchError(f"no contestant {name!r}; known: {', '.join(ALL)}")


def _sdk(name: str, run: Run) -> Iterator[Contestant]:
    process = Process(
        [sys.executable, str(_HERE / "sdk_loop.py"), name.removeprefix("sdk_"), run.server.url, run.queue],
        log=run.folder / "log",
        core=run.core,
        environ=run.environ,
    )
    try:
        yield Contestant(name, process, run)
        process.check()
    finally:
        process.end()


def _daemon(name: str, run: Run, store: str) -> Iterator[Contestant]:
    handlers = run.folder / "handlers"
    handlers.mkdir()
    shutil.copy(_HERE / f"handler_{run.handler}.py", handlers)
    settings = {
        "notify_url": run.server.notify_url(run.queue),
        "endpoint": run.server.url,
        "handlers_dir": str(handlers),
        # Two daemons may run at once.
        "admin_port": "0",
        **({"ca_file": str(run.server.certificate)} if run.server.certificate else {}),
    }
    process = Process(
        [
            *(sys.executable, "-m", "consumer", "run"),
            *(part for setting, value in settings.items() for part in ("--set", f"{setting}={value}")),
        ],
        log=run.folder / "log",
        core=run.core,
        environ={
            **run.environ,
            "MNS_CONSUMER_ACCESS_KEY_ID": "sandbox",
            "MNS_CONSUMER_ACCESS_KEY_SECRET": "sandbox",
            "MNS_CONSUMER_STORE": store,
        },
    )
    contestant = Contestant(name, process, run)
    try:
        yield contestant
        process.check()
    finally:
        code = process.end()
    _check_log(contestant, code)


def _check_log(contestant: Contestant, code: int) -> None:
    """Raise if the daemon logged a problem: a dead letter or a redelivery would spoil the figures."""
    bad: Counter[str] = Counter()
    with contestant.process.log.open() as lines:
        for line in lines:
            try:
                logged = json.loads(line)
            except ValueError:
                bad[f"no log line: {line.strip()[:200]}"] += 1
                continue
            expected = str(logged.get("event")).startswith(contestant.run.expected_events or ("\0",))
            if logged.get("level") in _BAD_LEVELS and not expected:
                bad[f"{logged.get('level')}: {logged.get('event')} {logged.get('error', '')}"] += 1
    if code != 0 or bad:
        shown = "; ".join(f"{text} ({count} times)" for text, count in bad.most_common(3))
        raise BenchError(f"{contestant.name} ended with {code} and logged problems: {shown or 'none'}")
