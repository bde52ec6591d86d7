"""Find the keys that sign requests: those of the settings, or the vendor's default chain.

The chain is searched on a thread, never on the event loop, one search at a time and with a deadline. Each of its parts
renews its keys at least minutes before they expire, so its keys are used for a minute before it is asked again. Where a
renewal fails, the current keys remain in use: the service itself will say whether they still work.

The chain is made of the vendor's public parts: its ready-made class starts a scheduler's thread on each ``refresh``,
and forgets which part failed for which reason. Loading the SDK takes 0.35 s, so the first search loads it.

The vendor's HTTP uses ``HTTP_PROXY`` for every request and ignores ``NO_PROXY``: a proxy would read the keys in the
answers of the metadata server or a server on this machine, and could replace them. So the metadata server, the
credentials URI and whatever is asked without TLS are reached directly. Calls to STS and the like use TLS and may pass a
proxy (``HTTPS_PROXY``), which sees the server's name and encrypted bytes.
"""

from __future__ import annotations

import asyncio
import logging
import re
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import Any, Final, TypeAlias
from urllib.parse import urlsplit

import anyio

from consumer.cloud.faults import cut
from consumer.errors import CloudError, Fault
from consumer.notify_url import is_loopback

THREAD: Final = "mns-consumer-credentials"
"""The name of the searching threads: the SDK's log records on them are dropped."""

_USED_FOR_S: Final = 60.0
_RETRY_S: Final = 10.0
_JUST_FOUND_S: Final = 5.0
_DENIED_AGAIN_S: Final = 600.0
_RENEWAL_WAIT_S: Final = 1.0

_SDK: Final = "alibabacloud_credentials"
_LOGGER: Final = "credentials"
# Writes each path with its query at debug level, tokens in it included.
_HTTP_LOGGER: Final = "urllib3.connectionpool"
# A part's error may quote a whole answer, keys included, or a URI with a token in its query.
_QUOTED: Final = re.compile(r"(result:|[\[{<]).*", re.DOTALL)
_QUERY: Final = re.compile(r"\?\S+")
_USER_INFO: Final = re.compile(r"//[^/\s@]+@")
_PROVIDERS: Final = f"{_SDK}.provider."
_ALWAYS_DIRECT: Final = (f"{_PROVIDERS}ecs_ram_role", f"{_PROVIDERS}uri")
"""Their servers belong to this machine or its network, whatever the scheme."""
_DEFAULT_MS: Final = 5_000
_TO_DO: Final = (
    "give the keys in the settings, in ALIBABA_CLOUD_ACCESS_KEY_ID and ALIBABA_CLOUD_ACCESS_KEY_SECRET, or by a role"
)


@dataclass(frozen=True, slots=True, repr=False)
class Keys:
    """An AccessKey, and its STS token (``""`` for a lasting key). Its repr shows neither secret nor token."""

    access_key_id: str
    access_key_secret: str
    security_token: str = ""

    def __repr__(self) -> str:
        return f"Keys({'STS' if self.security_token else 'AccessKey'}, hidden)"


