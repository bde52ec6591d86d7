"""Who is measured, and how each is started and ended.

    sdk_sample, sdk_batch, sdk_threads    a loop on the vendor's SDK (``sdk_loop``)
    daemon_sqlite, daemon_postgres        mns-consumer as it is run: every setting at its default, leases, metrics and
                                          the admin server on, one log line a message at info into a file

A daemon on PostgreSQL has a schema of its own; the database's own CPU time is counted nowhere.

Elsewhere: what is measured of them (the parts, such as ``throughput``).
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
from tests.bench.served import Server
from tests.postgres import ADDRESS, NoPostgresError, new_schema, store_at

Handler = Literal["nothing", "timed", "result", "ablated"]

SDK: Final = ("sdk_sample", "sdk_batch", "sdk_threads")
SQLITE: Final = "daemon_sqlite"
POSTGRES: Final = "daemon_postgres"
ALL: Final = (*SDK, SQLITE, POSTGRES)

_HERE: Final = Path(__file__).resolve().parent
_POLLS: Final = {"sdk_threads": 4}
"""Long polls that stand at the queue while there is nothing to do, where it is not one."""
_READY_S: Final = 30.0
_LOOK_S: Final = 0.5
_BAD_LEVELS: Final = frozenset({"warning", "error", "critical"})


@dataclass(slots=True)
class Stage:
    """Where runs take place: a server, and a fresh queue and folder for each run.

    Args:
        server: The server.
        cores: Which core is whose.
        folder: Where every run's folder is made.
    """

    server: Server
    cores: Cores
    folder: Path
    _runs: int = 0

    @contextmanager
    def place(self, **more: Any) -> Iterator[Place]:
        """Make what one run needs, an empty queue and an empty folder, and take them away again.

        Args:
            more: What else is said of the place; see there.
        """
        self._runs += 1
        queue = f"bench-{self._runs}"
        self.server.ask("fill", queue=queue, count=0)
        with TemporaryDirectory(dir=self.folder, prefix=f"{queue}-") as made:
            try:
                yield Place(self.server, self.cores.contestant, queue, Path(made), **more)
            finally:
                self.server.ask("drop", queue=queue)


@dataclass(frozen=True, slots=True)
class Place:
    """What one run needs.

    Args:
        server: The server.
        core: Where the contestant runs.
        queue: Its queue, used by no other run.
        folder: Its own, empty folder.
        handler: What a daemon does with a message.
        store: The ledger's file; default: a fresh one.
        without: The trick that is switched off (``tricks``); with the handler ``ablated``.
        may_tell: How lines of a daemon's log begin that are no sign of a spoilt run.
    """

    server: Server
    core: int | None
    queue: str
    folder: Path
    handler: Handler = "nothing"
    store: Path | None = None
    may_tell: tuple[str, ...] = ()
    without: str = ""

    @property
    def delays(self) -> Path:
        """Where contestants that are timed write how old each message was, nanoseconds."""
        return self.folder / "delays"

    @property
    def environ(self) -> dict[str, str]:
        """The contestant's environment; nothing of the caller's home is of use to it."""
        timed = {"BENCH_DELAYS": str(self.delays)} if self.handler == "timed" else {}
        without = {"BENCH_WITHOUT": self.without} if self.without else {}
        return environment(HOME=str(self.folder), **timed, **without)


@dataclass(frozen=True, slots=True)
class Running:
    """A contestant that runs.

    Args:
        name: Which.
        process: Its process.
        place: Where.
    """

    name: str
    process: Process
    place: Place

    def wait(self) -> None:
        """Wait until it stands at its empty queue.

        Raises:
            BenchError: It ended, or does not get there in time.
        """
        polls = _POLLS.get(self.name, 1)
        held, end_at_s = 0, time.monotonic() + _READY_S
        # In short looks: one that has died is told at once.
        while held < polls and time.monotonic() < end_at_s:
            self.process.check()
            held = self.place.server.ask("held", queue=self.place.queue, polls=polls, within_s=_LOOK_S).told["held"]
        if held < polls:
            raise BenchError(f"{self.name} holds {held} of {polls} polls after {_READY_S:g} s:\n{self.process.told()}")


@contextmanager
def started(name: str, place: Place) -> Iterator[Running]:
    """Start a contestant; end it, and see that nothing went wrong in it.

    Raises:
        NotHereError: What it needs is not on this machine.
        BenchError: It ended by itself, or told of a problem.
    """
    if name in SDK:
        yield from _sdk(name, place)
    elif name == SQLITE:
        yield from _daemon(name, place, str(place.store or place.folder / "ledger.db"))
    elif name == POSTGRES:
        try:
            with new_schema() as schema:
                yield from _daemon(name, place, store_at(ADDRESS, schema))
        except NoPostgresError as error:
            raise NotHereError(str(error)) from None
    else:
        raise BenchError(f"no contestant {name!r}; known: {', '.join(ALL)}")


def _sdk(name: str, place: Place) -> Iterator[Running]:
    process = Process(
        [sys.executable, str(_HERE / "sdk_loop.py"), name.removeprefix("sdk_"), place.server.url, place.queue],
        log=place.folder / "log",
        core=place.core,
        environ=place.environ,
    )
    try:
        yield Running(name, process, place)
        process.check()
    finally:
        process.end()


def _daemon(name: str, place: Place, store: str) -> Iterator[Running]:
    handlers = place.folder / "handlers"
    handlers.mkdir()
    shutil.copy(_HERE / f"handler_{place.handler}.py", handlers)
    settings = {
        "notify_url": place.server.notify_url(place.queue),
        "endpoint": place.server.url,
        "handlers_dir": str(handlers),
        # Two of them may run at once.
        "admin_port": "0",
        **({"ca_file": str(place.server.certificate)} if place.server.certificate else {}),
    }
    process = Process(
        [
            *(sys.executable, "-m", "consumer", "run"),
            *(part for setting, value in settings.items() for part in ("--set", f"{setting}={value}")),
        ],
        log=place.folder / "log",
        core=place.core,
        environ={
            **place.environ,
            "MNS_CONSUMER_ACCESS_KEY_ID": "sandbox",
            "MNS_CONSUMER_ACCESS_KEY_SECRET": "sandbox",
            "MNS_CONSUMER_STORE": store,
        },
    )
    running = Running(name, process, place)
    try:
        yield running
        process.check()
    finally:
        code = process.end()
    _see_that_all_went_well(running, code)


def _see_that_all_went_well(running: Running, code: int) -> None:
    """A message that was set aside, or came back, is no message that was handled: then the figures mean nothing."""
    bad: Counter[str] = Counter()
    with running.process.log.open() as lines:
        for line in lines:
            try:
                told = json.loads(line)
            except ValueError:
                bad[f"no log line: {line.strip()[:200]}"] += 1
                continue
            expected = str(told.get("event")).startswith(running.place.may_tell or ("\0",))
            if told.get("level") in _BAD_LEVELS and not expected:
                bad[f"{told.get('level')}: {told.get('event')} {told.get('error', '')}"] += 1
    if code != 0 or bad:
        shown = "; ".join(f"{text} ({count} times)" for text, count in bad.most_common(3))
        raise BenchError(f"{running.name} ended with {code} and told of problems: {shown or 'none'}")
