"""Structured logs by structlog: JSON lines for machines, its console renderer for people.

The lines of structlog's loggers and of the standard library's pass the same processors:

    fields of the context, time, level -> exception's text -> JSON types -> secrets masked -> line -> stream

Each line is rendered, whatever its fields hold, and bounded in size. Lines of other libraries pass from WARNING
upwards only, unless the settings name their loggers: below that, SDKs print requests with their Authorization.
"""

from __future__ import annotations

import asyncio
import json as stdlib_json
import logging
import os
import select
import sys
import time
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from collections.abc import Set as AbstractSet
from contextvars import ContextVar, Token
from datetime import date
from decimal import Decimal
from enum import Enum
from functools import partial
from pathlib import PurePath
from threading import Lock
from types import MappingProxyType, NoneType
from typing import Any, Final, Literal, TextIO, TypeAlias
from uuid import UUID

import structlog
from pydantic_core import to_json
from structlog.contextvars import merge_contextvars
from structlog.dev import ConsoleRenderer, plain_traceback
from structlog.processors import ExceptionRenderer, format_exc_info
from structlog.stdlib import ProcessorFormatter, add_logger_name
from structlog.tracebacks import ExceptionDictTransformer
from structlog.typing import Processor

from consumer.errors import SettingsError
from consumer.ops.log_stream import FileStream, TextStream, is_journal, open_stream
from consumer.ops.sanitize import SECRETS, Secrets, json_escaped, printable, printable_block

LogLevel: TypeAlias = Literal["debug", "info", "warning", "error"]
Event: TypeAlias = MutableMapping[str, Any]

OWN_LOGGERS: Final = ("consumer", "handlers")
"""The stdlib loggers whose lines pass at the configured level, children included: the program's and its handlers'."""
_DROP_IN: Final = "_mns_consumer_handlers_"
"""How ``plugin.registry`` begins the module names of drop-in files, whose loggers pass too (from INFO upwards)."""
TEXT_LIMIT: Final = 4_000
"""Characters of one field; a longer text is cut in its middle."""
EXCEPTION_LIMIT: Final = 12_000
"""Characters of one traceback."""
LINE_LIMIT_BYTES: Final = 65_536
"""Above this each field is cut to its beginning and end."""
_SHRUNK_LIMIT: Final = 500
_ITEMS_LIMIT: Final = 50
_DEPTH_LIMIT: Final = 3
_EXCEPTION_DEPTH: Final = 8
"""Of a structured traceback: its causes, their frames, the fields of those, and groups within groups."""
_PLAIN: Final = frozenset({str, int, float, bool, NoneType})
_SHOWN_AS_TEXT: Final = (PurePath, UUID, Decimal, date)
_DEL: Final = 0x7F
_BLOCKS: Final = ("exception", "stack")

_OF_RECORDS: Final = {*logging.makeLogRecord({}).__dict__, "asctime", "message", "taskName"}
_PRIORITIES: Final = {"critical": b"<2>", "error": b"<3>", "exception": b"<3>", "warning": b"<4>", "debug": b"<7>"}
"""How systemd's journal learns a line's priority: sd-daemon(3). Without one it is 6, informational."""
_STRUCTURED: Final = ExceptionRenderer(ExceptionDictTransformer(show_locals=False))
"""Without the values of variables, which may be secrets."""
_LEVELS: Final = {name.lower(): number for name, number in logging.getLevelNamesMapping().items()}
_NOTHING: Final[Mapping[str, object]] = {}
_context: ContextVar[Mapping[str, object]] = ContextVar("mns_consumer_log_fields", default=_NOTHING)


class LogFields:
    """Puts fields on each line that is logged within the block, also by the tasks and threads that it starts."""

    def __init__(self, **fields: object) -> None:
        self._fields = fields

    def __enter__(self) -> None:
        self._token: Token[Mapping[str, object]] = _context.set({**_context.get(), **self._fields})

    def __exit__(self, *_: object) -> None:
        _context.reset(self._token)


def log_job(function: str, job_id: str, *, message_id: str, queue: str, attempt: int) -> None:
    """Put a job's fields on each line that this task logs from now on, and the tasks and threads that it starts."""
    job = {"function": function, "job_id": job_id, "message_id": message_id, "queue": queue, "attempt": attempt}
    _context.set({**_context.get(), **job})


