"""Find the keys that sign requests: given ones, or the vendor's default chain.

The chain's parts read files, run programs and ask servers, all of them blocking; they run on a thread of
their own, never on the event loop, one search at a time and with a deadline. Each part renews what it
holds at least minutes before it expires, so what it gave is used for a minute before it is asked again. Where
that fails, the keys at hand go on being used: whether they still work, the service itself will say.

The chain is the vendor's default one, in its order, but put together here from its public parts: the
ready-made class starts a scheduler's thread on each ``refresh``, and forgets which part said what.

Elsewhere: signing with the keys (``mns_signature``, ``mps_signature``), slowing down when they are wrong
(``engine.pacing``).
"""

from __future__ import annotations

import asyncio
import logging
import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from consumer.cloud.wording import cut
from consumer.errors import CloudError, Fault

_USED_FOR_S: Final = 60.0
_RETRY_S: Final = 10.0
_JUST_FOUND_S: Final = 5.0
_DENIED_AGAIN_S: Final = 600.0
_RENEWAL_WAIT_S: Final = 1.0
_SDK: Final = "alibabacloud_credentials"
_LOGGER: Final = "credentials"
# Writes each path with its query at debug level, tokens in it included.
_HTTP_LOGGER: Final = "urllib3.connectionpool"
_THREAD: Final = "mns-consumer-credentials"
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


class CredentialsSource(Protocol):
    """Where the clients get their keys from, for every request."""

    async def keys(self) -> Keys:
        """The keys to use now.

        Raises:
            CloudError: ``Fault.CREDENTIALS``: none were found; says in one line what was tried.
        """

    async def refresh(self, *, denied: bool = False) -> None:
        """Look for other keys, since the service refused these.

        Args:
            denied: It knows the keys and says that they lack a right: other ones may have it, but probably won't.
        """


class StaticCredentials:
    """Keys that were given in the settings; the chain is never walked, its SDK never imported."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys

    async def keys(self) -> Keys:
        """The keys that were given."""
        return self._keys

    async def refresh(self, *, denied: bool = False) -> None:
        """Given keys stay as they are."""


@dataclass(slots=True)
class _Part:
    """One part of the chain: its name, and how to make it."""

    name: str
    make: Callable[[], Any]


class DefaultChain:
    """The default chain of alibabacloud-credentials: environment, OIDC, files, ECS role, URI.

    Args:
        deadline_s: How long a first search may take. A renewal is waited for 1 s; meanwhile the keys at
            hand are used.
        on_keys: Told of every key that is found, so that it can be masked in the logs.
    """

    def __init__(self, *, deadline_s: float = 10.0, on_keys: Callable[[Keys], None] | None = None) -> None:
        self._deadline_s = deadline_s
        self._on_keys = on_keys
        self._keys: Keys | None = None
        self._refused = False
        self._found_at = float("-inf")
        self._denied_at = float("-inf")
        self._ask_at = float("-inf")
        self._search: asyncio.Future[Keys] | None = None
        self._chain = _Chain()

    def __repr__(self) -> str:
        return "DefaultChain()"

    async def keys(self) -> Keys:
        """The chain's keys, at most about a minute old.

        Raises:
            CloudError: ``Fault.CREDENTIALS``: no part had keys, or the search took too long.
        """
        if self._keys is not None and time.monotonic() < self._ask_at:
            return self._keys
        search = self._search
        if search is None:
            search = self._search = self._begin()
        wait_s = self._deadline_s if self._keys is None or self._refused else _RENEWAL_WAIT_S
        # Not wait_for: a search that takes too long goes on, and serves whoever asks next.
        await asyncio.wait([search], timeout=wait_s)
        if search.done() and not search.exception():
            return search.result()
        if self._keys is not None:
            return self._keys
        if not search.done():
            raise _failure("SearchTimeout", f"no keys within {self._deadline_s:g} s; {_TO_DO}")
        raise _failure("NoCredentials", f"{search.exception()}; {_TO_DO}")

    async def refresh(self, *, denied: bool = False) -> None:
        """Search anew, and forget what the chain's parts hold, unless the keys were found just now.

        Several calls may be refused for the same old keys; only the first may have them replaced. They stay in use
        when the search finds none: a right that one call lacks must not take the keys from all the others.
        """
        now = time.monotonic()
        if now - self._found_at < _JUST_FOUND_S or (denied and now - self._denied_at < _DENIED_AGAIN_S):
            return
        if self._refused and self._search is not None:
            # It began after these keys had been refused: what it brings is new.
            return
        if denied:
            self._denied_at = now
        self._refused = True
        self._ask_at = float("-inf")
        self._chain = _Chain()
        # A search under way may still bring the old keys: the next caller begins its own.
        self._search = None

    def _begin(self) -> asyncio.Future[Keys]:
        """Start a search on a thread that can't hold the process back, and hand its end to the loop."""
        loop = asyncio.get_running_loop()
        search: asyncio.Future[Keys] = loop.create_future()
        chain = self._chain

        def finish(found: Keys | Exception) -> None:
            self._take(search, found)

        def run() -> None:
            found: Keys | Exception
            try:
                found = chain.search()
            except Exception as error:  # noqa: BLE001 - whatever the vendor's code raises is this search's end
                found = (
                    error
                    if isinstance(error, _NothingFoundError)
                    else _NothingFoundError(f"{type(error).__name__} in the chain")
                )
            try:
                loop.call_soon_threadsafe(finish, found)
            except RuntimeError:
                # The loop was closed meanwhile: nobody waits any more.
                return

        threading.Thread(target=run, name=_THREAD, daemon=True).start()
        return search

    def _take(self, search: asyncio.Future[Keys], found: Keys | Exception) -> None:
        current = self._search is search
        if current:
            self._search = None
        now = time.monotonic()
        if isinstance(found, Keys):
            if self._on_keys is not None:
                self._on_keys(found)
            if current:
                self._keys, self._found_at, self._ask_at = found, now, now + _USED_FOR_S
                self._refused = False
            search.set_result(found)
        else:
            if current:
                self._ask_at = now + _RETRY_S
            search.set_exception(found)
            # Marks it as seen: when everybody who waited was cancelled, nobody else looks.
            search.exception()


