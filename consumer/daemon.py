"""Run the daemon as a process: logs, the event loop, signals, the service manager, the exit code.

SIGHUP or a command reloads settings and handlers: all of them apply to new messages, or none if one is wrong or takes a
restart. Commands come by the control socket (``ops/control.py``).
SIGTERM and SIGINT stop it in order, a second one skips the waiting. The process ends even when threads of plain
functions never return, when a handler shields itself from cancellation, or when a library's thread hangs.
"""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import os
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Final, NoReturn, TypeAlias

import anyio
import anyio.to_thread
import structlog

from consumer.app import App
from consumer.config import Settings, info_of
from consumer.engine.vitals import status_of
from consumer.errors import ConsumerError, ExitCode, SettingsError, flattened, lacks_threads
from consumer.ops.control import ControlSocket, NotNowError, SocketTakenError
from consumer.ops.logs import configure
from consumer.ops.metrics import ReloadResult
from consumer.ops.systemd import Notifier
from consumer.plugin.registry import Registry, forget
from consumer.status import reload_json, status

log = structlog.stdlib.get_logger(__name__)

Read: TypeAlias = Callable[[], tuple[Settings, Registry]]
"""Reads settings and handlers; raises ``ConsumerError`` if one of them is wrong."""

_STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
_GRACE_S: Final = 0.5
"""How long after the stop deadline the process ends, whatever still runs."""
_EXIT_S: Final = 1.0
"""How long the interpreter has for its exit hooks and the threads of libraries once the daemon has stopped."""
_LOOK_S: Final = 0.05
_LOOK_UP_S: Final = 1.0
_NO_THREAD: Final = (
    "no thread could be started: raise the limit of threads (TasksMax= of the unit, ulimit -u), start again"
)
_FIRST_POLLS_S: Final = 10.0
"""How long the answers to the first polls are awaited."""
_STATUS_EVERY_S: Final = 5.0
_STOP_MARGIN_S: Final = 5.0
"""The time beyond the stop deadline that the service manager is asked for."""
_EXTEND_EVERY_S: Final = 1.0
_MIGRATION_MARGIN_S: Final = 60.0
_SPARE_THREADS: Final = 2
_GC_AFTER: Final = 5_000
"""New objects before the garbage collector runs; Python's default of 700 is reached by a few messages."""


def set_up_logs(app: App) -> None:
    """Configure logging by the app's settings, and log its handlers."""
    settings, registry = app.settings, app.registry
    configure(
        settings.log_level,
        json=None if settings.log_format == "auto" else settings.log_format == "json",
        # Lines that handlers log by ``logging`` pass at the daemon's own level.
        own=sorted({function.__module__ for function in registry.functions}),
        levels=settings.log_levels,
        on_drop=app.metrics.log_lines_dropped.inc,
    )
    for name, handler in registry.handlers.items():
        log.info("handler registered", function=name, origin=handler.origin, provider=handler.provider)
    if (hook := registry.letter_hook) is not None:
        log.info("dead-letter hook registered", origin=hook.origin, provider=hook.provider)
    for name in settings.strays:
        log.warning("variable is no setting", name=name)
    for skipped in registry.skipped:
        log.warning("handler skipped", reason=skipped)
    for place in registry.empty:
        log.warning("no handler found in a place that should hold some", place=place)


def run(settings: Settings, registry: Registry, read: Read) -> None:
    """Run until a signal stops it; ``read`` reads settings and handlers again, for a reload.

    Raises:
        ConsumerError: It could not start; its exit code shows the kind of fault.
    """
    app = App(settings, registry)
    set_up_logs(app)
    ended = threading.Event()
    # uvloop does not install everywhere; asyncio's own loop does the same, only slower.
    options = {"use_uvloop": importlib.util.find_spec("uvloop") is not None}
    try:
        anyio.run(_Process(app, read, ended).serve, backend_options=options)
    except BaseExceptionGroup as group:
        # Where there are several, the first is the cause.
        first = next(flattened(group))
        if lacks_threads(first):
            raise ConsumerError(_NO_THREAD) from group
        raise first from group
    except RuntimeError as error:
        if not lacks_threads(error):
            raise
        # The event loop joins its executor's threads by starting another one; after the end that does not matter.
        if not ended.is_set():
            raise ConsumerError(_NO_THREAD) from error


async def _start_threads() -> None:
    """Start now the threads that the event loop would start when it needs them: none may be left by then."""
    loop = asyncio.get_running_loop()
    loop.set_default_executor(SpareThreads())
    # uvloop resolves names on threads of its own, starts all of them for the first name, and aborts where it can't.
    with suppress(OSError), anyio.move_on_after(_LOOK_UP_S):
        await loop.getaddrinfo("localhost", None)