def configure(
    level: LogLevel = "info",
    *,
    json: bool | None = None,
    stream: TextIO | None = None,
    own: Iterable[str] = (),
    levels: Mapping[str, LogLevel] = MappingProxyType({}),
    on_drop: Callable[[int], object] | None = None,
) -> None:
    """Set up all logging of this process; called again, it changes the loggers in use too.

    Args:
        level: The lowest level that is logged.
        json: JSON lines, or lines for a person; by default for a person where ``stream`` is a terminal.
        stream: stderr by default; a closed stderr is a ``SettingsError``.
        own: More stdlib loggers that pass at ``level``, such as the modules of a user's handlers.
        levels: The level of other stdlib loggers, children included; of several that match the longest name counts.
        on_drop: Gets the number of lines lost, each time; must be quick and must not log.
    """
    stream = stream if stream is not None else sys.stderr
    if stream is sys.stderr and sys.__stderr__ is None:
        raise SettingsError("stderr is closed, and the log goes there; start with stderr open, as by 2>>FILE")
    terminal = not stream.closed and stream.isatty()
    colors = terminal and not os.environ.get("NO_COLOR")
    _log.level = _LEVELS[level]
    loggers = {**dict.fromkeys((*OWN_LOGGERS, *own), level), **levels}
    _log.loggers = {f"{name}.": _LEVELS[its] for name, its in sorted(loggers.items(), key=lambda one: -len(one[0]))}
    _log.loggers |= {} if _DROP_IN in _log.loggers else {_DROP_IN: _LEVELS[level]}
    _log.on_drop = on_drop
    _log.processors = processors(SECRETS, terminal=terminal if json is None else not json, colors=colors)
    if not (stream.closed and _log.stream):
        # Where a handler has closed stderr since, lines go on to where it led.
        _log.stream = open_stream(stream)
        _log.is_journal = is_journal(stream)
    structlog.configure(
        processors=[_drop_below_level, merge_contextvars, _render],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
        context_class=dict,
        logger_factory=lambda *_: _log,
        cache_logger_on_first_use=True,
    )
    root = logging.getLogger()
    for handler in list(root.handlers):
        # Those that print are replaced; a handler of another kind was added on purpose.
        if type(handler) is logging.StreamHandler or isinstance(handler, _StdlibHandler):
            root.removeHandler(handler)
    root.addHandler(_StdlibHandler())
    # Open at the root, since the names of drop-in modules are not known yet; the handler decides. A library's debug
    # lines end here, before they are formatted.
    root.setLevel(max(_log.level, logging.INFO))
    for name in _log.named - loggers.keys():
        logging.getLogger(name).setLevel(logging.NOTSET)
    _log.named = loggers.keys()
    for name, its in loggers.items():
        logging.getLogger(name).setLevel(_LEVELS[its])
    logging.captureWarnings(capture=True)


def gather(level: LogLevel, **event: object) -> None:
    """Log a line from the event loop's thread; the lines of one turn of the loop share one write.

    A process that dies within that turn loses the line; all other lines are written at once. Structlog's loggers, which
    take as long as the rendering, and ``structlog.contextvars`` are left out.
    """
    if _LEVELS[level] >= _log.level:
        _log.gather(_render(None, level, event))


def processors(secrets: Secrets, *, terminal: bool, colors: bool = False) -> tuple[Processor, ...]:
    """Everything between an event's fields and its line: UTF-8, its end included."""
    show = format_exc_info if terminal else _STRUCTURED
    return (
        _begin,
        partial(_show_exception, show),
        _as_json_types,
        secrets.redact,
        _Renderer(terminal=terminal, colors=colors),
    )


def render(chain: Iterable[Processor], level: str, event: Event) -> bytes:
    """One line, whatever the fields are: a line that can't be made must not fail the work that logs it."""
    line: Any = event
    try:
        for processor in chain:
            line = processor(None, level, line)
    except Exception as error:  # noqa: BLE001  # see above
        text = SECRETS.mask(str(_plain(event.get("event", ""), 0)))
        line = _json_line({**_begin(None, level, {"event": _cut(text)}), "unrenderable": type(error).__name__})
    rendered: bytes = line
    return rendered


