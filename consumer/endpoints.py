"""What an endpoint in the settings may look like, and whether requests to it are encrypted."""

from __future__ import annotations

import ipaddress
import re
from typing import Final
from urllib.parse import urlsplit

from consumer.secret_settings import masked

_SHAPE: Final = re.compile(r"https?://(\[[0-9a-fA-F:]+\]|[^/\s:@?#\[\]]+)(:\d{1,5})?/?")
_MAX_PORT: Final = 65_535


def checked_endpoint(value: str | None) -> str | None:
    """The endpoint without a final slash.

    Raises:
        ValueError: It is no ``http(s)://HOST[:PORT]``.
    """
    found = None if value is None else _SHAPE.fullmatch(value)
    if value is not None and (found is None or not 0 < int((found[2] or ":1")[1:]) <= _MAX_PORT):
        raise ValueError("expected http://HOST:PORT or https://HOST[:PORT] without a path")
    return None if value is None else value.rstrip("/")


def exposure(setting: str, endpoint: str | None) -> str | None:
    """The problem of an endpoint whose requests would leave this machine unencrypted; ``None`` for any other."""
    if endpoint is None or not endpoint.startswith("http://") or is_loopback(urlsplit(endpoint).hostname or ""):
        return None
    return (
        f"{setting}: expected https://, got {masked(endpoint)}, by which messages and tokens would cross the network "
        "unencrypted; set allow_insecure_endpoint = true if that is what you want"
    )


def is_loopback(host: str) -> bool:
    """Whether a host is this machine: ``localhost``, 127.0.0.0/8 or ``::1``."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