class StaticCredentials:
    """Keys from the settings; the chain is never searched, its SDK never imported."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys

    def replace(self, keys: Keys) -> None:
        """Use others from the next request on."""
        self._keys = keys

    async def keys(self) -> Keys:
        """The keys of the settings."""
        return self._keys

    async def refresh(self, *, denied: bool = False) -> None:
        """Keys of the settings stay as they are."""


class DefaultChain:
    """The default chain of alibabacloud-credentials: environment, OIDC, files, ECS role, URI.

    May be asked from the event loops of several threads.

    Args:
        deadline_s: The time limit of a first search. A renewal is awaited for 1 s; meanwhile the current keys are used.
        on_keys: Called with every key that is found, on the searching thread, so that it can be masked in the logs.
    """

    def __init__(self, *, deadline_s: float = 10.0, on_keys: Callable[[Keys], None] | None = None) -> None:
        self._deadline_s = deadline_s
        self._on_keys = on_keys
        self._lock = threading.Lock()
        self._keys: Keys | None = None
        self._refused = False
        self._found_at = float("-inf")
        self._denied_at = float("-inf")
        self._ask_at = float("-inf")
        self._search: Future[Keys] | None = None
        self._chain = Chain()

    def __repr__(self) -> str:
        return "DefaultChain()"

    async def keys(self) -> Keys:
        """The chain's keys, at most about a minute old.

        Raises:
            CloudError: ``Fault.CREDENTIALS``: no part had keys, or the search took too long.
        """
        with self._lock:
            if self._keys is not None and time.monotonic() < self._ask_at:
                return self._keys
            search = self._search or self._begin()
            self._search = None if search.done() else search
            wait_s = self._deadline_s if self._keys is None or self._refused else _RENEWAL_WAIT_S
        # The search itself can't be cancelled: one that takes too long serves the next caller.
        with suppress(NothingFoundError), anyio.move_on_after(wait_s):
            return await asyncio.wrap_future(search)
        if self._keys is not None:
            return self._keys
        problem = search.exception() if search.done() else None
        if problem is None:
            raise _failure("SearchTimeout", f"no keys within {self._deadline_s:g} s; {_TO_DO}")
        raise _failure("NoCredentials", f"{problem}; {_TO_DO}")

    async def refresh(self, *, denied: bool = False) -> None:
        """Search again with new parts, unless the keys were found just now.

        Several calls may be refused for the same old keys; only the first replaces them. They remain in use when the
        search finds none: a right that one call lacks must not take the keys from all the others.

        ``denied``: the keys are valid and lack a right. Other ones may have it, but probably won't.
        """
        now = time.monotonic()
        with self._lock:
            if now - self._found_at < _JUST_FOUND_S or (denied and now - self._denied_at < _DENIED_AGAIN_S):
                return
            if self._refused and self._search is not None:
                # It began after these keys had been refused: its keys are new.
                return
            if denied:
                self._denied_at = now
            self._refused = True
            self._ask_at = float("-inf")
            self._chain = Chain()
            # A search under way may still find the old keys: the next caller begins its own.
            self._search = None

    def _begin(self) -> Future[Keys]:
        """Start a search on its thread; it has failed already where no thread can be started."""
        search: Future[Keys] = Future()
        search.set_running_or_notify_cancel()
        try:
            _threads.submit(partial(self._run, search, self._chain))
        except RuntimeError as error:
            self._ask_at = time.monotonic() + _RETRY_S
            search.set_exception(NothingFoundError(f"no thread could be started to search for them: {error}"))
        return search

    def _run(self, search: Future[Keys], chain: Chain) -> None:
        """Search, and keep the keys that were found."""
        found: Keys | NothingFoundError
        try:
            found = chain.search()
        except NothingFoundError as error:
            found = error
        except Exception as error:  # noqa: BLE001 - any exception of the vendor's code ends this search only
            found = NothingFoundError(f"{type(error).__name__} in the chain")
        if isinstance(found, Keys) and self._on_keys is not None:
            self._on_keys(found)
        now = time.monotonic()
        with self._lock:
            if self._search is search:
                self._search = None
                self._ask_at = now + _RETRY_S
                if isinstance(found, Keys):
                    self._keys, self._found_at, self._ask_at = found, now, now + _USED_FOR_S
                    self._refused = False
        if isinstance(found, Keys):
            search.set_result(found)
        else:
            search.set_exception(found)


CredentialsSource: TypeAlias = StaticCredentials | DefaultChain
"""Where the clients get their keys from, for every request."""


class NothingFoundError(Exception):
    """No part of the chain had keys; the text names each with its reason."""


class Chain:
    """The chain's parts, kept from search to search: each caches its keys and knows when they expire."""

    def __init__(self) -> None:
        self._parts: Mapping[str, Callable[[], Any]] = {}
        self._made: dict[str, Any] = {}
        self._last = ""

    def search(self) -> Keys:
        """Ask each part in turn, beginning with the one that had keys last time; blocks, so it runs on a thread."""
        self._parts = self._parts or default_parts()
        tried: list[str] = []
        for name in sorted(self._parts, key=lambda name: name != self._last):
            try:
                provider = self._made.get(name) or self._made.setdefault(name, self._parts[name]())
                found = provider.get_credentials()
                access_key_id, secret = found.get_access_key_id(), found.get_access_key_secret()
                if not access_key_id or not secret:
                    raise ValueError("gave no AccessKey")  # noqa: TRY301 - a part's failure like any other
                # The SDK of MNS breaks on None in place of a token (facts/mns.md#aliyun-mns-sdk).
                keys = Keys(access_key_id, secret, found.get_security_token() or "")
            except Exception as error:  # noqa: BLE001 - parts raise anything; the next one is asked
                tried.append(f"{name}: {_scrubbed(error)}")
                continue
            self._last = name
            return keys
        raise NothingFoundError(f"tried {'; '.join(tried)}")