def _show_exception(show: Callable[[object, str, Any], Any], logger: object, level: str, event: Event) -> Event:
    """Show an exception by one of structlog's processors; one that can't be shown is named."""
    if "exc_info" not in event:
        return event
    error = event["exc_info"]
    try:
        event.update(show(logger, level, dict(event)))
    except BaseException as second:  # noqa: BLE001 - a user's exception may raise anything when it is asked for its text
        kind = type(error if isinstance(error, BaseException) else second).__name__
        event["exception"] = f"{kind}: its traceback can't be shown: {type(second).__name__}"
    del event["exc_info"]
    return event


def _render(_logger: object, level: str, event: Event) -> bytes:
    line = render(_log.processors, level, event)
    return _PRIORITIES.get(level, b"") + line if _log.is_journal else line


def _drop_below_level(_logger: object, level: str, event: Event) -> Event:
    if _LEVELS[level] < _log.level:
        raise structlog.DropEvent
    return event


def _begin(_logger: object, level: str, event: Event) -> Event:
    """Time, level and event first, then the fields of the context, then the event's own."""
    return {"timestamp": _log.now(), "level": level, "event": event.pop("event", ""), **_context.get(), **event}


def _as_json_types(_logger: object, _level: str, event: Event) -> Event:
    for key, value in event.items():
        if type(value) not in _PLAIN:
            event[key] = _plain(value, _EXCEPTION_DEPTH if key == "exception" else _DEPTH_LIMIT)
    return event


def _plain(value: object, depth: int) -> object:
    """The value as JSON knows it, bounded in depth and in items. An object that can't be read is named."""
    if type(value) in _PLAIN:
        return value
    try:
        if isinstance(value, Enum):
            return _plain(value.value, depth)
        if isinstance(value, str):
            return str.__str__(value)
        if isinstance(value, Mapping) and depth:
            items = list(value.items())[:_ITEMS_LIMIT]
            return {str(_plain(key, 0)): _plain(item, depth - 1) for key, item in items}
        if isinstance(value, (list, tuple, set, frozenset)) and depth:
            return [_plain(item, depth - 1) for item in list(value)[:_ITEMS_LIMIT]]
        if isinstance(value, BaseException):
            return f"{type(value).__name__}: {value}"
        return str(value) if isinstance(value, _SHOWN_AS_TEXT) else repr(value)
    except Exception:  # noqa: BLE001  # a user's object may raise anything
        return f"<{type(value).__name__} that can't be shown>"


class _Renderer:
    """The last processor: makes the line, and cuts what is too long now that all secrets are masked."""

    def __init__(self, *, terminal: bool, colors: bool) -> None:
        self._encode: Callable[[Event], bytes] = _Console(colors=colors) if terminal else _json_line

    def __call__(self, _logger: object, _level: str, event: Event) -> bytes:
        line = self._encode(event)
        if len(line) > TEXT_LIMIT:
            event = {
                key: _cut(value, EXCEPTION_LIMIT if key == "exception" else TEXT_LIMIT) for key, value in event.items()
            }
            line = self._encode(event)
        if len(line) > LINE_LIMIT_BYTES:
            fields = list(event.items())[:_ITEMS_LIMIT]
            line = self._encode({_cut(key, 100): _cut(str(value), _SHRUNK_LIMIT) for key, value in fields})
        return line


