"""Keep known secrets out of every text that leaves the daemon.

A secret is protected under each spelling in which it may turn up: as it is, escaped by ``repr`` or by JSON, quoted for
a URL. Looking costs one search of the finished line for each secret, as a rule: for the part of it that all spellings
share. Only where that is found is anything replaced.

Elsewhere: which texts are searched (``ops.logs``, ``ops.admin``), who knows the secrets (``config``, ``cloud``).
"""

from __future__ import annotations

import json
import os
import re
from collections import deque
from collections.abc import Iterable, Iterator
from threading import Lock
from typing import Final
from urllib.parse import quote, quote_plus

from consumer.ops.escape import json_escaped, printable

MASK: Final = "***"
MIN_LENGTH: Final = 6
"""Shorter values are not protected: replacing each "key" or "1" would make the logs unreadable."""
_KEPT_PER_SLOT: Final = 2
_VARIABLES: Final = ("ALIBABA_CLOUD_ACCESS_KEY_SECRET", "ALIBABA_CLOUD_SECURITY_TOKEN", "PGPASSWORD")
"""Variables of others that hold a secret."""


class Secrets:
    """A set of texts that must not be seen."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._fixed: set[str] = set()
        self._slots: dict[str, deque[str]] = {}
        # Each is replaced as a whole, so that a reader on another thread sees one state or the other.
        self._texts: tuple[str, ...] = ()
        self._patterns: tuple[bytes, ...] = ()
        self._triggers: tuple[bytes, ...] = ()

    def protect(self, secret: str, *, slot: str | None = None) -> bool:
        """Mask a value from now on.

        Args:
            secret: The value.
            slot: For values that change, such as an STS token: names the place whose newest value this is. The one
                before it stays protected too, as it may still be in use; older ones are forgotten.

        Returns:
            Whether it is protected: not when it is shorter than ``MIN_LENGTH`` characters.
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
            texts = {spelling for value in known for spelling in _spellings(value)}
            # The longest first: a short secret may be part of a long one.
            self._texts = tuple(sorted(texts, key=len, reverse=True))
            patterns = {pattern for text in texts for pattern in _rendered(text)}
            self._patterns = tuple(sorted(patterns, key=len, reverse=True))
            self._triggers = tuple({trigger for value in known for trigger in _triggers(value)})
        return True

    def seen_in(self, line: bytes) -> bool:
        """Whether a rendered line may hold a secret in any spelling; ``False`` is certain."""
        # A loop: a generator inside any() costs as much again as the two or three searches that this is.
        for trigger in self._triggers:  # noqa: SIM110  # see above
            if trigger in line:
                return True
        return False

    def mask(self, text: str) -> str:
        """The text with every secret in it replaced."""
        for secret in self._texts:
            if secret in text:
                text = text.replace(secret, MASK)
        return text

    def mask_bytes(self, line: bytes) -> bytes:
        """The rendered line with every secret in it replaced."""
        for pattern in self._patterns:
            line = line.replace(pattern, MASK.encode())
        return line


def _spellings(secret: str) -> Iterator[str]:
    yield secret
    # repr() escapes quotes only where both kinds are in the text around, which is not known here.
    escaped = "".join(char if char in "'\"" else repr(char)[1:-1] for char in secret)
    yield escaped
    yield escaped.replace("'", "\\'")
    yield printable(secret)
    yield _json(secret)
    yield _json_ascii(secret)
    readable = secret.encode("utf-8", "replace")
    yield quote(readable, safe="")
    yield quote(readable)
    yield quote_plus(readable)


def _triggers(secret: str) -> Iterator[bytes]:
    """What to look for first: plain letters and digits are the same in every spelling."""
    plain = max(re.findall(r"[A-Za-z0-9]+", secret), key=len, default="")
    if len(plain) >= MIN_LENGTH:
        yield plain.encode()
    else:
        for text in _spellings(secret):
            yield from _rendered(text)


def _rendered(text: str) -> Iterator[bytes]:
    for spelling in (text, _json(text), _json_ascii(text), json_escaped(_json(text)), json_escaped(_json_ascii(text))):
        yield spelling.encode("utf-8", "backslashreplace")


def _json(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]


def _json_ascii(text: str) -> str:
    return json.dumps(text)[1:-1]


SECRETS: Final = Secrets()
"""The one set of this process."""


def protect(secret: str, *, slot: str | None = None) -> bool:
    """Mask a value in every log line and admin answer of this process; see ``Secrets.protect``."""
    return SECRETS.protect(secret, slot=slot)


def protect_settings(secrets: Iterable[str]) -> None:
    """Mask the secrets of the settings (``Settings.secrets``) and those of the environment."""
    for text in (*secrets, *(os.environ.get(name, "") for name in _VARIABLES)):
        SECRETS.protect(text)
