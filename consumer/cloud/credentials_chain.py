"""The vendor's default chain: its parts in its order, asked one after the other.

Put together here from the vendor's public parts: the ready-made class starts a scheduler's thread on each ``refresh``,
and forgets which part said what. Everything here blocks (parts read files, run programs and ask servers), so it runs
on a thread; loading the SDK is 0.35 s, so it is loaded by the first search.

Elsewhere: when to search and how long to wait (``credentials``).
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from consumer.cloud.direct_http import go_direct
from consumer.cloud.wording import cut

THREAD: Final = "mns-consumer-credentials"
"""The name of the threads that search: what the SDK logs on them is dropped."""
_SDK: Final = "alibabacloud_credentials"
_LOGGER: Final = "credentials"
# Writes each path with its query at debug level, tokens in it included.
_HTTP_LOGGER: Final = "urllib3.connectionpool"
# What a part says may quote a whole answer, keys included, or a URI with a token in its query.
_QUOTED: Final = re.compile(r"(result:|[\[{<]).*", re.DOTALL)
_QUERY: Final = re.compile(r"\?\S+")
_USER_INFO: Final = re.compile(r"//[^/\s@]+@")


@dataclass(frozen=True, slots=True, repr=False)
class Keys:
    """An AccessKey, and the STS token where there is one. Its repr shows neither secret nor token.

    Args:
        access_key_id: The AccessKey's id.
        access_key_secret: Its secret.
        security_token: The STS token; ``""`` for a lasting key.
    """

    access_key_id: str
    access_key_secret: str
    security_token: str = ""

    def __repr__(self) -> str:
        return f"Keys({'STS' if self.security_token else 'AccessKey'}, hidden)"


@dataclass(slots=True)
class Part:
    """One part of the chain: its name, and how to make it."""

    name: str
    make: Callable[[], Any]


class NothingFoundError(Exception):
    """No part of the chain had keys; the text names each with its reason."""


class Chain:
    """The chain's parts, kept from search to search: each caches its keys and knows when they expire."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._parts: Sequence[Part] | None = None
        self._made: dict[str, Any] = {}
        self._last: str | None = None

    def search(self) -> Keys:
        """Ask each part in turn, beginning with the one that had keys last time; runs on a thread."""
        with self._lock:
            if self._parts is None:
                self._parts = default_parts()
            tried: list[str] = []
            for part in sorted(self._parts, key=lambda part: part.name != self._last):
                try:
                    provider = self._made.get(part.name) or self._made.setdefault(part.name, part.make())
                    keys = _keys_of(provider.get_credentials())
                except Exception as error:  # noqa: BLE001 - each part raises what it likes; the next one is asked
                    tried.append(f"{part.name}: {_scrubbed(error)}")
                    continue
                self._last = part.name
                return keys
            raise NothingFoundError(f"tried {'; '.join(tried)}")


def _keys_of(found: Any) -> Keys:
    access_key_id, secret = found.get_access_key_id(), found.get_access_key_secret()
    if not access_key_id or not secret:
        raise ValueError("gave no AccessKey")
    # The SDK of MNS breaks on None where a token is missing (facts/mns.md#aliyun-mns-sdk).
    return Keys(access_key_id, secret, found.get_security_token() or "")


def _scrubbed(error: Exception) -> str:
    text = str(getattr(error, "message", "") or error) or type(error).__name__
    return cut(_USER_INFO.sub("//...@", _QUERY.sub("?...", _QUOTED.sub("...", text))), 120)


def default_parts() -> Sequence[Part]:
    """The parts of the vendor's default chain in its order; reads the environment, as its import does."""
    log = logging.getLogger(_LOGGER)
    level, handlers = log.level, list(log.handlers)
    try:
        from alibabacloud_credentials import provider  # noqa: PLC0415 - 0.35 s, only for who needs it
        from alibabacloud_credentials.utils import auth_util  # noqa: PLC0415 - the same
    finally:
        _silence(log, level, handlers)
    go_direct()
    parts = [Part("environment", provider.EnvironmentVariableCredentialsProvider)]
    if auth_util.enable_oidc_credential:
        parts.append(Part("OIDC", provider.OIDCRoleArnCredentialsProvider))
    parts.append(Part("aliyun CLI's configuration", provider.CLIProfileCredentialsProvider))
    parts.append(Part("credentials file", provider.ProfileCredentialsProvider))
    if auth_util.environment_ecs_metadata_disabled.lower() != "true":
        # Without its own updates, which start a scheduler's thread: we ask once a minute anyhow.
        parts.append(Part("ECS role", lambda: provider.EcsRamRoleCredentialsProvider(async_update_enabled=False)))
    if auth_util.environment_credentials_uri:
        parts.append(Part("credentials URI", provider.URLCredentialsProvider))
    return parts


def _silence(log: logging.Logger, level: int, handlers: Sequence[logging.Handler]) -> None:
    """Undo what the SDK's import does to a logger of so common a name, and drop the SDK's own records.

    It writes to stderr, and it logs errors whole, which may quote an answer with its keys.
    """
    for handler in log.handlers[:]:
        if handler not in handlers:
            log.removeHandler(handler)
    log.setLevel(level)
    # A filter that is there already is not added a second time.
    log.addFilter(_not_the_sdk)
    logging.getLogger(_HTTP_LOGGER).addFilter(_not_our_search)


def _not_our_search(record: logging.LogRecord) -> bool:
    return record.threadName != THREAD


def _not_the_sdk(record: logging.LogRecord) -> bool:
    return _SDK not in record.pathname