def _cut(value: Any, limit: int = TEXT_LIMIT) -> Any:
    """A plain value with each text in it cut in its middle; a traceback keeps more of its end, which says the most."""
    if isinstance(value, str) and len(value) > limit:
        head = limit // 4 if limit == EXCEPTION_LIMIT else limit // 2
        return f"{value[:head]} ... {len(value) - limit} characters left out ... {value[head - limit :]}"
    if isinstance(value, dict):
        return {_cut(key): _cut(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_cut(item) for item in value]
    return "<int that can't be shown>" if isinstance(value, int) and value.bit_length() > limit else value


class _Console:
    """Lines for a person. A field's line breaks are shown as escapes; those of tracebacks stay, indented."""

    def __init__(self, *, colors: bool) -> None:
        self._render = ConsoleRenderer(colors=colors, exception_formatter=plain_traceback, pad_event_to=0)

    def __call__(self, event: Event) -> bytes:
        shown = {printable(key): printable(value) if isinstance(value, str) else value for key, value in event.items()}
        # The renderer puts these on lines of their own, where an unindented text could pass for a line of ours.
        shown |= {key: printable_block(str(event[key]).rstrip("\n"), "    ") for key in _BLOCKS if key in event}
        return (self._render(None, "", shown) + "\n").encode("utf-8", "backslashreplace")


def _json_line(event: Event) -> bytes:
    try:
        line = to_json(event, inf_nan_mode="strings")
    except (ValueError, UnicodeError):
        # Lone surrogates, which JSON can hold only as escapes.
        line = stdlib_json.dumps(event).encode()
    if not line.isascii() or _DEL in line:
        line = json_escaped(line.decode()).encode()
    return line + b"\n"


class _Log:
    """Where the lines of all loggers end: the one logger that structlog wraps, and what ``configure`` sets."""

    def __init__(self) -> None:
        self.level = logging.INFO
        self.loggers: dict[str, int] = {}
        """The levels of stdlib loggers, by the beginning of their names; the longest come first."""
        self.named: AbstractSet[str] = frozenset()
        self.processors = processors(SECRETS, terminal=False)
        self.is_journal = False
        """Whether the lines go to systemd's journal."""
        self.stream: FileStream | TextStream | None = None
        self.on_drop: Callable[[int], object] | None = None
        self._second = (0, "")
        self._lost = 0
        self._gathered: list[bytes] = []
        self._lock = Lock()

    def write(self, line: bytes) -> None:
        """Write a line at once, behind those that were gathered."""
        if self._gathered:
            self._flush()
        self._put(line, 1)

    # structlog calls the method that is named as the level, with the finished line.
    debug = info = warning = error = critical = exception = write

    def now(self) -> str:
        """The time in UTC, to the microsecond. Kept for its second: a third of what ``datetime`` takes, 1 us a line."""
        now_s = time.time()
        whole_s, text = self._second
        if int(now_s) != whole_s:
            whole_s = int(now_s)
            text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole_s))
            self._second = (whole_s, text)
        return f"{text}.{int((now_s - whole_s) * 1_000_000):06d}Z"

    def gather(self, line: bytes) -> None:
        """Write a line with the others of this turn of the loop."""
        with self._lock:
            self._gathered.append(line)
            first = len(self._gathered) == 1
        if first:
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        with self._lock:
            lines, self._gathered = self._gathered, []
        # Pieces of PIPE_BUF bytes go whole into a pipe, so that no other writer's line tears one of ours.
        start = size = 0
        for number, line in enumerate(lines):
            if size and size + len(line) > select.PIPE_BUF:
                self._put(b"".join(lines[start:number]), number - start)
                start, size = number, 0
            size += len(line)
        if size:
            self._put(b"".join(lines[start:]), len(lines) - start)

    def _put(self, text: bytes, lines: int) -> None:
        if self.stream is None:
            return
        if not self.stream.write(text):
            self._lost += lines
            if self.on_drop is not None:
                self.on_drop(lines)
        elif self._lost:
            lost, self._lost = self._lost, 0
            event = {"event": "log lines were lost: their reader was gone or too slow", "lines": lost}
            self.stream.write(_render(None, "warning", event))


_log: Final = _Log()


class _StdlibHandler(logging.Handler):
    """Passes records of the standard library's loggers through structlog's processors."""

    def __init__(self) -> None:
        super().__init__()
        meta = ProcessorFormatter.remove_processors_meta
        self.setFormatter(
            ProcessorFormatter(processors=[add_logger_name, _add_extra, meta, merge_contextvars, _render, _decode])
        )

    def emit(self, record: logging.LogRecord) -> None:
        name = f"{record.name}."
        others = max(_log.level, logging.WARNING)
        if record.levelno < next((level for begins, level in _log.loggers.items() if name.startswith(begins)), others):
            return
        try:
            line = self.format(record)
        except Exception as error:  # noqa: BLE001  # a wrong format string, or a text that raises, must not reach its caller
            text = f"{_plain(record.msg, 0)!s:.200} ({type(error).__name__} while formatting)"
            line = self.format(logging.makeLogRecord({**record.__dict__, "msg": text, "args": ()}))
        _log.write(line.encode())


def _add_extra(_logger: object, _level: str, event: Event) -> Event:
    """Add what ``extra=`` put into the record. structlog's ``ExtraAdder`` would take a formatter's texts too."""
    extra = {name: value for name, value in event["_record"].__dict__.items() if name not in _OF_RECORDS}
    return {**extra, **event}


def _decode(_logger: object, _level: str, line: Any) -> Any:
    return line.decode()