def default_parts() -> Mapping[str, Callable[[], Any]]:
    """How to make each part of the vendor's default chain, in its order; its import reads the environment.

    Source: facts/mns.md#alibabacloud-credentials.
    """
    log = logging.getLogger(_LOGGER)
    level, handlers = log.level, list(log.handlers)
    try:
        from alibabacloud_credentials import provider  # noqa: PLC0415 - 0.35 s, only where it is needed
        from alibabacloud_credentials.utils import auth_util  # noqa: PLC0415 - the same
    finally:
        _silence(log, level, handlers)
    go_direct()
    parts: dict[str, Callable[[], Any]] = {"environment": provider.EnvironmentVariableCredentialsProvider}
    if auth_util.enable_oidc_credential:
        parts["OIDC"] = provider.OIDCRoleArnCredentialsProvider
    parts["aliyun CLI's configuration"] = provider.CLIProfileCredentialsProvider
    parts["credentials file"] = provider.ProfileCredentialsProvider
    if auth_util.environment_ecs_metadata_disabled.lower() != "true":
        # Without its own updates, which start a scheduler's thread: the chain asks once a minute.
        parts["ECS role"] = partial(provider.EcsRamRoleCredentialsProvider, async_update_enabled=False)
    if auth_util.environment_credentials_uri:
        parts["credentials URI"] = provider.URLCredentialsProvider
    return parts


def _silence(log: logging.Logger, level: int, handlers: Sequence[logging.Handler]) -> None:
    """Undo the SDK's import's changes to a logger of so common a name, and drop the SDK's own records.

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


def _scrubbed(error: Exception) -> str:
    text = str(getattr(error, "message", "") or error) or type(error).__name__
    return cut(_USER_INFO.sub("//...@", _QUERY.sub("?...", _QUOTED.sub("...", text))), 120)


def go_direct() -> None:
    """Give the vendor's providers, once they are imported, an HTTP call that ignores the environment's proxies."""
    for name, module in list(sys.modules.items()):
        if name.startswith(_PROVIDERS) and hasattr(module, "TeaCore"):
            module.__dict__["TeaCore"] = _direct_core(always=name in _ALWAYS_DIRECT)


def _direct_core(*, always: bool) -> type[Any]:
    from Tea.core import TeaCore  # noqa: PLC0415 - 0.3 s, only where it is needed

    class DirectCore(TeaCore):  # type: ignore[misc]  # the vendor ships no types
        """The vendor's calls, but for those that must not pass a proxy."""

        @staticmethod
        def do_action(request: Any, runtime_option: Any = None) -> Any:
            """Send one request, as the vendor's own does."""
            address = urlsplit(TeaCore.compose_url(request))
            if always or address.scheme == "http" or is_loopback(address.hostname or ""):
                return _send_direct(request, runtime_option or {})
            return TeaCore.do_action(request, runtime_option)

    return DirectCore


def _send_direct(request: Any, options: Any) -> Any:
    from requests import Session  # noqa: PLC0415 - the SDK has loaded it
    from Tea.core import TeaCore  # noqa: PLC0415 - the same
    from Tea.exceptions import RetryError  # noqa: PLC0415 - the same
    from Tea.response import TeaResponse  # noqa: PLC0415 - the same

    limits = [options.get(name) or options.get("timeout") or _DEFAULT_MS for name in ("connectTimeout", "readTimeout")]
    with Session() as session:
        session.trust_env = False
        try:
            answer = session.request(
                request.method.upper(),
                TeaCore.compose_url(request),
                headers=request.headers,
                data=request.body,
                timeout=(limits[0] / 1000, limits[1] / 1000),
            )
        except OSError as error:
            raise RetryError(str(error)) from error
    response = TeaResponse()
    response.status_code = answer.status_code
    response.status_message = answer.reason
    response.headers = {name.lower(): value for name, value in answer.headers.items()}
    response.body = answer.content
    return response


class _SearchThreads:
    """Daemon threads that search, one search at a time each, kept for the searches of all chains.

    A process may be unable to start a thread when keys are about to expire. A search that hangs must not delay the next
    one: that gets a further thread where one can be started, and waits where not.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._searches: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._unended = 0
        self._threads = 0

    def submit(self, search: Callable[[], None]) -> None:
        """Run a search soon; it must not raise.

        Raises:
            RuntimeError: There is no thread yet, and none can be started.
        """
        with self._lock:
            if self._unended >= self._threads:
                try:
                    threading.Thread(target=self._work, name=THREAD, daemon=True).start()
                    self._threads += 1
                except RuntimeError:
                    if not self._threads:
                        raise
            self._unended += 1
        self._searches.put(search)

    def _work(self) -> None:
        while True:
            self._searches.get()()
            with self._lock:
                self._unended -= 1


_threads: Final = _SearchThreads()


def _failure(code: str, detail: str) -> CloudError:
    return CloudError(
        Fault.CREDENTIALS, operation="GetCredentials", target="the default chain", code=code, detail=detail
    )