_TO_DO: Final = (
    "give the keys in the settings, in ALIBABA_CLOUD_ACCESS_KEY_ID and ALIBABA_CLOUD_ACCESS_KEY_SECRET, or by a role"
)


def _failure(code: str, detail: str) -> CloudError:
    return CloudError(
        Fault.CREDENTIALS, operation="GetCredentials", target="the default chain", code=code, detail=detail
    )


class _NothingFoundError(Exception):
    """No part of the chain had keys; the text names each with its reason."""


class _Chain:
    """The chain's parts, kept from search to search: each caches its keys and knows when they expire."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._parts: Sequence[_Part] | None = None
        self._made: dict[str, Any] = {}
        self._last: str | None = None

    def search(self) -> Keys:
        """Ask each part in turn, beginning with the one that had keys last time; runs on a thread."""
        with self._lock:
            if self._parts is None:
                self._parts = _default_parts()
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
            raise _NothingFoundError(f"tried {'; '.join(tried)}")


def _keys_of(found: Any) -> Keys:
    access_key_id, secret = found.get_access_key_id(), found.get_access_key_secret()
    if not access_key_id or not secret:
        raise ValueError("gave no AccessKey")
    # The SDK of MNS breaks on None where a token is missing (facts: mns, 4).
    return Keys(access_key_id, secret, found.get_security_token() or "")


def _scrubbed(error: Exception) -> str:
    text = str(getattr(error, "message", "") or error) or type(error).__name__
    return cut(_USER_INFO.sub("//...@", _QUERY.sub("?...", _QUOTED.sub("...", text))), 120)


def _default_parts() -> Sequence[_Part]:
    """The parts of the vendor's default chain in its order; reads the environment, as its import does."""
    log = logging.getLogger(_LOGGER)
    level, handlers = log.level, list(log.handlers)
    try:
        from alibabacloud_credentials import provider  # noqa: PLC0415 - 0.35 s, only for who needs it
        from alibabacloud_credentials.utils import auth_util  # noqa: PLC0415 - the same
    finally:
        _silence(log, level, handlers)
    parts = [_Part("environment", provider.EnvironmentVariableCredentialsProvider)]
    if auth_util.enable_oidc_credential:
        parts.append(_Part("OIDC", provider.OIDCRoleArnCredentialsProvider))
    parts.append(_Part("aliyun CLI's configuration", provider.CLIProfileCredentialsProvider))
    parts.append(_Part("credentials file", provider.ProfileCredentialsProvider))
    if auth_util.environment_ecs_metadata_disabled.lower() != "true":
        # Without its own updates, which start a scheduler's thread: we ask once a minute anyhow.
        parts.append(_Part("ECS role", lambda: provider.EcsRamRoleCredentialsProvider(async_update_enabled=False)))
    if auth_util.environment_credentials_uri:
        parts.append(_Part("credentials URI", provider.URLCredentialsProvider))
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
    return record.threadName != _THREAD


def _not_the_sdk(record: logging.LogRecord) -> bool:
    return _SDK not in record.pathname
