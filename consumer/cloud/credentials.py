"""Find the keys that sign requests: given ones, or the vendor's default chain.

The chain is searched on a thread that is kept for it, never on the event loop, one search at a time and with a
deadline. Each of its parts renews what it holds at least minutes before it expires, so what it gave is used for a
minute before it is asked again. Where that fails, the keys at hand go on being used: whether they still work, the
service itself will say.

Elsewhere: the chain's parts (``credentials_chain``), signing with the keys (``mns_signature``, ``mps_signature``),
slowing down when they are wrong (``engine.pacing``).
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Final, Protocol

from consumer.cloud.credentials_chain import Chain, Keys, NothingFoundError
from consumer.cloud.search_thread import SearchThread
from consumer.errors import CloudError, Fault

__all__ = ["CredentialsSource", "DefaultChain", "Keys", "StaticCredentials"]

_USED_FOR_S: Final = 60.0
_RETRY_S: Final = 10.0
_JUST_FOUND_S: Final = 5.0
_DENIED_AGAIN_S: Final = 600.0
_RENEWAL_WAIT_S: Final = 1.0


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

    def replace(self, keys: Keys) -> None:
        """Use others from the next request on."""
        self._keys = keys

    async def keys(self) -> Keys:
        """The keys that were given."""
        return self._keys

    async def refresh(self, *, denied: bool = False) -> None:
        """Given keys stay as they are."""


class DefaultChain:
    """The default chain of alibabacloud-credentials: environment, OIDC, files, ECS role, URI.

    May be asked from the event loops of several threads.

    Args:
        deadline_s: How long a first search may take. A renewal is waited for 1 s; meanwhile the keys at
            hand are used.
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
        self._thread = SearchThread()

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
        # Not wait_for: a search that takes too long goes on, and serves whoever asks next.
        await asyncio.wait([_end_of(search)], timeout=wait_s)
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
        with self._lock:
            if now - self._found_at < _JUST_FOUND_S or (denied and now - self._denied_at < _DENIED_AGAIN_S):
                return
            if self._refused and self._search is not None:
                # It began after these keys had been refused: what it brings is new.
                return
            if denied:
                self._denied_at = now
            self._refused = True
            self._ask_at = float("-inf")
            self._chain = Chain()
            # A search under way may still bring the old keys: the next caller begins its own.
            self._search = None

    def _begin(self) -> Future[Keys]:
        """Start a search on its thread; it has failed already where no thread can be had."""
        search: Future[Keys] = Future()
        # Nobody who waits for it can cancel it for the others.
        search.set_running_or_notify_cancel()
        chain = self._chain

        def run() -> None:
            found: Keys | Exception
            try:
                found = chain.search()
            except Exception as error:  # noqa: BLE001 - whatever the vendor's code raises is this search's end
                found = (
                    error
                    if isinstance(error, NothingFoundError)
                    else NothingFoundError(f"{type(error).__name__} in the chain")
                )
            self._take(search, found)

        try:
            self._thread.submit(run)
        except RuntimeError as error:
            self._ask_at = time.monotonic() + _RETRY_S
            search.set_exception(NothingFoundError(f"no thread could be started to search for them: {error}"))
        return search

    def _take(self, search: Future[Keys], found: Keys | Exception) -> None:
        """Runs on the searching thread."""
        if isinstance(found, Keys) and self._on_keys is not None:
            self._on_keys(found)
        now = time.monotonic()
        with self._lock:
            current = self._search is search
            if current:
                self._search = None
            if current and isinstance(found, Keys):
                self._keys, self._found_at, self._ask_at = found, now, now + _USED_FOR_S
                self._refused = False
            elif current:
                self._ask_at = now + _RETRY_S
        if isinstance(found, Keys):
            search.set_result(found)
        else:
            search.set_exception(found)


def _end_of(search: Future[Keys]) -> asyncio.Future[None]:
    """Done in the event loop that runs here as soon as the search is."""
    loop = asyncio.get_running_loop()
    end: asyncio.Future[None] = loop.create_future()

    def finish() -> None:
        if not end.done():
            end.set_result(None)

    def wake(_search: Future[Keys]) -> None:
        # The loop may have been closed meanwhile: nobody waits any more.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(finish)

    search.add_done_callback(wake)
    return end


_TO_DO: Final = (
    "give the keys in the settings, in ALIBABA_CLOUD_ACCESS_KEY_ID and ALIBABA_CLOUD_ACCESS_KEY_SECRET, or by a role"
)


def _failure(code: str, detail: str) -> CloudError:
    return CloudError(
        Fault.CREDENTIALS, operation="GetCredentials", target="the default chain", code=code, detail=detail
    )
