"""Render one log line from any fields at all.

The common case, plain values of common length, is a scan over the fields and one call into the JSON encoder. All else
- objects, lone surrogates, endless texts, values whose ``repr`` raises - leaves that path and still gives one line.

Elsewhere: who logs and where lines go (``ops.logs``).
"""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable, Mapping, MutableMapping
from datetime import date
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from types import NoneType, TracebackType
from typing import Any, Final, TypeAlias
from uuid import UUID

from pydantic_core import to_json
from structlog.dev import ConsoleRenderer, plain_traceback

from consumer.ops.escape import json_line_escaped, printable, printable_block
from consumer.ops.redact import Secrets

TEXT_LIMIT: Final = 4_000
"""Characters of one field; what is longer is cut in its middle."""
EXCEPTION_LIMIT: Final = 12_000
"""Characters of one traceback. Its end says the most."""
LINE_LIMIT_BYTES: Final = 65_536
"""Above this every field is cut down to its beginning and end."""
_SHRUNK_LIMIT: Final = 500
_ITEMS_LIMIT: Final = 50
_DEPTH_LIMIT: Final = 3
_PLAIN: Final = frozenset({str, int, float, bool, NoneType})
_BLOCKS: Final = ("exception", "stack")
_SHOWN_AS_TEXT: Final = (PurePath, UUID, Decimal, date)

_ExcInfo: TypeAlias = (
    BaseException | tuple[type[BaseException] | None, BaseException | None, TracebackType | None] | bool | None
)


class LineRenderer:
    """Makes lines.

    Args:
        secrets: What must not be in them.
        terminal: For a person rather than a program.
        colors: With colours, on a terminal.
    """

    def __init__(self, secrets: Secrets, *, terminal: bool, colors: bool = False) -> None:
        self._secrets = secrets
        self._encode: Callable[[dict[str, Any]], bytes] = _Terminal(colors=colors) if terminal else _json_line
        self._second: tuple[int, str] = (0, "")

    def render(self, level: str, fields: MutableMapping[str, Any]) -> bytes:
        """One line, its line end included.

        Args:
            level: The level's name.
            fields: ``event`` and whatever else; ``exc_info`` becomes ``exception``, a text. Used up.

        Returns:
            UTF-8 without a known secret and without a character that steers what shows it. JSON: valid, on one line,
            ``timestamp``, ``level``, ``event`` first.
        """
        line: dict[str, Any] = {"timestamp": self._now(), "level": level, "event": fields.pop("event", "")}
        try:
            exc_info = fields.pop("exc_info", None)
            line.update(fields)
            if exc_info:
                line["exception"] = self._cut(_traceback(exc_info), EXCEPTION_LIMIT, head=EXCEPTION_LIMIT // 4)
            for key, value in line.items():
                kind = type(value)
                if kind is str:
                    if len(value) > TEXT_LIMIT and key != "exception":
                        line[key] = self._cut(value)
                elif kind not in _PLAIN:
                    line[key] = self._plain(value, _DEPTH_LIMIT)
            rendered = self._encode(line)
            if len(rendered) > LINE_LIMIT_BYTES:
                line = self._shrunk(line)
                rendered = self._encode(line)
            if self._secrets.seen_in(rendered):
                rendered = self._encode(self._masked(line))
        except Exception as error:  # noqa: BLE001  # a line that can't be made must not fail the work that it tells of
            event = self._cut(_shown(line["event"], str))
            rendered = _json_line(
                {"timestamp": line["timestamp"], "level": level, "event": event, "unrenderable": type(error).__name__}
            )
        return self._secrets.mask_bytes(rendered) if self._secrets.seen_in(rendered) else rendered

    def _now(self) -> str:
        now_s = time.time()
        whole_s, text = self._second
        if int(now_s) != whole_s:
            whole_s = int(now_s)
            text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole_s))
            self._second = (whole_s, text)
        return f"{text}.{int((now_s - whole_s) * 1_000_000):06d}Z"

    def _cut(self, text: str, limit: int = TEXT_LIMIT, *, head: int | None = None) -> str:
        if len(text) <= limit:
            return text
        # Before cutting: half a secret would not be found afterwards.
        text = self._secrets.mask(text)
        head = limit // 2 if head is None else head
        return f"{text[:head]} ... {len(text) - limit} characters left out ... {text[head - limit :]}"

    def _plain(self, value: object, depth: int) -> object:
        """The value as JSON knows it, bounded in size."""
        if type(value) in _PLAIN:
            return self._cut(value) if isinstance(value, str) else value
        if isinstance(value, Enum):
            return self._plain(value.value, depth)
        if isinstance(value, str):
            return self._cut(str.__str__(value))
        if isinstance(value, Mapping) and depth:
            items = list(value.items())[:_ITEMS_LIMIT]
            return {self._cut(_shown(key, str)): self._plain(item, depth - 1) for key, item in items}
        if isinstance(value, (list, tuple, set, frozenset)) and depth:
            return [self._plain(item, depth - 1) for item in list(value)[:_ITEMS_LIMIT]]
        if isinstance(value, BaseException):
            return self._cut(f"{type(value).__name__}: {_shown(value, str)}")
        return self._cut(_shown(value, str if isinstance(value, _SHOWN_AS_TEXT) else repr))

    def _shrunk(self, line: dict[str, Any]) -> dict[str, Any]:
        fields = list(line.items())[:_ITEMS_LIMIT]
        return {self._cut(key, 100): self._cut(_shown(value, str), _SHRUNK_LIMIT) for key, value in fields}

    def _masked(self, value: Any) -> Any:
        """A plain value with every secret in it masked; a number that shows one becomes a text."""
        if isinstance(value, dict):
            return {self._secrets.mask(key): self._masked(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self._masked(item) for item in value]
        text = str(value)
        masked = self._secrets.mask(text)
        return value if masked == text else masked


class _Terminal:
    """Lines for a person. A field's line breaks are shown as escapes; those of tracebacks stay, indented."""

    def __init__(self, *, colors: bool) -> None:
        self._render = ConsoleRenderer(colors=colors, exception_formatter=plain_traceback, pad_event_to=0)

    def __call__(self, line: Mapping[str, Any]) -> bytes:
        shown = {printable(key): printable(value) if isinstance(value, str) else value for key, value in line.items()}
        # The renderer puts these two on lines of their own, where an unindented text could pass for a line of ours.
        shown |= {key: printable_block(str(line[key]).rstrip("\n"), "    ") for key in _BLOCKS if key in line}
        return (self._render(None, "", shown) + "\n").encode("utf-8", "backslashreplace")


def _json_line(line: dict[str, Any]) -> bytes:
    try:
        rendered = to_json(line, inf_nan_mode="strings") + b"\n"
    except (ValueError, UnicodeError):
        # Lone surrogates, which JSON can write only as escapes.
        rendered = json.dumps(line).encode() + b"\n"
    return json_line_escaped(rendered)


def _traceback(exc_info: _ExcInfo) -> str:
    if isinstance(exc_info, BaseException):
        return "".join(traceback.format_exception(exc_info))
    if isinstance(exc_info, tuple):
        return "".join(traceback.format_exception(*exc_info))
    return traceback.format_exc()


def _shown(value: object, how: Callable[[object], str] = repr) -> str:
    try:
        return how(value)
    except Exception:  # noqa: BLE001  # a value that can't show itself, of whatever making
        return f"<{type(value).__name__} that can't be shown>"
