"""Turn an event and its fields into one line: JSON for machines, colours for a terminal.

    log.info("job done", job_id=...)  --.
                                        +--> LineRenderer.render, secrets masked -> Stream.write
    logging.getLogger("aiohttp")  -----'

A line is rendered once, by one function, whoever wrote it. Rendering is total: whatever a field holds gives a line,
bounded in size. Lines of other libraries pass from WARNING upwards only, whatever their loggers are set to: below
that, SDKs print requests with their Authorization.

Elsewhere: the secrets (``ops.redact``), slow and vanished readers (``ops.stream``), which level and format
(``config``).
"""

from __future__ import annotations

import asyncio
import logging
import os
import select
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Lock
from typing import Any, Final, Literal, TextIO, TypeAlias

import structlog

from consumer.errors import SettingsError
from consumer.ops.line import LineRenderer
from consumer.ops.redact import SECRETS
from consumer.ops.stream import Stream, open_stream

Level: TypeAlias = Literal["debug", "info", "warning", "error"]

OWN_LOGGERS: Final = ("consumer", "handlers")
"""The stdlib loggers, children included, whose lines pass at the configured level: the program's and its handlers'."""
_DROP_IN: Final = "_mns_consumer_handlers_"
"""How ``plugin.loading`` begins the module names of drop-in files, whose loggers pass too (from INFO upwards)."""

_LEVELS: Final[Mapping[Level, int]] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
_NOTHING: Final[Mapping[str, object]] = {}
_context: ContextVar[Mapping[str, object]] = ContextVar("mns_consumer_log_fields", default=_NOTHING)


def _beginnings(names: Iterable[str]) -> tuple[str, ...]:
    return (*(f"{name}." for name in names), _DROP_IN)


class _Output:
    """Where every logger's lines end; one for the process, so that loggers may be cached for good."""

    def __init__(self) -> None:
        self.renderer = LineRenderer(SECRETS, terminal=False)
        self.stream: Stream | None = None
        self.on_drop: Callable[[int], object] | None = None
        self.level = logging.INFO
        self.own = _beginnings(OWN_LOGGERS)
        self._lost = 0
        self._gathered: list[bytes] = []
        self._lock = Lock()

    def emit(self, level: str, fields: MutableMapping[str, Any]) -> None:
        self.write(_process(None, level, fields))

    def gather(self, line: bytes) -> None:
        with self._lock:
            first = not self._gathered
            self._gathered.append(line)
        if first:
            asyncio.get_running_loop().call_soon(self.flush)

    def flush(self) -> None:
        with self._lock:
            lines, self._gathered = self._gathered, []
        for piece in _pieces(lines):
            self._put(b"".join(piece), len(piece))

    def write(self, line: bytes) -> None:
        if self._gathered:
            self.flush()
        self._put(line, 1)

    def _put(self, text: bytes, lines: int) -> None:
        stream = self.stream
        if stream is None:
            return
        if not stream.write(text):
            self._lost += lines
            if self.on_drop is not None:
                self.on_drop(lines)
        elif self._lost:
            lost, self._lost = self._lost, 0
            told = {"event": "log lines were lost: their reader was gone or too slow", "lines": lost}
            stream.write(self.renderer.render("warning", told))

    # What structlog calls with the finished line, by the level's name.
    debug = info = warning = error = critical = exception = msg = write


_output: Final = _Output()

# structlog's class for the least level, whose methods are exchanged when the level is set: a cached logger keeps its
# class for good, so this is how a reload reaches it, and a line below the level still costs one empty call.
_Logger: type[structlog.typing.FilteringBoundLogger] = type(
    "_Logger", (structlog.make_filtering_bound_logger(logging.DEBUG),), {}
)


class _Bridge(logging.Handler):
    """Hands lines of the standard library's logging over."""

    def emit(self, record: logging.LogRecord) -> None:
        own = f"{record.name}.".startswith(_output.own)
        if record.levelno < (_output.level if own else max(_output.level, logging.WARNING)):
            return
        try:
            event = record.getMessage()
        except Exception as error:  # noqa: BLE001  # a library's wrong format string must not reach its caller
            event = f"{record.msg!s:.200} ({type(error).__name__} while formatting)"
        fields: dict[str, Any] = {"event": event, "logger": record.name}
        if record.exc_info:
            fields["exc_info"] = record.exc_info
        _output.emit(record.levelname.lower(), fields)


