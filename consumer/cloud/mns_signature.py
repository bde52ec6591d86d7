"""Sign requests to MNS: by the SDK's own code, or as version 4, which the SDK doesn't have.

The SDK's client only builds the headers and signs them; it never sends anything. It gets no logger (it would print the
signature and the token) and an ``http`` endpoint whatever ours is (it would load a TLS context for a connection that is
never made); only the host enters the headers.

Source: facts/mns.md#signature-version-2, facts/mns.md#signature-version-4, facts/mns.md#aliyun-mns-sdk.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Final, Literal, TypeAlias
from urllib.parse import quote, unquote

from mns.auth import Credentials
from mns.mns_client import MNSClient
from mns.mns_http import RequestInternal
from mns.mns_request import RequestBase

from consumer.cloud.credentials import Keys

# What the SDK itself leaves as it is and every server accepts as it is. All else is escaped, a % too.
_UNTOUCHED: Final = "-._~=+/:@!$*,;"

Signature: TypeAlias = Literal["v2", "v4"]

_V4: Final = "MNS4-HMAC-SHA256"
_V4_SIGNED: Final = ("content-type", "content-md5")


def escaped(value: str) -> str:
    """A query value as it is both signed and sent; a receipt handle may hold characters that end a query."""
    return quote(value, safe=_UNTOUCHED)


@dataclass(slots=True)
class _Provider:
    """A credentials provider, as the SDK expects it, with the keys of the current request."""

    credentials: Credentials

    def get_credentials(self) -> Credentials:
        return self.credentials


class _V4Client(MNSClient):  # type: ignore[misc]  # the SDK has no types
    """The SDK's client, signing as version 4."""

    region: str

    def get_signature(self, method: str, headers: dict[str, str], resource: str, credential: Credentials) -> str:
        keys = Keys(credential.get_access_key_id(), credential.get_access_key_secret())
        return v4_authorization(keys, self.region, method, resource, headers)


class MnsSigner:
    """Builds the headers of requests to one host (with its port where that isn't the scheme's own); never connects."""

    def __init__(self, host: str, *, signature: Signature = "v2", region: str = "") -> None:
        self._keys: Keys | None = None
        self._provider = _Provider(Credentials("", "", ""))
        client = _V4Client if signature == "v4" else MNSClient
        self._client = client(f"http://{host}", credentials_provider=self._provider)
        self._client.region = region

    def headers(self, keys: Keys, method: str, resource: str, body: bytes | None) -> dict[str, str]:
        """The headers of one request, its signature included; ``resource`` is path and query exactly as sent."""
        if keys is not self._keys:
            self._keys = keys
            self._provider.credentials = Credentials(keys.access_key_id, keys.access_key_secret, keys.security_token)
        request = RequestInternal(method, resource)
        if body is not None:
            request.data = body
        self._client.build_header(RequestBase(), request)
        headers: dict[str, str] = request.header
        return headers


def v4_authorization(keys: Keys, region: str, method: str, resource: str, headers: Mapping[str, str]) -> str:
    """The ``Authorization`` header of version 4, for headers by lower-case name (``date`` as in RFC 1123)."""
    stamp = parsedate_to_datetime(headers["date"]).strftime("%Y%m%dT%H%M%SZ")
    scope = f"{stamp[:8]}/{region}/mns/aliyun_v4_request"
    key = f"aliyun_v4{keys.access_key_secret}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    text = f"{_V4}\n{stamp}\n{scope}\n{_v4_canonical(method, resource, headers)}"
    return f"{_V4} Credential={keys.access_key_id}/{scope},Signature={hmac.digest(key, text.encode(), 'sha256').hex()}"


def _v4_canonical(method: str, resource: str, headers: Mapping[str, str]) -> str:
    path, _, query = resource.partition("?")
    # Not parse_qsl: a plus is a plus. An item without a value is signed as its name alone.
    pairs = [item.partition("=") for item in query.split("&") if item]
    named = sorted((_v4_quoted(unquote(name).lower()), _v4_quoted(unquote(value))) for name, _, value in pairs)
    items = "&".join(f"{name}={value}" if value else name for name, value in named)
    signed = sorted(name for name in headers if name in _V4_SIGNED or name.startswith("x-mns-"))
    lines = "".join(f"{name}:{headers[name].strip()}\n" for name in signed)
    return f"{method}\n{quote(unquote(path), safe='/')}\n{items}\n{lines}\n"


def _v4_quoted(text: str) -> str:
    return quote(text, safe="")
