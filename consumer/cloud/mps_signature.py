"""Sign requests to MPS, by the SDK's own code (ACS3-HMAC-SHA256).

The SDK's signer is imported on a thread at the first call: its module brings requests and cryptography along,
about 0.15 s beyond what the daemon has loaded, which a daemon that starts need not wait for.

Elsewhere: sending (``pool``), the keys (``credentials``).

Source: facts/iproduction.md#api-signature.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from consumer.cloud.credentials import Keys

_ALGORITHM: Final = "ACS3-HMAC-SHA256"
_VERSION: Final = "2014-06-18"
_EMPTY_SHA256: Final = hashlib.sha256().hexdigest()


@dataclass(slots=True)
class _Request:
    """What the SDK's signer looks at."""

    method: str
    pathname: str
    query: Mapping[str, str]
    headers: Mapping[str, str]


class MpsSigner:
    """Builds query and headers of calls to one endpoint.

    Args:
        host: The endpoint's host, with its port where that isn't the scheme's own.
    """

    def __init__(self, host: str) -> None:
        self._host = host
        self._sdk: Any = None

    async def load(self) -> None:
        """Import the SDK's signer, off the event loop; does nothing the second time."""
        if self._sdk is None:
            try:
                self._sdk = await asyncio.to_thread(_sdk_signer)
            except RuntimeError:
                # No thread can be had: a quarter of a second on the event loop is better than no result.
                self._sdk = _sdk_signer()

    def signed(self, keys: Keys, action: str, query: Mapping[str, str]) -> tuple[str, dict[str, str]]:
        """The resource and the headers of one call; ``load`` must have ended.

        Args:
            keys: To sign with.
            action: The API's name of the call.
            query: Its parameters.

        Returns:
            Path and query as they are to be sent, and all headers.
        """
        headers = {
            "host": self._host,
            "accept": "application/json",
            "x-acs-action": action,
            "x-acs-version": _VERSION,
            "x-acs-date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "x-acs-signature-nonce": secrets.token_hex(16),
            "x-acs-content-sha256": _EMPTY_SHA256,
        }
        if keys.security_token:
            headers["x-acs-accesskey-id"] = keys.access_key_id
            headers["x-acs-security-token"] = keys.security_token
        request = _Request("POST", "/", query, headers)
        headers["Authorization"] = self._sdk.get_authorization(
            request, _ALGORITHM, _EMPTY_SHA256, keys.access_key_id, keys.access_key_secret
        )
        # The very text that was signed: sorted, and escaped as the signature wants it.
        return "/?" + "&".join(f"{name}={quote(query[name], safe='~')}" for name in sorted(query)), headers


def _sdk_signer() -> Any:
    from alibabacloud_tea_openapi.utils import Utils  # noqa: PLC0415 - slow, see the module's docstring

    return Utils