def _exit(code: ExitCode = ExitCode.OK) -> NoReturn:
    """End at once: everything settled is on disk, and the other messages are redelivered."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


class SpareThreads(ThreadPoolExecutor):
    """The event loop's threads, two of them started at once; never refuses work because no further thread starts.

    asyncio resolves host names on them, and handlers use them by ``asyncio.to_thread``. Where no thread is left,
    asyncio's own executor refuses work; here it waits for one of the threads that are there.

    Raises:
        RuntimeError: Not even the first threads can be started.
    """

    def __init__(self) -> None:
        super().__init__(thread_name_prefix="mns-consumer-spare")
        all_there = threading.Event()
        try:
            for _ in range(_SPARE_THREADS):
                # Each keeps its thread busy until all have begun, so each gets a thread of its own.
                self.submit(all_there.wait)
        finally:
            all_there.set()

    def _adjust_thread_count(self) -> None:
        # A private method, but every version of Python starts its threads there; the work is queued already.
        try:
            super()._adjust_thread_count()
        except RuntimeError:
            if not self._threads:
                raise


class _Deadline:
    """Ends the process after the stop deadline, whatever hangs; its thread starts early, as none may be left later."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._begun = threading.Event()
        self._code = ExitCode.OK
        threading.Thread(target=self._run, name="stop deadline", daemon=True).start()

    def begin(self) -> None:
        """A stop is requested."""
        self._begun.set()

    def end_soon(self, code: ExitCode) -> None:
        """End soon after a bug is logged: the interpreter would wait for a handler's thread that never ends."""
        self._code = code
        self._app.stopping.at = min(self._app.stopping.at, time.monotonic() + _EXIT_S)
        self._begun.set()

    def _run(self) -> None:
        self._begun.wait()
        while time.monotonic() < self._app.stopping.at + _GRACE_S:
            time.sleep(_LOOK_S)
        log.warning("the stop deadline is over; ending with what still runs")
        _exit(self._code)


