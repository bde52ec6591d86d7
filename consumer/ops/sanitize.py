r"""Make texts fit to leave the daemon: mask known secrets, and escape what a terminal would obey or not show.

Secrets are masked in log lines, the admin server's answers and stored errors, in each spelling that a library may give
them: as they are, escaped by ``repr`` or by JSON, quoted for a URL.

Escaped are control characters (C0, DEL, C1), line and paragraph separators, lone surrogates and format characters
(Unicode category Cf): bidirectional controls show a text in another order than it has, and characters of no width make
two ids look alike. Spaces of other widths and all letters stay.
"""

from __future__ import annotations

import json
import os
import re
from collections import deque
from collections.abc import Iterable, Iterator, MutableMapping
from threading import Lock
from typing import Any, Final
from urllib.parse import quote, quote_plus

MASK: Final = "***"
MIN_LENGTH: Final = 6
"""Shorter values are not masked: to replace each "key" or "1" would make the logs unreadable."""
_KEPT_PER_SLOT: Final = 2
_NESTED: Final = frozenset({dict, list})
_VARIABLES: Final = ("ALIBABA_CLOUD_ACCESS_KEY_SECRET", "ALIBABA_CLOUD_SECURITY_TOKEN", "PGPASSWORD")
"""Other programs' variables that hold a secret."""

_FORMAT: Final = (
    "\xad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0001"
    "\U000e0020-\U000e007f"
)
_HIDDEN: Final = re.compile(f"[\x00-\x1f\x7f-\x9f{_FORMAT}]")
_HIDDEN_IN_LINE: Final = re.compile(f"[\x00-\x08\x0b-\x1f\x7f-\x9f{_FORMAT}]")
# JSON's encoders escape what lies below U+0020; a raw line break between two values is the text's own.
_HIDDEN_IN_JSON: Final = re.compile(f"[\x7f-\x9f{_FORMAT}]")
_LAST_OF_PLANE_0: Final = 0xFFFF


def printable(text: str) -> str:
    """The text on one line, with escapes as Python writes them."""
    return text if text.isprintable() else _HIDDEN.sub(_as_python, text)


def printable_block(text: str, indent: str = "  ") -> str:
    """The text with its line breaks and tabs, each line indented."""
    return "\n".join(indent + _HIDDEN_IN_LINE.sub(_as_python, line) for line in text.split("\n"))


def json_escaped(text: str) -> str:
    """A JSON text that holds the same values and none of these characters; line breaks between values stay."""
    return text if text.isprintable() else _HIDDEN_IN_JSON.sub(_as_json, text)


def json_text(value: object, *, indent: int | None = None) -> str:
    """A value as JSON that is safe to print, on one line unless ``indent`` is given."""
    return json_escaped(json.dumps(value, ensure_ascii=False, indent=indent))


def _as_python(found: re.Match[str]) -> str:
    return ascii(found[0])[1:-1]


def _as_json(found: re.Match[str]) -> str:
    code = ord(found[0])
    # json.dumps leaves DEL as it is, but writes surrogate pairs.
    return f"\\u{code:04x}" if code <= _LAST_OF_PLANE_0 else json.dumps(found[0])[1:-1]


class Secrets:
    """A set of secrets."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._fixed: set[str] = set()
        self._slots: dict[str, deque[str]] = {}
        # Each is replaced as a whole: a reader on another thread sees one state or the other.
        self._texts: tuple[str, ...] = ()
        self._numbers = False

    def protect(self, secret: str, *, slot: str | None = None) -> bool:
        """Mask a value from now on; ``False`` for one that is shorter than ``MIN_LENGTH``, which is not masked.

        A value that changes, such as an STS token, has a ``slot``: its last two values stay masked, as both may be in
        use.
        """
        if len(secret) < MIN_LENGTH:
            return False
        with self._lock:
            if slot is None:
                self._fixed.add(secret)
            else:
                kept = self._slots.setdefault(slot, deque(maxlen=_KEPT_PER_SLOT))
                if secret not in kept:
                    kept.append(secret)
            known = self._fixed.union(*self._slots.values())
            # The longest first: a short secret may be part of a long one.
            self._texts = tuple(sorted({text for value in known for text in _spellings(value)}, key=len, reverse=True))
            self._numbers = any(re.fullmatch(r"[-+.0-9e]+", value) for value in known)
        return True

    def mask(self, text: str) -> str:
        """The text with each secret in it replaced."""
        for secret in self._texts:
            if secret in text:
                text = text.replace(secret, MASK)
        return text

    def redact(self, _logger: object, _level: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        """Mask an event's fields, which must be JSON types: a processor of structlog."""
        # One search for each spelling, through all plain texts at once.
        texts = "\n".join([*event, *[value for value in event.values() if type(value) is str]])
        for secret in self._texts:
            if secret in texts:
                break
        else:
            if _NESTED.isdisjoint(map(type, event.values())) and not self._numbers:
                return event
        masked: MutableMapping[str, Any] = self._masked(event)
        return masked

    def _masked(self, value: Any) -> Any:
        """A JSON value with each secret in it masked; a number that shows one becomes a text."""
        if isinstance(value, dict):
            return {self.mask(key): self._masked(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self._masked(item) for item in value]
        if isinstance(value, str):
            return self.mask(value)
        if not self._numbers or value is None:
            return value
        text = json.dumps(value)
        masked = self.mask(text)
        return value if masked == text else masked


def _spellings(secret: str) -> Iterator[str]:
    yield secret
    # repr() escapes a quote only where both kinds are in the text around, which is not known here.
    escaped = "".join(char if char in "'\"" else repr(char)[1:-1] for char in secret)
    yield escaped
    yield escaped.replace("'", "\\'")
    yield printable(secret)
    for text in (json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1]):
        yield text
        yield json_escaped(text)
    readable = secret.encode("utf-8", "replace")
    yield quote(readable, safe="")
    yield quote(readable)
    yield quote_plus(readable)


SECRETS: Final = Secrets()
"""The one set of this process, masked in each of its log lines and admin answers."""


def protect_settings(secrets: Iterable[str]) -> None:
    """Mask the secrets of the settings (``Settings.secrets``) and those of the environment."""
    for text in (*secrets, *(os.environ.get(name, "") for name in _VARIABLES)):
        SECRETS.protect(text)
