"""The kinds of settings' values: how each is read from a text, and what is refused before pydantic would accept it.

A text is what flags, variables and secret files give; a settings file gives numbers, lists and tables too.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args

from pydantic import AfterValidator, BeforeValidator

from consumer.notify_url import NotifyUrl, parse_endpoint
from consumer.store_address import StoreAddress, parse_store_address

DAY_S: Final = 86_400
_HOST_NAME: Final = re.compile(r"\.?[A-Za-z0-9_]([A-Za-z0-9_.-]{0,250}[A-Za-z0-9_])?")
_YES: Final = frozenset({"true", "yes", "on", "1"})
_NO: Final = frozenset({"false", "no", "off", "0"})
_DURATION: Final = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)\s*([smhd])", re.ASCII)
_UNITS_S: Final = {"s": 1, "m": 60, "h": 3600, "d": DAY_S}


def _refuse_switch(value: object) -> object:
    """Pydantic takes ``true`` for 1."""
    if isinstance(value, bool):
        raise ValueError(f"expected a number, got {str(value).lower()}")  # noqa: TRY004 - pydantic's own kind
    return value


def _parse_seconds(value: object) -> object:
    """Also a text such as ``30m``; numbers and other texts are pydantic's."""
    found = _DURATION.fullmatch(value.strip()) if isinstance(value, str) else None
    return _refuse_switch(value) if found is None else float(found[1]) * _UNITS_S[found[2]]


def _parse_path(value: object) -> object:
    """Pydantic takes an empty text for the current folder."""
    if not isinstance(value, str | Path) or not str(value).strip() or "\0" in str(value):
        raise ValueError("expected a path")
    return Path(value)


def _lower(value: object) -> object:
    """A level or format in lower case; another text stays as it was typed, for the error about it."""
    known = isinstance(value, str) and value.lower() in {*get_args(Level), *get_args(LogFormat)}
    return str(value).lower() if known else value


def _split(value: object) -> object:
    return tuple(part for part in re.split(r"[,\s]+", value) if part) if isinstance(value, str) else value


def _parse_json(value: object, expected: str) -> Any:
    try:
        return json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError) as error:
        why = str(error) if isinstance(error, json.JSONDecodeError) else "it is nested too deeply"
        raise ValueError(f"expected {expected}: {why}") from None


def _parse_lanes(value: object) -> object:
    return _parse_json(value, "a JSON array of objects")


def _parse_levels(value: object) -> object:
    levels = _parse_json(value, 'a JSON object such as {"myapp": "debug"}')
    return {name: _lower(level) for name, level in levels.items()} if isinstance(levels, dict) else levels


def _parse_switch_or_words(value: object) -> object:
    switch = str(value).strip().lower()
    if switch in {*_YES, *_NO}:
        return switch in _YES
    words = _split(value)
    if not isinstance(words, list | tuple) or not all(isinstance(word, str) for word in words):
        raise ValueError("expected true, false or a list of distributions")
    return words


def parse_store(value: object) -> StoreAddress | None:
    """A store's address; no value means the default one."""
    if value is None or isinstance(value, StoreAddress):
        return value
    if not isinstance(value, str | Path):
        raise ValueError(f"expected a text, got one of another kind ({type(value).__name__})")  # noqa: TRY004 - as above
    return parse_store_address(str(value))


def _check_notify_url(value: str) -> str:
    NotifyUrl.parse(value)
    return value


def _check_notify_urls(value: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(_check_notify_url(text) for text in value)


def _check_host_names(value: tuple[str, ...]) -> tuple[str, ...]:
    if wrong := [name for name in value if not _HOST_NAME.fullmatch(name)]:
        raise ValueError(f"expected names without scheme and port, such as films or .example.com, got {wrong[0]!r}")
    return value


FROM_TEXT: Final = BeforeValidator(_parse_seconds)
"""For seconds: a number, or a text such as ``30m``."""
NO_SWITCH: Final = BeforeValidator(_refuse_switch)
Number = Annotated[int, NO_SWITCH]
FilePath = Annotated[Path, BeforeValidator(_parse_path)]
Endpoint = Annotated[str, AfterValidator(parse_endpoint)]
QueueUrl = Annotated[str, AfterValidator(_check_notify_url)]
QUEUE_URLS: Final = AfterValidator(_check_notify_urls)
HOST_NAMES: Final = AfterValidator(_check_host_names)
WORDS: Final = BeforeValidator(_split)
SWITCH_OR_WORDS: Final = BeforeValidator(_parse_switch_or_words)
LANES: Final = BeforeValidator(_parse_lanes)
LEVELS: Final = BeforeValidator(_parse_levels)
Level = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["auto", "json", "console"]
LOWER: Final = BeforeValidator(_lower)
