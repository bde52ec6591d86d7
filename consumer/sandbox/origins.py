"""Which requests are answered: those that name this machine as their host and come from no web page of another origin.

A page in a browser can send requests to any port of the browser's machine. With DNS rebinding (its own name resolves to
127.0.0.1) it can read the answers too, but the Host header still has its name. Otherwise its requests carry an
``Origin`` or ``Sec-Fetch-Site`` that differs.
"""

import ipaddress
import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Final

_NAME_AND_PORT: Final = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^\[\]:/@\s]+)(?::\d{1,5})?")
_FOREIGN_SITES: Final = frozenset({"cross-site", "same-site"})
_LONGEST_SHOWN: Final = 100


class Origins:
    """The hosts and origins that are answered; ``allowed`` holds more host names, with ``*`` and ``?``."""

    def __init__(self, host: str, allowed: Iterable[str], *, scheme: str) -> None:
        self._allowed = tuple(name.lower() for name in (host, *allowed))
        self._scheme = scheme
        # Nearly every request has the same Host header.
        self._is_here = lru_cache(maxsize=1000)(self._is_local_or_allowed)

    def refusal(self, headers: Mapping[str, str]) -> str | None:
        """Why a request with these headers (names in lower case) is refused; None when it is answered."""
        host = headers.get("host", "")
        if not self._is_here(host):
            return (
                f"The sandbox does not answer to the host '{host[:_LONGEST_SHOWN]}': expected a loopback address or"
                " name. Allow it by --allow-host NAME, or in SandboxSettings.allowed_hosts."
            )
        origin = headers.get("origin")
        if origin is not None and origin.lower() != f"{self._scheme}://{host}".lower():
            return (
                f"The sandbox does not answer web pages: the request comes from the origin '{origin[:_LONGEST_SHOWN]}'."
            )
        if headers.get("sec-fetch-site") in _FOREIGN_SITES:
            return "The sandbox does not answer web pages: the request comes from another site."
        return None

    def _is_local_or_allowed(self, host: str) -> bool:
        if not host:
            # HTTP/1.0 may have none; browsers always send it.
            return True
        parts = _NAME_AND_PORT.fullmatch(host)
        if parts is None:
            return False
        name = parts[1].strip("[]").rstrip(".").lower()
        if name == "localhost" or name.endswith(".localhost"):
            return True
        if any(fnmatchcase(name, pattern) for pattern in self._allowed):
            return True
        try:
            return ipaddress.ip_address(name).is_loopback
        except ValueError:
            return False