def configure(
    level: Level = "info",
    *,
    json: bool | None = None,
    stream: TextIO | None = None,
    own: Iterable[str] = (),
    on_drop: Callable[[int], object] | None = None,
) -> None:
    """Set up all logging of this process; called again, it changes the loggers that exist too.

    Args:
        level: The least that is logged.
        json: JSON lines, or lines for a person; ``None``: by whether ``stream`` is a terminal.
        stream: Where to; stderr when not given. Its file is written to directly where it has one.
        own: Further names of stdlib loggers that pass at ``level``, such as the modules of a user's handlers.
        on_drop: Told how many lines were lost, each time; must be quick and must not log.

    Raises:
        SettingsError: Nobody would ever see a line: stderr is closed.
    """
    stream = stream if stream is not None else sys.stderr
    if stream is sys.stderr and sys.__stderr__ is None:
        raise SettingsError("stderr is closed, and the log goes there; start with stderr open, as by 2>>FILE")
    terminal = not stream.closed and stream.isatty()
    _output.renderer = LineRenderer(
        SECRETS,
        terminal=terminal if json is None else not json,
        colors=terminal and not os.environ.get("NO_COLOR"),
    )
    if not (stream.closed and _output.stream):
        # Where a handler has closed stderr since, lines go on to where it led.
        _output.stream = open_stream(stream)
    _output.on_drop = on_drop
    _output.level = _LEVELS[level]
    own = (*OWN_LOGGERS, *own)
    _output.own = _beginnings(own)
    _set_methods(_output.level)
    structlog.configure(
        processors=[_process],
        wrapper_class=_Logger,
        context_class=dict,
        logger_factory=lambda *_: _output,
        cache_logger_on_first_use=True,
    )
    _route_stdlib(_output.level, own)


def gather(level: Level, **event: object) -> None:
    """Log a line of which there are many: with the others of the same turn of the loop, in one write.

    For the loop's own thread. A process that dies within that turn takes the line along; all others are written at
    once. Past structlog's loggers, which take as long as the rendering.

    Args:
        level: Its level.
        event: ``event`` and the fields.
    """
    if _LEVELS[level] >= _output.level:
        _output.gather(_process(None, level, event))


@contextmanager
def fields(**values: object) -> Iterator[None]:
    """Put fields on every line that this task, and what it starts, logs meanwhile, such as a trace id."""
    token = _context.set({**_context.get(), **values})
    try:
        yield
    finally:
        _context.reset(token)


def _process(_logger: object, level: str, event: MutableMapping[str, Any]) -> bytes:
    """The one processor: everything between the call and the finished line."""
    context = _context.get()
    return _output.renderer.render(level, {**context, **event} if context else event)


def _pieces(lines: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Lines put together up to what a pipe takes in one piece, so that none is torn by another writer's."""
    piece: list[bytes] = []
    size = 0
    for line in lines:
        if piece and size + len(line) > select.PIPE_BUF:
            yield piece
            piece, size = [], 0
        piece.append(line)
        size += len(line)
    if piece:
        yield piece


def _set_methods(level: int) -> None:
    for name, member in vars(structlog.make_filtering_bound_logger(level)).items():
        if callable(member) and not name.startswith("_"):
            setattr(_Logger, name, member)


def _route_stdlib(level: int, own: Iterable[str]) -> None:
    root = logging.getLogger()
    for handler in list(root.handlers):
        # Those that print are ours to replace; a handler of another kind was put there by somebody on purpose.
        if type(handler) is logging.StreamHandler or isinstance(handler, _Bridge):
            root.removeHandler(handler)
    root.addHandler(_Bridge())
    # Open at the root, since drop-in modules' names are not known beforehand; the bridge decides. What lies below
    # INFO is cut off here already, so that a chatty library's debug lines are not even formatted.
    root.setLevel(max(level, logging.INFO))
    for name in own:
        logging.getLogger(name).setLevel(level)
    logging.captureWarnings(capture=True)
