"""Sign requests to MNS, by the SDK's own code.

The SDK's client is used for nothing else: it builds the headers and signs them, and never gets to send
anything. It is given no logger (it would print the signature and the token) and an ``http`` endpoint whatever
ours is (it would load a TLS context for a connection that is never made); only the host enters the headers.

Elsewhere: sending (``pool``), the keys (``credentials``).

Source: facts/mns.md, 1 and 4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from mns.auth import Credentials
from mns.mns_client import MNSClient
from mns.mns_http import RequestInternal
from mns.mns_request import RequestBase

from consumer.cloud.credentials import Keys

# What the SDK itself leaves as it is and every server takes as it is. All else is escaped, a % too.
_UNTOUCHED: Final = "-._~=+/:@!$*,;"


def escaped(value: str) -> str:
    """A query value as it is both signed and sent; a receipt handle may hold characters that end a query."""
    return quote(value, safe=_UNTOUCHED)


@dataclass(slots=True)
class _Handed:
    """A credentials provider, as the SDK knows it, that hands on what it was given last."""

    credentials: Credentials

    def get_credentials(self) -> Credentials:
        return self.credentials


class MnsSigner:
    """Builds the headers of requests to one endpoint; makes no connection.

    Args:
        host: The endpoint's host, with its port where that isn't the scheme's own.
    """

    def __init__(self, host: str) -> None:
        self._keys: Keys | None = None
        self._handed = _Handed(Credentials("", "", ""))
        self._client = MNSClient(f"http://{host}", credentials_provider=self._handed)

    def headers(self, keys: Keys, method: str, resource: str, body: bytes | None) -> dict[str, str]:
        """The headers of one request, its signature included.

        Args:
            keys: To sign with.
            method: The HTTP method.
            resource: Path and query, byte for byte as they will be sent.
            body: The body; ``None`` for none.
        """
        if keys is not self._keys:
            self._keys = keys
            self._handed.credentials = Credentials(keys.access_key_id, keys.access_key_secret, keys.security_token)
        request = RequestInternal(method, resource)
        if body is not None:
            request.data = body
        self._client.build_header(RequestBase(), request)
        headers: dict[str, str] = request.header
        return headers