class _Process:
    """The daemon with what is around it: signals, reloads, the service manager. ``ended`` is set at its orderly end."""

    def __init__(self, app: App, read: Read, ended: threading.Event) -> None:
        self._app = app
        self._read = read
        self._ended = ended
        self._notifier = Notifier()
        self._started = anyio.Event()
        self._reload_asked = anyio.Event()
        self._reloading = anyio.Lock()
        self._last_reload: Mapping[str, Any] | None = None
        self._deadline = _Deadline(app)

    async def serve(self) -> None:
        """Serve until a signal stops the daemon."""
        app = self._app
        await _start_threads()
        control = self._open_control()
        async with anyio.create_task_group() as beside:
            if control is not None:
                await beside.start(control.serve)
            with anyio.open_signal_receiver(*_STOP_SIGNALS, signal.SIGHUP) as signals:
                beside.start_soon(self._handle_signals, signals)
                beside.start_soon(self._extend_start)
                beside.start_soon(self._report_ready)
                beside.start_soon(self._reload)
                if self._notifier.watchdog_interval_s is not None:
                    beside.start_soon(self._watchdog, self._notifier.watchdog_interval_s)
                try:
                    await app.serve(started=self._started)
                except BaseException:
                    if app.vitals.serving:
                        self._deadline.end_soon(ExitCode.FAILURE)
                    raise
                app.stopping.at = min(app.stopping.at, time.monotonic() + _EXIT_S)
                beside.cancel_scope.cancel("stopped")
        if left_behind := sum(lane.threads.left_behind for lane in app.lanes):
            # Threads can't be ended, and the interpreter would wait for them for ever; everything settled is on disk.
            log.warning("ending with handlers still running", handlers=left_behind)
            _exit()
        self._ended.set()

    async def _handle_signals(self, signals: AsyncIterator[signal.Signals]) -> None:
        app = self._app
        # A closed terminal sends the same signal as a reload.
        stops = {*_STOP_SIGNALS, signal.SIGHUP} if sys.stdin is not None and sys.stdin.isatty() else _STOP_SIGNALS
        async for received in signals:
            log.info("signal received", signal=received.name)
            first = not app.vitals.stopping
            if received in stops:
                if first:
                    self._notifier.stopping("stopping: handlers get their time")
                    self._notifier.extend_timeout(app.settings.stop_deadline_s + _STOP_MARGIN_S)
                app.stop()
                self._deadline.begin()
            elif first:
                self._reload_asked.set()

    async def _report_ready(self) -> None:
        """Report ready once every queue has answered or 10 s have passed, then the status every 5 s."""
        app = self._app
        await self._started.wait()
        with anyio.move_on_after(_FIRST_POLLS_S):
            while not all(lane.progress.polled_at for lane in app.lanes):  # noqa: ASYNC110 - once, and for a moment
                await anyio.sleep(_LOOK_S)
        _tune_collector()
        for lane in app.lanes:
            if not lane.progress.ready():
                fault = lane.progress.fault or "no answer yet"
                log.warning("started, but a queue can't be polled yet", queue=lane.name, error=fault)
        self._notifier.ready(status_of(app.lanes))
        while self._notifier.active:
            await anyio.sleep(_STATUS_EVERY_S)
            if not app.vitals.stopping:
                self._notifier.status(status_of(app.lanes))

    async def _extend_start(self) -> None:
        """Ask for more time while the store is migrated."""
        while self._notifier.active and not self._started.is_set():
            if self._app.is_migrating:
                self._notifier.extend_timeout(_MIGRATION_MARGIN_S)
                self._notifier.status("migrating the store")
            await anyio.sleep(_EXTEND_EVERY_S)

    async def _reload(self) -> None:
        await self._started.wait()
        while True:
            await self._reload_asked.wait()
            # A signal that comes from here on reloads once more.
            self._reload_asked = anyio.Event()
            await self._reload_once()

    async def _reload_once(self) -> Mapping[str, Any]:
        async with self._reloading:
            self._notifier.reloading()
            problems = await reload(self._app, self._read)
            if not problems:
                set_up_logs(self._app)
            if not self._app.vitals.stopping:
                self._notifier.ready(status_of(self._app.lanes))
            self._last_reload = reload_json(list(problems), list(self._app.registry.handlers))
            return self._last_reload

    def _open_control(self) -> ControlSocket | None:
        path = self._app.settings.socket_path()
        if path is None:
            return None
        commands = {"status": self._answer_status, "reload": self._answer_reload, "run_job": self._answer_run_job}
        try:
            return ControlSocket(path, commands)
        except (SettingsError, SocketTakenError) as error:
            if isinstance(error, SettingsError) and self._app.settings.control_socket is not None:
                raise
            log.warning("commands can't ask this daemon", error=str(error))
            return None

    async def _answer_status(self, _request: Mapping[str, Any]) -> Mapping[str, Any]:
        return {**status(self._app), "last_reload": self._last_reload}

    async def _answer_reload(self, _request: Mapping[str, Any]) -> Mapping[str, Any]:
        self._demand_serving()
        return await self._reload_once()

    async def _answer_run_job(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        self._demand_serving()
        lane = next((lane for lane in self._app.lanes if lane.identity == request.get("queue")), None)
        if lane is None or self._app.settings.store_name() != request.get("store"):
            return {"outcome": None}
        return {"outcome": await self._app.run_job_beside(str(request.get("job_id")), lane)}

    def _demand_serving(self) -> None:
        if not self._app.vitals.serving or self._app.vitals.stopping:
            raise NotNowError("the daemon starts or stops; try again once it runs")

    async def _watchdog(self, interval_s: float) -> None:
        """Ping while the daemon makes progress; a manager that gets no ping restarts it."""
        while True:
            if all(check.ok for check in self._app.vitals.live()):
                self._notifier.watchdog()
            await anyio.sleep(interval_s)


async def reload(app: App, read: Read) -> Sequence[str]:
    """Reload once. ``read`` runs on a thread, because it imports the user's code.

    Returns:
        Why it is refused, one line for each problem; empty if the new settings and handlers apply.
    """
    try:
        settings, registry = await anyio.to_thread.run_sync(read, abandon_on_cancel=True)
    except ConsumerError as error:
        return _refuse(app, error.problems)
    except Exception as error:
        if lacks_threads(error):
            return _refuse(app, ["no thread could be started to read them; raise the limit of threads, then try again"])
        log.exception("internal error while reloading")
        return _refuse(app, [repr(error)])
    if problems := takes_restart(app.settings, settings):
        forget(registry.packages)
        return _refuse(app, problems)
    changed = _changed(app.settings, settings)
    app.adopt(settings, registry)
    app.metrics.reloads[ReloadResult.APPLIED].inc()
    log.info("reloaded", handlers=list(registry.handlers), changed=changed)
    return ()


def takes_restart(before: Settings, after: Settings) -> Sequence[str]:
    """One line for each changed setting that takes a restart."""
    changed = [name for name in _changed(before, after) if not info_of(Settings.model_fields[name]).reloadable]
    if (before.access_key_id is None) != (after.access_key_id is None):
        # Keys can be replaced by others, not by the default chain.
        changed.append("access_key_id")
    return [f"{name}: it has changed, and that takes a restart; reload again once it is as before" for name in changed]


def _changed(before: Settings, after: Settings) -> list[str]:
    return sorted(name for name in Settings.model_fields if getattr(before, name) != getattr(after, name))


def _refuse(app: App, problems: Sequence[str]) -> Sequence[str]:
    app.metrics.reloads[ReloadResult.REFUSED].inc()
    for problem in problems:
        log.error("reload refused; the old settings and handlers are kept", problem=problem)
    return problems


def _tune_collector() -> None:
    """Make the garbage collector skip what was made at the start, and run less often: bench ablation "gc"."""
    gc.freeze()
    gc.set_threshold(_GC_AFTER, *gc.get_threshold()[1:])
