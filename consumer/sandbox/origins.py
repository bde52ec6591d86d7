"""Keep web pages out: answer only requests that name this machine as their host and come from no other origin.

A page that a browser shows can send requests to any port of the machine the browser runs on. When its own name is made
to resolve to 127.0.0.1 (DNS rebinding), it can read the answers too: the Host header then still has the page's name.
Without that trick its requests have an ``Origin``, or ``Sec-Fetch-Site``, that tells them apart.
"""

import ipaddress
import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Final

_NAME_AND_PORT: Final = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^\[\]:/@\s]+)(?::\d{1,5})?")
_FOREIGN_SITES: Final = frozenset({"cross-site", "same-site"})
_MOST_REMEMBERED: Final = 1000
_LONGEST_SHOWN: Final = 100


class Origins:
    """Who is answered.

    Args:
        host: The address that the sandbox listens on.
        allowed: More names, with ``*`` and ``?``.
        scheme: ``http`` or ``https``.
    """

    def __init__(self, host: str, allowed: Iterable[str], *, scheme: str) -> None:
        self._allowed = tuple(name.lower() for name in (host, *allowed))
        self._scheme = scheme
        # Host headers that were taken as they came: nearly every request has the same one.
        self._taken: set[str] = set()

    def why_not(self, headers: Mapping[str, str]) -> str | None:
        """Say why a request is refused; None when it is answered.

        Args:
            headers: Names in lower case.
        """
        host = headers.get("host", "")
        if host not in self._taken:
            if not self._is_here(host):
                return (
                    f"The sandbox does not answer to the host '{host[:_LONGEST_SHOWN]}': expected a loopback address or"
                    " name. Allow it by --allow-host NAME, or in SandboxSettings.allowed_hosts."
                )
            if len(self._taken) < _MOST_REMEMBERED:
                self._taken.add(host)
        origin = headers.get("origin")
        if origin is not None and origin.lower() != f"{self._scheme}://{host}".lower():
            return (
                f"The sandbox does not answer web pages: the request comes from the origin '{origin[:_LONGEST_SHOWN]}'."
            )
        if headers.get("sec-fetch-site") in _FOREIGN_SITES:
            return "The sandbox does not answer web pages: the request comes from another site."
        return None

    def _is_here(self, host: str) -> bool:
        if not host:
            # HTTP/1.0 may have none; a browser always sends it.
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
